"""Files that are written whole or not at all, and read up to a limit."""

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

MOST_JSON = 4 << 20  # bytes of a JSON object

# Errors of file systems without an operation, as those of networks and of user space;
# 524 is Linux's own ENOTSUPP, which some let through.
NOT_THERE = {
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    524,
}


def write_file(path: Path, content: bytes) -> None:
    """Write a file, new or replaced, whole or not at all, even after a power cut.

    Raises:
        OSError: If it cannot be written, with the file's name; an old one stays. So
            does a device, such as /dev/null.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder, "a.txt"), b"whole")
    ...     [(p.name, p.read_bytes()) for p in Path(folder).iterdir()]
    [('a.txt', b'whole')]
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "it exists and is no file")
        temporary.unlink(missing_ok=True)  # it may be a link
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise named(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def open_file(path: Path, most: int) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is no regular file, or larger than `most` bytes.

    >>> open_file(Path("."), 9)
    Traceback (most recent call last):
        ...
    ValueError: .: not a file
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a file")
    if status.st_size > most:
        raise ValueError(
            f"{path}: must have at most {most} bytes, has {status.st_size}"
        )
    return open(path, "rb")


def read_object(path: Path, *, most: int = MOST_JSON) -> dict[str, Any]:
    """Read the JSON object that a file holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is larger than `most` bytes, or not one JSON object.
    """
    with open_file(path, most) as file:
        return parse_object(file.read(), str(path))


def parse_object(content: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object; errors begin with `place`.

    Raises:
        ValueError: If it is not one JSON object.

    >>> parse_object(b"[3]", "a.jsonl, line 2")
    Traceback (most recent call last):
        ...
    ValueError: a.jsonl, line 2: not a JSON object
    """
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: not a JSON object")
    return value


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files survive a power cut, where the system can."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may be written but not listed
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Make an open file or folder survive a power cut, where the file system can.

    Raises:
        OSError: If the file system can but has failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise


def expand_home(path: Path) -> Path:
    """Replace a leading `~` by the home folder; shells leave it in `--run-dir=~/a`.

    Raises:
        FileNotFoundError: If there is no such home folder.

    >>> expand_home(Path("runs/~")) == Path("runs/~")
    True
    >>> "~" in str(expand_home(Path("~/runs")))
    False
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{path}: there is no such home folder") from error


def user_cache() -> Path:
    """Return `$XDG_CACHE_HOME/jcnn` or `~/.cache/jcnn`.

    For a user without a home it is a folder that cannot be made.

    >>> user_cache().name
    'jcnn'
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG rules ignore relative paths
        return Path(base) / "jcnn"
    try:
        return Path.home() / ".cache" / "jcnn"
    except RuntimeError:  # no HOME, and no entry of the user in passwd
        return Path(os.devnull) / "jcnn"


def unused(path: Path) -> Path:
    """Return a path that does not exist: this one, or with a number after it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = unused(Path(folder, "a"))
    ...     first.touch()
    ...     first.name, unused(first).name
    ('a', 'a-2')
    """
    found, count = path, 1
    while os.path.lexists(found):
        count += 1
        found = path.with_name(f"{path.name}-{count}")
    return found


def open_no_link(path: str, flags: int) -> int:
    """Open a file but no symbolic link: an `opener` for `open`."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def named(error: OSError, path: Path) -> OSError:
    """Return the error with the name of the file, which errors of writing lack."""
    if error.errno is None:
        return OSError(f"{path}: {error}")
    return OSError(error.errno, error.strerror, str(path))
