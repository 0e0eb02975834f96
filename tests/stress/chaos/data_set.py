"""A small data set, as tensorflow-datasets prepares MNIST, in either kind of files."""

from pathlib import Path

import numpy as np

from tests.helpers.prepared import encode, write_set

FORMATS = ("array_record", "tfrecord")
_SIZES = {"train": 320, "test": 100}


def write_data_set(data_dir: Path, form: str) -> None:
    """Write a set called `mnist`, always the same, for `--data-dir`.

    An image is the pattern of its label, and noise. So a network can learn it, but not
    in a few epochs, and its weights depend on every image.

    Args:
        data_dir: Folder of sets, which need not exist.
        form: One of `FORMATS`.

    >>> import tempfile
    >>> from jcnn.data import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_data_set(Path(folder), "tfrecord")
    ...     load("mnist", "test", data_dir=folder)
    Dataset(image=uint8[100, 28, 28, 1], label=int32[100], num_classes=10)
    """
    rng = np.random.default_rng(0)
    patterns, splits = rng.integers(0, 256, (10, 28, 28)), {}
    for split, size in _SIZES.items():
        splits[split] = []
        for label in rng.integers(0, 10, size).tolist():
            noise = rng.integers(0, 256, (28, 28))
            pixels = ((patterns[label] + 3 * noise) // 4).astype(np.uint8)
            splits[split].append((encode(pixels), label))
    shape, name = (28, 28, 1), "mnist/3.0.1"
    write_set(data_dir, splits, name=name, form=form, shape=shape, classes=10)
