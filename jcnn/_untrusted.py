"""Reading files that strangers may have written: never more of one than was expected.

All that can be wrong with such a file is an OSError or a ValueError that names it.
"""

import json
import math
import os
import reprlib
import stat
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

MOST_JSON = 4 << 20  # bytes of a file that is one JSON object
_DEEPEST = 64  # levels of lists and objects


def open_file(path: Path, most: int) -> BinaryIO:
    """Open a file for reading, unless it is too large to be what it should be.

    Args:
        path: The file. A pipe, which would never begin or end, is refused.
        most: Bytes that it may have.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is something else than a file, or larger.

    >>> open_file(Path("."), 9)
    Traceback (most recent call last):
        ...
    ValueError: .: not a file
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a file")
    if status.st_size > most:
        raise ValueError(f"{path}: {status.st_size} bytes; allowed: at most {most}")
    return open(path, "rb")


def read_object(path: Path, *, most: int = MOST_JSON) -> dict[str, Any]:
    """The JSON object that a file of at most so many bytes holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not one JSON object, see `parse_json`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.json")
    ...     size = path.write_text('{"epochs": 3}')
    ...     read_object(path)
    {'epochs': 3}
    """
    with open_file(path, most) as file:
        return parse_object(file.read(), f"{path}")


def parse_object(content: bytes, place: str) -> dict[str, Any]:
    """The JSON object that a text in UTF-8 is.

    Raises:
        ValueError: If it is not one, see `parse_json`; it begins with the place.

    >>> parse_object(b"[3]", "a.jsonl, line 2")
    Traceback (most recent call last):
        ...
    ValueError: a.jsonl, line 2: no JSON object
    """
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: no JSON object")
    return value


def parse_json(content: bytes, *, finite: bool = True) -> Any:
    """A JSON value, without what Python's parser takes for one besides.

    Args:
        content: The text in UTF-8.
        finite: Whether NaN, infinities and numbers as large as these are refused.

    Raises:
        ValueError: If it is something else, an object has a name twice, or it is
            nested deeper than anything that is written here.

    >>> parse_json(b'{"loss": NaN}')
    Traceback (most recent call last):
        ...
    ValueError: NaN is not a number of JSON
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _without_duplicates}
    if finite:
        hooks |= {"parse_constant": _refuse_constant, "parse_float": _parse_float}
    try:
        value = json.loads(content.decode(), **hooks)
        if _depth(value) > _DEEPEST:
            raise RecursionError
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {reprlib.repr(name)} occurs twice in one object")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{reprlib.repr(text)} is too large a number")
    return value


def _depth(value: Any) -> int:
    """Level by level, since a recursion could itself be too deep."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [
            child for v in level for child in (v.values() if isinstance(v, dict) else v)
        ]
    return depth
