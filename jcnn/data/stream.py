"""Sets that are larger than memory: an index of their images, which stay in files."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import missing
from .._shapes import integer
from . import prepared, splits
from .cache import indexed
from .dataset import DataError, Dataset
from .folder import check_channels, digests_of, find_images
from .streamed import WHOLE_RECORD, StreamedImages, View

_STORED = View()
_MOST_WORKERS = 32


def stream(
    name: str,
    split: str,
    *,
    view: View = _STORED,
    data_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    max_broken: int | None = None,
) -> Dataset:
    """Return a split of a prepared set whose images are read when they are needed.

    The order of a training run and its batches are those of the set in memory. Worker
    processes read, decode, crop and scale the images, by Grain. The first call reads
    the files once, checks them, and keeps an index in jcnn's cache folder.

    Args:
        name, split, data_dir: As for `load`.
        view: What is taken of each image; images of several sizes need a `size`.
        workers: Processes that read; 0: threads of this process. By default one for
            each core but one.
        max_broken: How many images may be broken: they are named in a warning, left out
            of evaluations and in training replaced by those after them. By default
            one in a thousand, at least one.

    Raises:
        As `load`, TypeError if `view` is no View, and ValueError if an argument is out
        of range.
    """
    options = check_options(view, workers, max_broken)
    try:
        root = prepared.data_root(data_dir)
        return splits.select(split, partial(_stream_split, name, root, options))
    except ModuleNotFoundError as error:
        raise missing("data", error) from error


def stream_folder(
    folder: str | os.PathLike[str],
    *,
    view: View,
    channels: int = 3,
    workers: int | None = None,
    max_broken: int | None = None,
) -> Dataset:
    """Return a folder of class folders as `stream` does a prepared set.

    Args:
        folder, channels: As for `load_folder`.
        view, workers, max_broken: As for `stream`; `view` must have a size.

    Raises:
        DataError: If there are fewer than two class folders, or one has no image.
        FileNotFoundError: If there is no such folder.
        ValueError: If an argument is out of range.
    """
    options = check_options(view, workers, max_broken)
    if view.size is None:
        raise ValueError("view.size must be the height and width of images, got None")
    check_channels(channels)
    names, files = find_images(Path(folder))
    return stream_files(names, files, (view.size, view.size, channels), options)


def stream_files(
    names: Sequence[str],
    files: Sequence[tuple[Path, int]],
    shape: tuple[int, int, int],
    options: dict[str, Any],
) -> Dataset:
    """Return files of one image each, with their labels, as `stream_folder` does."""
    paths = [path.absolute() for path, _ in files]

    def compute() -> dict[str, np.ndarray]:
        digest = hashlib.sha256("\n".join(digests_of(paths)).encode())
        return {"digest": np.array(digest.hexdigest())}

    digest = str(indexed("folder", paths, compute)["digest"])
    ranges = np.zeros((len(paths), 3), np.int64)
    ranges[:, 0] = np.arange(len(paths))
    images = _images(paths, ranges, shape, None, digest, options)
    return _dataset(images, np.array([label for _, label in files]), len(names), names)


def _stream_split(
    name: str, root: Path, options: dict[str, Any], split: str
) -> Dataset:
    from .decode import read_features

    found = prepared.find(name, split, root)
    with prepared.reading(found.name, found.folder):
        features = read_features(found)
        files = [found.folder / file for file in found.files]
        what = repr((features.keys, list(found.files.values())))
        index = indexed(what, files, partial(_index, found, features))
    size = options["view"].size
    height_width = (size, size) if size else tuple(index["size"].tolist())
    shape = (*height_width, features.channels)
    labels, digest = index["label"], str(index["digest"])
    images = _images(files, index["ranges"], shape, features.keys, digest, options)
    if not ((labels >= 0) & (labels < features.num_classes)).all():
        raise DataError(
            f"labels of {found.name} must be from 0 to {features.num_classes - 1}, got "
            f"{labels.min()} to {labels.max()} in {split!r}"
        )
    return _dataset(images, labels, features.num_classes, features.class_names)


def _index(found: prepared.Prepared, features: Any) -> dict[str, np.ndarray]:
    """Return where the images of a set lie, their labels, and the first one's size."""
    from .decode import records
    from .decode_image import open_stored
    from .example import parse_example

    ranges, labels, digest, size = [], [], hashlib.sha256(), None
    for number, (name, count) in enumerate(found.files.items()):
        path, begin = found.folder / name, 12  # a record begins after its length
        for place, record in enumerate(records(path, count)):
            encoded, label = parse_example(record, *features.keys)
            if size is None:
                with suppress(Exception), open_stored(encoded) as image:
                    size = image.height, image.width
            if path.suffix.startswith(".tfrecord"):
                first = begin + record.find(encoded)
                ranges.append((number, first, len(encoded)))
            else:
                ranges.append((number, place, WHOLE_RECORD))
            labels.append(label)
            digest.update(record)
            begin += len(record) + 16
    return {
        "ranges": np.array(ranges, np.int64),
        "label": np.array(labels, np.int64),
        "size": np.array(size or (1, 1)),
        "digest": np.array(digest.hexdigest()),
    }


def _images(
    paths: Sequence[Path],
    ranges: np.ndarray,
    shape: tuple[int, int, int],
    keys: tuple[str, str] | None,
    digest: str,
    options: dict[str, Any],
) -> Any:
    files = np.array([os.fsencode(path) for path in paths])
    whole = (len(ranges), *shape)
    return StreamedImages(files, ranges, whole, keys=keys, digest=digest, **options)


def _dataset(
    images: Any, labels: np.ndarray, num_classes: int, names: Sequence[str] | None
) -> Dataset:
    names = None if names is None else tuple(names)
    return Dataset(images, labels.astype(np.int32), num_classes, names)


def check_options(
    view: View, workers: int | None = None, max_broken: int | None = None
) -> dict[str, Any]:
    """Return the checked fields of `StreamedImages` that are the caller's."""
    if not isinstance(view, View):
        raise TypeError(f"view must be a jcnn.data.View, got {view!r}")
    if view.size is not None:
        integer("view.size", view.size, minimum=1)
    elif view.random or view.center != 1:
        raise ValueError(f"view.size must be given to crop images, got {view}")
    if not 0 < view.center <= 1:
        raise ValueError(
            f"view.center must be above 0 and at most 1, got {view.center!r}"
        )
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
        workers = min(max(1, cores - 1), _MOST_WORKERS)
    workers = integer("workers", workers, minimum=0)
    if max_broken is not None:
        max_broken = integer("max_broken", max_broken, minimum=0)
    return {"view": view, "workers": workers, "max_broken": max_broken}
