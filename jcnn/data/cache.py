"""Decoded data sets in the user's cache folder, one .npz file each."""

import hashlib
import os
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from .._files import user_cache
from .._untrusted import open_file
from .dataset import Dataset, from_arrays

_MOST_BYTES = 1 << 40


def entry(name: str, split: str, folder: Path) -> Path:
    """The file that keeps one split of the set `name` prepared in `folder`.

    >>> entry("mnist:3.0.1", "test", Path("/data/mnist/3.0.1")).name[:17]
    'mnist-3.0.1-test-'
    """
    digest = hashlib.sha256(os.fsencode(folder) + f"\0{split}".encode()).hexdigest()[
        :16
    ]
    readable = re.sub(r"[^\w.]+", "-", f"{name}-{split}", flags=re.ASCII)
    return user_cache() / "decoded" / f"{readable}-{digest}.npz"


def read(path: Path, source: str) -> Dataset | None:
    """Reads what `write` kept there for `source`; None if there is no such thing.

    A file that is damaged, or written for another source, counts as absent.

    >>> read(Path("nowhere.npz"), "source") is None
    True
    """
    try:
        with open_file(path, _MOST_BYTES) as file:
            with zipfile.ZipFile(file) as archive:
                if any(i.file_size > i.compress_size for i in archive.infolist()):
                    return None  # `write` compresses nothing, a trap does
                if archive.testzip() is not None:  # a checksum does not agree
                    return None
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                if str(arrays["source"]) != source:
                    return None
                return from_arrays(
                    arrays["image"],
                    arrays["label"],
                    int(arrays["num_classes"]),
                    class_names=arrays["class_names"].tolist() or None,
                )
    except Exception:
        # Damage shows as almost any exception (zipfile's, NumPy's header parser's,
        # even MemoryError), and the answer to all of them is to decode again.
        return None


def write(path: Path, source: str, dataset: Dataset) -> None:
    """Keeps a data set, whole or not at all.

    Raises:
        OSError: it cannot be written.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "set.npz"
    ...     write(path, "source", from_arrays(np.ones((2, 3, 3, 1)), [0, 1], 2))
    ...     read(path, "source")
    Dataset(image=float32[2, 3, 3, 1], label=int32[2], num_classes=2)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(
                file,
                source=np.array(source),
                num_classes=np.array(dataset.num_classes),
                class_names=np.array(dataset.class_names or (), str),
                image=dataset.image,
                label=dataset.label,
            )
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
