"""Load a data set by name."""

import os
from functools import partial
from pathlib import Path

from .._extras import missing
from . import cache, digits, prepared, splits
from .dataset import Dataset


def load(
    name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Return a split of an image-classification data set, or parts and sums of splits.

    `digits` comes with scikit-learn: 1,797 images [8, 8, 1] of ten classes in its
    order, the first 1,437 in `train` and the last 360, mostly by other writers, in
    `test`. Its values v of 0..16 become v * 255 // 16.

    Any other set must have been prepared by tensorflow-datasets, as TFRecord or
    array_record files. Pixels are as stored, examples in the order of the files.
    Neither tensorflow-datasets nor TensorFlow is needed, and nothing is downloaded.
    The first call decodes the split and keeps its arrays in `$XDG_CACHE_HOME/jcnn` or
    `~/.cache/jcnn`. Later calls read them from there while the content of the prepared
    files stays the same. The folder may be deleted.

    Args:
        name: `digits`, `mnist`, `fashion_mnist`, `cifar10` or any other set:
            `name[/config][:version]`. The default version is the highest.
        split: A split, say `train` or `test`, or parts and sums of splits in the
            notation of tensorflow-datasets: `train[:90%]`, `train+test[10%:20%]`.
        data_dir: Folder of the prepared sets. The default is `$JCNN_DATA_DIR`, then
            `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`.

    Returns:
        The images, uint8 [N, H, W, C], and their labels, int32 [N].

    Raises:
        TypeError: If name or split is not a str.
        ValueError: If name or split is malformed, there is no such split, or a part is
            empty or out of range.
        FileNotFoundError: If the set is not prepared. The message has the command that
            prepares it.
        DataError: If the files are damaged or of another format, or do not hold uint8
            images of one size and one class label each.
        ModuleNotFoundError: If a package of the extra `data` is not installed.

    Warns:
        RuntimeWarning: If the arrays cannot be written to the cache folder.

    >>> load("digits", "test")
    Dataset(image=uint8[360, 8, 8, 1], label=int32[360], num_classes=10)
    >>> load("digits", "train[-5%:]+test")
    Dataset(image=uint8[432, 8, 8, 1], label=int32[432], num_classes=10)
    """
    for argument, value in (("name", name), ("split", split)):
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be a str, got {value!r}")
    try:
        if name == "digits":
            return splits.select(split, digits.load)
        root = prepared.data_root(data_dir)
        return splits.select(split, partial(_load_split, name, root))
    except ModuleNotFoundError as error:
        raise missing("data", error) from error


def _load_split(name: str, root: Path, split: str) -> Dataset:
    """Return a whole split of a prepared set, from the cache if it is there."""
    found = prepared.find(name, split, root)
    path = cache.cache_path(found)
    dataset = cache.read(path)
    if dataset is None:
        from .decode import decode  # imports Pillow and protobuf

        dataset = decode(found)
        try:
            cache.write(path, dataset)
        except OSError as error:
            cache.warn_of(error, stacklevel=4)  # select, load, its caller
    return dataset
