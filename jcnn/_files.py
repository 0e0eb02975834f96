"""Files that are written whole or not at all."""

import errno
import os
from contextlib import suppress
from pathlib import Path

# How file systems say that they do not have an operation at all, as those of networks
# and of user space often do; 524 is Linux's own ENOTSUPP, which some let through.
NOT_THERE = {
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    524,
}


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it, not even after a power cut.

    Args:
        path: The file, new or to be replaced.
        content: All of its bytes.

    Raises:
        OSError: If it cannot be written, with the file's name; what was there stays.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder, "a.txt"), b"whole")
    ...     [(p.name, p.read_bytes()) for p in Path(folder).iterdir()]
    [('a.txt', b'whole')]
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # it may even be a link to elsewhere
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


def sync_folder(folder: Path) -> None:
    """Let a power cut not undo which files a folder has, where the system can do so.

    >>> sync_folder(Path("."))
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may be written and not be listed
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Let a power cut not undo what was written, where the file system can do so.

    Args:
        descriptor: Of an open file or folder.

    Raises:
        OSError: If it can be done and has failed.

    >>> with open(os.devnull, "rb") as file:
    ...     sync(file.fileno())
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise


def expand_home(path: Path) -> Path:
    """The path with the home folder for a `~` at its beginning, as shells have it.

    Args:
        path: A path that a user gave; a shell leaves `--run-dir=~/a` as it is.

    Raises:
        FileNotFoundError: If this user has no home folder, or there is no such user.

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
    """The folder jcnn may write to: `$XDG_CACHE_HOME/jcnn` or `~/.cache/jcnn`.

    A user without a home has a folder that cannot be made, which is like any home
    that cannot be written: an OSError where it is used.

    >>> user_cache().name
    'jcnn'
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules say that a relative path is to be ignored.
    if os.path.isabs(base):
        return Path(base) / "jcnn"
    try:
        return Path.home() / ".cache" / "jcnn"
    except RuntimeError:  # no HOME, and no entry of the user in passwd
        return Path(os.devnull) / "jcnn"


def unused(path: Path) -> Path:
    """The path if there is nothing, else the first with a number after it.

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
    """An `opener` for `open` that follows no link out of the file's folder.

    >>> with open(os.devnull, "ab", opener=open_no_link) as file:
    ...     file.write(b"line")
    4
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def named(error: OSError, path: Path) -> OSError:
    """The same error with the name of the file, which errors of writing lack.

    >>> named(OSError(28, "No space left on device"), Path("a.txt"))
    OSError(28, 'No space left on device')
    >>> print(_)
    [Errno 28] No space left on device: 'a.txt'
    """
    if error.errno is None:
        return OSError(f"{path}: {error}")
    return OSError(error.errno, error.strerror, str(path))
