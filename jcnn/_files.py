"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it.

    Args:
        path: The file, new or to be replaced.
        content: All of its bytes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder, "a.txt"), b"whole")
    ...     [(p.name, p.read_bytes()) for p in Path(folder).iterdir()]
    [('a.txt', b'whole')]
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
