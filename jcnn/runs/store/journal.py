"""Files of JSON lines that can be restored to an earlier content."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._files import (
    MOST_JSON,
    named,
    open_file,
    open_no_link,
    parse_object,
    unused,
    write_file,
)

_MOST_BYTES = 1 << 30  # of a journal


class Journal:
    """A file of JSON lines; NaN and infinities become null.

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
        """Append a line; ValueError if it is too long to be read again."""
        line = json.dumps(_finite(values), allow_nan=False).encode() + b"\n"
        if len(line) > MOST_JSON:
            raise ValueError(
                f"{self.path}: a line must have at most {MOST_JSON} bytes, got "
                f"{len(line)}"
            )
        try:
            with open(self.path, "ab", opener=open_no_link) as file:
                file.write(line)
        except OSError as error:
            raise named(error, self.path) from error

    def content(self, most: int = _MOST_BYTES) -> bytes:
        """Return at most `most` bytes of the file; none if it is missing."""
        try:
            with open_file(self.path, _MOST_BYTES) as file:
                return file.read(most)
        except FileNotFoundError:
            return b""

    def restore(self, content: bytes) -> None:
        """Restore an earlier `content`; an edited file is kept as "….edited"."""
        now = self.content(len(content) + 1)
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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal, without a last one that is incomplete.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is too large or a line is no JSON object, with its number.
    """
    return [values for _, values in iterate_lines(path)]


def iterate_lines(
    path: Path, damaged: list[ValueError] | None = None
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield what `read_lines` returns, each line with its bytes.

    The errors of lines that are no JSON objects are appended to `damaged`, if it is
    given, and such lines are left out.
    """
    with open_file(path, _MOST_BYTES) as file:
        lines = iter(lambda: file.readline(MOST_JSON + 1), b"")
        for number, line in enumerate(lines, 1):
            if len(line) > MOST_JSON:
                raise ValueError(f"{path}, line {number}: more than {MOST_JSON} bytes")
            if line.endswith(b"\n"):
                try:
                    values = parse_object(line, f"{path}, line {number}")
                except ValueError as error:
                    if damaged is None:
                        raise
                    damaged.append(error)
                    continue
                yield line, values


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
