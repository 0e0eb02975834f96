"""Files that grow by a line of JSON at a time and can be taken back to a mark."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .._files import named, open_no_link, sync, write_file
from .._untrusted import MOST_JSON, open_file, parse_object

MOST_BYTES = 1 << 30  # of a journal


class Mark(NamedTuple):
    """What a journal was at some time: its length in bytes and their SHA-256."""

    size: int
    sha256: str


EMPTY = Mark(0, hashlib.sha256().hexdigest())


class Journal:
    """A file of JSON lines, each there for others to read as soon as it is added.

    A number that JSON does not have (the loss of a run that diverged) becomes null.
    A line has at most `MOST_JSON` bytes, for its writer as for its readers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = Journal(Path(folder, "metrics.jsonl"))
    ...     journal.append({"step": 1, "loss": 0.5})
    ...     mark = journal.mark()
    ...     journal.append({"step": 2, "loss": float("nan")})
    ...     print(read_lines(journal.path))
    ...     journal.rewind(mark)
    ...     print(read_lines(journal.path))
    [{'step': 1, 'loss': 0.5}, {'step': 2, 'loss': None}]
    [{'step': 1, 'loss': 0.5}]
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, values: dict[str, Any]) -> None:
        """Add a line.

        Args:
            values: Names to JSON values.

        Raises:
            OSError: If it cannot be written, with the file's name.
            ValueError: If it would be too long to be read again; nothing is written.
        """
        line = json.dumps(_finite(values), allow_nan=False).encode() + b"\n"
        if len(line) > MOST_JSON:
            raise ValueError(
                f"{self.path}: a line of {len(line)} bytes; allowed: at most "
                f"{MOST_JSON}"
            )
        try:
            with open(self.path, "ab", opener=open_no_link) as file:
                file.write(line)
        except OSError as error:
            raise named(error, self.path) from error

    def mark(self) -> Mark:
        """What the file is now; not even a power cut takes it behind that."""
        if not self.path.exists():
            return EMPTY
        with open(self.path, "rb") as file:
            sync(file.fileno())
            content = file.read()
        return Mark(len(content), hashlib.sha256(content).hexdigest())

    def reaches(self, mark: Mark) -> bool:
        """Whether the file still begins with what it was at `mark`."""
        content = self._begin(mark)
        return (len(content), hashlib.sha256(content).hexdigest()) == mark

    def rewind(self, mark: Mark) -> None:
        """Take the file back to what it was at `mark`."""
        if self.path.exists():
            write_file(self.path, self._begin(mark))

    def _begin(self, mark: Mark) -> bytes:
        if not mark.size or not self.path.exists():
            return b""
        with open_file(self.path, MOST_BYTES) as file:
            return file.read(min(mark.size, os.fstat(file.fileno()).st_size))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal, oldest first, but for one that was cut while written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no JSON object, with its number, or the file is larger
            than `MOST_BYTES`.
    """
    return [values for _, values in iterate_lines(path)]


def iterate_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines that `read_lines` gives, one by one, each with its bytes."""
    with open_file(path, MOST_BYTES) as file:
        number = 0
        while line := file.readline(MOST_JSON + 1):
            number += 1
            if len(line) > MOST_JSON:
                raise ValueError(f"{path}, line {number}: too long")
            if not line.endswith(b"\n"):
                return
            yield line, parse_object(line, f"{path}, line {number}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
