"""Files that grow by a line of JSON at a time and can be taken back."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._files import named, open_no_link, unused, write_file
from ..._untrusted import MOST_JSON, open_file, parse_object

MOST_BYTES = 1 << 30  # of a journal


class Journal:
    """A file of JSON lines, each there for others to read as soon as it is added.

    A number that JSON does not have (the loss of a run that diverged) becomes null.
    A line has at most `MOST_JSON` bytes, for its writer as for its readers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = Journal(Path(folder, "metrics.jsonl"))
    ...     journal.append({"step": 1, "loss": 0.5})
    ...     before = journal.content()
    ...     journal.append({"step": 2, "loss": float("nan")})
    ...     print(read_lines(journal.path))
    ...     journal.restore(before)
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

    def content(self) -> bytes:
        """All of the file; nothing if it is missing."""
        return self._begin(MOST_BYTES)

    def restore(self, content: bytes) -> None:
        """Make the file what `content` has returned, whatever has become of it.

        What was added since goes, and what was cut off comes back. A file that somebody
        has edited is kept beside it, under a name that ends in ".edited".
        """
        now = self._begin(len(content) + 1)
        if now == content:
            return
        if not (now.startswith(content) or content.startswith(now)):
            aside = unused(self.path.with_name(f"{self.path.name}.edited"))
            self.path.rename(aside)
            print(
                f"{self.path} was edited; it is now {aside.name}, and the lines are "
                "again those that the run wrote",
                file=sys.stderr,
            )
        write_file(self.path, content)

    def _begin(self, most: int) -> bytes:
        if not self.path.exists():
            return b""
        with open_file(self.path, MOST_BYTES) as file:
            return file.read(most)


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
