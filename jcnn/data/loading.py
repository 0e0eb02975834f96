"""Load a data set by name."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from .._extras import missing
from . import cache, digits, prepared, splits
from .dataset import Dataset
from .stream import stream as stream_set
from .streamed import TooLarge, fits_in_memory


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    stream: bool | None = None,
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
        stream: Whether to leave the images in their files, as `jcnn.data.stream` does;
            None: if the arrays of a split were larger than half of the memory. Batches
            and results are the same.

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
    try:
        if name == "digits":
            if stream:
                raise ValueError("stream must be False or None for digits, got True")
            return splits.select(split, digits.load)
        if not stream:
            root, any_size = prepared.data_root(data_dir), stream is not None
            with suppress(TooLarge):
                return splits.select(split, partial(_load_split, name, root, any_size))
        return stream_set(name, split, data_dir=data_dir)
    except ModuleNotFoundError as error:
        raise missing("data", error) from error


def _load_split(name: str, root: Path, any_size: bool, split: str) -> Dataset:
    """Return a whole split of a prepared set, from the cache if it is there."""
    found = prepared.find(name, split, root)
    files = [found.folder / name for name in found.files]
    if not any_size and not _fit(files):
        raise TooLarge
    path = cache.cache_path(found)
    if not any_size and path.is_file() and not _fit([path]):
        raise TooLarge
    dataset = cache.read(path)
    if dataset is None:
        from .decode import decode  # imports Pillow and protobuf

        dataset = decode(found, any_size=any_size)
        try:
            cache.write(path, dataset)
        except OSError as error:
            cache.warn_of(error, stacklevel=4)  # select, load, its caller
    return dataset


def _fit(files: list[Path]) -> bool:
    """Return whether the content of files may be in memory."""
    return fits_in_memory(sum(path.stat().st_size for path in files))
