"""Reading one checkpoint and checking that it is what was saved."""

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from ..._files import read_object
from ..config import OptionError
from ..output import printable
from .digests import describe_array, digest_bytes

FORMAT = 2
_MOST_CONTENT = 256 << 20  # bytes; it holds the run's journals
_DAMAGED = (None, errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.EISDIR)


class Damaged(Exception):
    """A checkpoint differs from what was saved."""


def check_files(folder: Path, *, most: float = math.inf) -> None:
    """Raise ValueError if a folder has a link, pipe or device, or more bytes."""
    size = 0
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is neither a file nor a folder")
        size += path.stat().st_size
    if size > most:
        raise ValueError(f"{folder} must have at most {most} bytes, has {size}")


def read_checkpoint(
    path: Path, step: int, wanted: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the notes of a checkpoint, checked by their digests.

    Raises:
        Damaged: If a digest differs.
        OptionError: If it is of another model, or cannot be read at the moment.
    """
    try:
        most = 2 * sum(array.nbytes for array in wanted.values()) + _MOST_CONTENT
        check_files(path, most=most)
        content = read_content(path, step)
        _check_format(path, content["format"])
        _check_model(path, content["arrays"], wanted)
        arrays = _read_arrays(path / "arrays", wanted)
        for name, array in arrays.items():
            if describe_array(array) != content["arrays"][name]:
                raise ValueError(f"{name} differs from its digest")
        return arrays, content["notes"]
    except (OptionError, MemoryError):
        raise
    except Exception as error:  # damaged files raise almost anything
        number = error_number(error)
        reason = _unreadable(path) if number in _DAMAGED else os.strerror(number)
        if reason is not None:
            raise unreadable_now(path, reason) from error
        raise Damaged(first_line(error)) from error


def read_content(path: Path, step: int) -> dict[str, Any]:
    """Return the JSON item of a checkpoint, checked by its digest."""
    content = read_object(path / "content" / "metadata", most=_MOST_CONTENT)
    if content.pop("sha256") != content_digest(content) or content["step"] != step:
        raise ValueError("the list of arrays differs from its digest")
    return content


def _read_arrays(path: Path, wanted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read Orbax's arrays by TensorStore: Orbax leaves tasks behind after an error."""
    store = {"driver": "ocdbt", "base": f"file://{path}/"}
    specs = {
        name: {"driver": "auto", "kvstore": store | {"path": f"{name}/"}}
        for name, array in wanted.items()
        if array.size
    }
    opened = {name: ts.open(spec, read=True) for name, spec in specs.items()}
    for name, array in opened.items():  # a few bytes can declare any size
        shape, found = wanted[name].shape, array.result().shape
        chunk = array.result().chunk_layout.read_chunk.shape or ()
        if found != shape or any((c or 0) > s for c, s in zip(chunk, shape)):
            raise ValueError(
                f"{name} must have shape {shape} and no larger chunks, got shape "
                f"{found} in chunks of {chunk}"
            )
    reads = {name: array.result().read() for name, array in opened.items()}
    return wanted | {name: np.asarray(read.result()) for name, read in reads.items()}


def _check_format(path: Path, found: Any) -> None:
    if found != FORMAT:
        raise OptionError(
            f"--run-dir: {path} has format {found!r}, of another version of jcnn; "
            f"this one reads format {FORMAT}"
        )


def _check_model(
    path: Path, found: dict[str, Any], wanted: dict[str, np.ndarray]
) -> None:
    ours = {k: f"{a.dtype.name}{list(a.shape)}" for k, a in wanted.items()}
    theirs = {k: "{dtype}{shape}".format(**d) for k, d in found.items()}
    differing = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
    if differing:
        lines = [
            f"{k}: {theirs.get(k, 'absent')} there, {ours.get(k, 'absent')} here"
            for k in differing[:5]
        ]
        more = [f"and {len(differing) - 5} more"] * (len(differing) > 5)
        raise OptionError(
            "\n  ".join([f"--run-dir: {path} is of another model:", *lines, *more])
            + "\n  nothing was changed: go on with the model of then, give another "
            "--run-dir, or --begin-anew"
        )


def unreadable_now(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"--run-dir: {path} cannot be read now: {reason}; nothing was changed: the "
        "same command goes on once it can be"
    )


def error_number(error: Exception) -> int | None:
    """Return the system's error number, which TensorStore hides in its message."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return int(number[1]) if number else getattr(error, "errno", None)


def _unreadable(folder: Path) -> str | None:
    """Return the system's message if a file of a checkpoint cannot be read."""
    try:
        for path in folder.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    while file.read(1 << 20):
                        pass
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def content_digest(content: dict[str, Any]) -> str:
    """Return the digest of the JSON item `content`."""
    text = json.dumps(content, sort_keys=True)
    return digest_bytes(text.encode())


def first_line(error: Exception) -> str:
    """Return a short printable message."""
    return printable(str(error).partition("\n")[0] or repr(error))[:200]
