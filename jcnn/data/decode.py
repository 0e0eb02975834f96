"""Decode a prepared data set into arrays (imports tensorflow-datasets)."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from .dataset import Dataset, from_arrays
from .prepared import Prepared

_BATCH = 1000  # records read at a time: twice as fast as one by one
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode(found: Prepared, split: str) -> Dataset:
    """Decodes every image of a split, in the order of its files.

    Pillow does it whether or not OpenCV is there: one decoder, one result.

    Args:
        found: where it is, from `jcnn.data.prepared.find`.
        split: one of its splits.

    Returns:
        The images, uint8 [N, H, W, C], and their labels.

    Raises:
        ValueError: the set has no uint8 image or no class label, its images are of
            several sizes, a label is out of range, or the files are damaged.

    >>> from jcnn.data import digits, prepared
    >>> decode(prepared.find("digits", "test", digits.prepare()), "test").num_classes
    10
    """
    with _reading(found):
        builder = tfds.builder_from_directory(found.folder)
    features: Any = builder.info.features
    image_key = _pick(found, features, tfds.features.Image, "image")
    label_key = _pick(found, features, tfds.features.ClassLabel, "label")
    kind = features[image_key]
    mode = _MODES.get(kind.shape[-1])
    if mode is None or kind.np_dtype != np.uint8:
        raise ValueError(
            f"{found.name} has images of {kind.np_dtype} and shape {kind.shape}; "
            "jcnn reads uint8 images of 1, 3 or 4 channels"
        )
    images, labels = None, []
    for encoded, label in _records(found, builder, split, image_key, label_key):
        pixels = _pixels(found, encoded, mode)
        if images is None:
            images = np.empty((found.splits[split], *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise ValueError(
                f"{found.name} has images of several sizes: image 0 of {split!r} is "
                f"{images.shape[1:]} and image {len(labels)} is {pixels.shape}"
            )
        images[len(labels)] = pixels
        labels.append(label)
    assert images is not None  # `find` has refused an empty split
    try:
        return from_arrays(images, labels, features[label_key].num_classes)
    except ValueError as error:  # -1 stands for a label that is not known
        raise ValueError(f"split {split!r} of {found.name}: {error}") from error


def _pick(found: Prepared, features: Any, kind: type, usual: str) -> str:
    """The name of the feature of a kind: the usual one, or else the only one."""
    flat = isinstance(features, tfds.features.FeaturesDict)
    items = features.items() if flat else ()
    keys = [key for key, feature in items if type(feature) is kind]
    if usual in keys:
        return usual
    if len(keys) != 1:
        raise ValueError(
            f"{found.name} is no image-classification set: of its features ("
            f"{', '.join(key for key, _ in items)}) {len(keys)} are of the kind "
            f"{kind.__name__}, and none of these is called {usual!r}"
        )
    return keys[0]


def _records(
    found: Prepared, builder: Any, split: str, image_key: str, label_key: str
) -> Iterator[tuple[bytes, int]]:
    """Yields encoded image and label of every example."""
    total = found.splits[split]
    skip = {image_key: tfds.decode.SkipDecoding()}
    with _reading(found):
        source = builder.as_data_source(split, decoders=skip)
        for start in range(0, total, _BATCH):
            # Python ints: array_record does not take NumPy's.
            indices = list(range(start, min(start + _BATCH, total)))
            for record in source.__getitems__(indices):
                yield record[image_key], record[label_key]


def _pixels(found: Prepared, encoded: bytes, mode: str) -> np.ndarray:
    """One image as uint8 [H, W, C]."""
    with _reading(found), Image.open(io.BytesIO(encoded)) as file:
        pixels = np.asarray(file.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@contextlib.contextmanager
def _reading(found: Prepared) -> Iterator[None]:
    """Makes one kind of error of the many that damaged files cause."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"the prepared files of {found.name} cannot be read: {error}. If they "
            f"are damaged, remove {found.folder} and prepare the set again"
        ) from error
