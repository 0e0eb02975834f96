"""Load a data set by name: from the cache if it is there, else decode it."""

import os
import warnings
from functools import partial
from pathlib import Path

from .._extras import missing
from . import cache, digits, prepared, splits
from .dataset import DataError, Dataset, from_arrays

_Loaded = tuple[Dataset, Exception | None]  # the latter if it could not be kept


def load(
    name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Loads a split of an image-classification data set, a part, or a sum of these.

    `digits` comes with scikit-learn: 1,797 images [8, 8, 1] of ten classes in its
    order, the first 1,437 in `train` and the last 360, mostly by other writers, in
    `test`; its values v of 0..16 become v * 255 // 16. It is prepared on first use
    in the cache folder.

    Any other set must have been prepared by tensorflow-datasets, as TFRecord (its
    default) or array_record files; nothing is ever downloaded. Its pixels are as
    stored, and its examples in the order of the files.

    The first call decodes (no TensorFlow needed) and keeps the arrays of the whole
    split in `$XDG_CACHE_HOME/jcnn` or `~/.cache/jcnn`; later ones read them from there
    for as long as the content of the prepared files stays as it is. That folder, as
    large as all the pixels in it, may be deleted.

    Args:
        name: `digits`, `mnist`, `fashion_mnist`, `cifar10` or any other:
            `name[/config][:version]`, where no version means the highest.
        split: one of the set's splits, say `train` or `test`, or parts and sums of
            them as tensorflow-datasets has them: `train[:90%]`, `train[-100:]`,
            `train+test[10%:20%]`.
        data_dir: where the prepared sets are. If None, `$JCNN_DATA_DIR`, and if that
            is not set, where tensorflow-datasets looks: `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`. It does not matter for `digits`.

    Returns:
        The images, uint8 [N, H, W, C], and their labels, int32 [N].

    Raises:
        TypeError: name or split is not a str.
        FileNotFoundError: the set is not prepared; the message says how to do that.
        ValueError: the name is malformed, there is no such split, or a part of it is
            beyond its end or empty.
        DataError: a ValueError, too: there is nothing in the split, or the files are
            damaged, of another format, or hold no image and class label, images of
            several sizes, or more of them than this machine's memory holds.
        ModuleNotFoundError: a package of the extra `data` is not installed.

    Warns:
        RuntimeWarning: the arrays could not be written to the cache folder.

    >>> load("digits", "test")
    Dataset(image=uint8[360, 8, 8, 1], label=int32[360], num_classes=10)
    >>> load("digits", "train[-5%:]+test")
    Dataset(image=uint8[432, 8, 8, 1], label=int32[432], num_classes=10)
    """
    for argument, value in (("name", name), ("split", split)):
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be a str, got {value!r}")
    try:
        if name in ("digits", f"digits:{digits.VERSION}"):
            whole = _digits
        else:
            whole = partial(_prepared, name, prepared.data_root(data_dir))
        loaded = {part.split: whole(part.split) for part in splits.parse(split)}
    except ModuleNotFoundError as error:
        raise missing("data", error) from error
    faults = [fault for _, fault in loaded.values() if fault]
    if faults:
        warnings.warn(
            f"decoded images are not kept for next time: {faults[0]}. "
            "XDG_CACHE_HOME chooses another cache folder.",
            RuntimeWarning,
            stacklevel=2,
        )
    return splits.join(split, {name: dataset for name, (dataset, _) in loaded.items()})


def _prepared(name: str, root: Path, split: str) -> _Loaded:
    """One whole split of a prepared set, from the cache or else decoded."""
    found = prepared.find(name, split, root)
    source = prepared.fingerprint(found, split)
    path = cache.entry(found.name, split, found.folder)
    dataset = cache.read(path, source)
    if dataset is not None:
        return dataset, None
    from .decode import decode  # tensorflow-datasets takes a second to import

    dataset = decode(found, split)
    try:
        cache.write(path, source, dataset)
    except OSError as error:
        return dataset, error
    return dataset, None


def _digits(split: str) -> _Loaded:
    """One whole split of the digits, without the cache where that is of no use."""
    name = f"digits:{digits.VERSION}"
    try:
        try:
            return _prepared(name, digits.prepare(), split)
        except (FileNotFoundError, DataError):  # somebody cleaned up, or damage
            return _prepared(name, digits.prepare(anew=True), split)
    except (OSError, RuntimeError, DataError) as error:
        from .digits_builder import arrays

        arrays_of = arrays()
        prepared.refuse_unknown(split, name, arrays_of)
        return from_arrays(*arrays_of[split], num_classes=10), error
