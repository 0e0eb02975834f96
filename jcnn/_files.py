"""Files that are written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path


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
            os.fsync(file.fileno())
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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
