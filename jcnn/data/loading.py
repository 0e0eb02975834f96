"""Load a data set by name: from the cache if it is there, else decode it."""

import os

from .._extras import missing
from . import cache, digits, prepared
from .dataset import Dataset


def load(
    name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Loads one split of an image-classification data set.

    `digits` comes with scikit-learn: 1,797 images [8, 8, 1] of ten classes in its
    order, the first 1,437 in `train` and the last 360, mostly by other writers, in
    `test`; its values v of 0..16 become v * 255 // 16. It is prepared on first use
    in the cache folder.

    Any other set must have been prepared by tensorflow-datasets as array_record
    files; nothing is ever downloaded. Its pixels are as stored, and its examples in
    the order of the files.

    The first call decodes (no TensorFlow needed) and keeps the arrays in
    `$XDG_CACHE_HOME/jcnn` or `~/.cache/jcnn`; later ones read them from there for
    as long as the prepared files stay as they are. That folder, as large as all the
    pixels in it, may be deleted.

    Args:
        name: `digits`, `mnist`, `fashion_mnist`, `cifar10` or any other:
            `name[/config][:version]`, where no version means the highest.
        split: one of the set's splits, say `train` or `test`.
        data_dir: where the prepared sets are. If None, `$JCNN_DATA_DIR`, and if that
            is not set, where tensorflow-datasets looks: `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`. It does not matter for `digits`.

    Returns:
        The images, uint8 [N, H, W, C], and their labels, int32 [N].

    Raises:
        TypeError: name or split is not a str.
        FileNotFoundError: the set is not prepared; the message says how to do that.
        ValueError: the name is malformed, or there is no such split.
        DataError: a ValueError, too: there is nothing in the split, or the files are
            damaged, of another format, or hold no image and class label, images of
            several sizes, or more of them than this machine's memory holds.
        ModuleNotFoundError: a package of the extra `data` is not installed.

    Warns:
        RuntimeWarning: the arrays could not be written to the cache folder.

    >>> load("digits", "test")
    Dataset(image=uint8[360, 8, 8, 1], label=int32[360], num_classes=10)
    """
    for argument, value in (("name", name), ("split", split)):
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be a str, got {value!r}")
    try:
        if name in ("digits", f"digits:{digits.VERSION}"):
            name, root = f"digits:{digits.VERSION}", digits.prepare()
        else:
            root = prepared.data_root(data_dir)
        found = prepared.find(name, split, root)
        source = prepared.fingerprint(found)
        path = cache.entry(found.name, split, found.folder)
        dataset = cache.read(path, source)
        if dataset is None:
            from .decode import decode  # tensorflow-datasets takes a second to import

            dataset = decode(found, split)
            cache.write(path, source, dataset)
        return dataset
    except ModuleNotFoundError as error:
        raise missing("data", error) from error
