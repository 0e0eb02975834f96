"""A lock that admits one process at a time to a run folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._files import NOT_THERE, named, open_no_link

try:
    import fcntl
except ImportError:  # no POSIX system: there folders are not locked
    fcntl = None


class Locked(OSError):
    """Another process holds the folder."""


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold an existing run folder until the block or the process ends.

    A file system without locks only gets a warning on standard error.

    Raises:
        Locked: If another process holds it, with its number.
        OSError: If the folder cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with lock(Path(folder)):
    ...         print(*(path.name for path in Path(folder).iterdir()))
    .lock
    """
    if fcntl is None:
        yield
        return
    path = run_dir / ".lock"
    descriptor = open_no_link(str(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise Locked(
                f"--run-dir: process {holder or 'unknown'} is working on {run_dir}"
            ) from error
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise named(error, path) from error
            print(
                f"{run_dir} cannot be locked ({error.strerror}): no other process must "
                "work on it",
                file=sys.stderr,
            )
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise named(error, path) from error
        yield
    finally:
        os.close(descriptor)
