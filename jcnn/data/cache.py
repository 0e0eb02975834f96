"""Decoded data sets and indices of large ones in the user's cache folder, as .npz."""

import hashlib
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from .._files import user_cache
from .dataset import Dataset, from_arrays
from .prepared import Prepared, reading


def cache_path(found: Prepared) -> Path:
    """Return the cache file of a split, named by the content of its prepared files.

    Corrected files may have the names, sizes and times of the old ones. For CIFAR-10
    this takes 0.1 s of the 0.4 s of a load from the cache.

    Raises:
        DataError: If a file cannot be read.
    """
    facts = [repr(found.files)]
    with reading(found.name, found.folder):
        labels = sorted(path.name for path in found.folder.glob("*.labels.txt"))
        for name in ("features.json", *labels, *found.files):
            path = found.folder / name
            if path.is_file():  # `decode` reports what is missing
                with open(path, "rb") as file:
                    facts.append(name + hashlib.file_digest(file, "sha256").hexdigest())
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    readable = re.sub(r"[^\w.]+", "-", f"{found.name}-{found.split}", flags=re.ASCII)
    return user_cache() / "decoded" / f"{readable}-{digest}.npz"


def read(path: Path) -> Dataset | None:
    """Return what `write` kept; None if it is absent or damaged.

    >>> read(Path("nowhere.npz")) is None
    True
    """
    arrays = read_arrays(path)
    if arrays is None:
        return None
    try:
        return from_arrays(
            arrays["image"],
            arrays["label"],
            int(arrays["num_classes"]),
            class_names=arrays["class_names"].tolist() or None,
        )
    except Exception:  # the same, though every checksum is right
        return None


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return what `write_arrays` kept; None if it is absent or damaged."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # a wrong checksum
                return None
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:
        # Damage causes almost any error, of zipfile or NumPy, even MemoryError. The
        # answer to all of them is to decode again.
        return None


def write(path: Path, dataset: Dataset) -> None:
    """Keep a data set, whole or not at all.

    Raises:
        OSError: If it cannot be written.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "set.npz"
    ...     write(path, from_arrays(np.ones((2, 3, 3, 1)), [0, 1], 2))
    ...     read(path)
    Dataset(image=float32[2, 3, 3, 1], label=int32[2], num_classes=2)
    """
    write_arrays(
        path,
        num_classes=np.array(dataset.num_classes),
        class_names=np.array(dataset.class_names or (), str),
        image=dataset.image,
        label=dataset.label,
    )


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Keep arrays, whole or not at all.

    Raises:
        OSError: If they cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as folder:
        temporary = Path(folder) / path.name
        np.savez(temporary, **arrays)  # pyright: ignore  # none is `allow_pickle`
        os.replace(temporary, path)


def indexed(
    what: str, files: Sequence[Path], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return what is computed from the content of files, kept while they are the same.

    To read large files again in order to recognise them would take as long. Instead
    their paths, sizes, inodes and times are compared, also that of the last change of
    the inode, which programs cannot set.

    Raises:
        Exception: Whatever `compute` raises.
    """
    facts = [what]
    for path in files:
        facts.append(str(path))
        with suppress(OSError):  # a link may lead nowhere
            status = path.stat()
            times = status.st_mtime_ns, status.st_ctime_ns
            facts.append(repr((status.st_size, status.st_ino, *times)))
    digest = hashlib.sha256("\n".join(facts).encode(errors="surrogateescape"))
    kept = user_cache() / "indices" / f"{digest.hexdigest()[:32]}.npz"
    arrays = read_arrays(kept)
    if arrays is None:
        arrays = compute()
        try:
            write_arrays(kept, **arrays)
        except OSError as error:
            warn_of(error, stacklevel=4)
    return arrays


def warn_of(error: OSError, *, stacklevel: int) -> None:
    """Warn that a data set could not be kept, as from the function that calls this."""
    warnings.warn(
        f"what was read of the images is not kept for next time: {error}. "
        "Set XDG_CACHE_HOME to another cache folder.",
        RuntimeWarning,
        stacklevel=stacklevel + 1,
    )
