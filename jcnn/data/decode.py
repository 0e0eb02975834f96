"""Decode a prepared data set into arrays.

The files are read here without tensorflow-datasets' own reader: that imports whatever
modules a set names, and decodes all of its features.
"""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from .._untrusted import read_object
from .dataset import DataError, Dataset, from_arrays
from .prepared import Prepared

_BATCH = 1000  # records read at a time: twice as fast as one by one
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # for EPS Pillow runs a program
_IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
_LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"


def decode(found: Prepared, split: str) -> Dataset:
    """Decodes every image of a split, in the order of its files.

    Pillow does it whether or not OpenCV is there: one decoder, one result.

    Args:
        found: where it is, from `jcnn.data.prepared.find`.
        split: one of its splits.

    Returns:
        The images, uint8 [N, H, W, C], and their labels.

    Raises:
        DataError: the set has no uint8 image or no class label, its images are of
            several sizes or larger than this machine's memory, a label is out of
            range, or the files are damaged.

    >>> from jcnn.data import digits, prepared
    >>> decode(prepared.find("digits", "test", digits.prepare()), "test").num_classes
    10
    """
    with _reading(found):
        description = read_object(found.folder / "features.json")
        features = description.get("featuresDict", {}).get("features", {})
        kinds = {key: feature["pythonClassName"] for key, feature in features.items()}
    image_key = _pick(found, kinds, _IMAGE, "image")
    label_key = _pick(found, kinds, _LABEL, "label")
    with _reading(found):
        dtype = features[image_key]["image"]["dtype"]
        shape = tuple(map(int, features[image_key]["image"]["shape"]["dimensions"]))
        num_classes = int(features[label_key]["classLabel"]["numClasses"])
    mode = _MODES.get(shape[-1]) if shape else None
    if mode is None or dtype != "uint8":
        raise DataError(
            f"{found.name} has images of {dtype} and shape {shape}; "
            "jcnn reads uint8 images of 1, 3 or 4 channels"
        )
    images, labels = None, []
    for encoded, label in _records(found, split, image_key, label_key):
        with _reading(found), _opened(encoded) as file:
            size = (file.height, file.width, shape[-1])
            if images is None:
                images = _room((sum(found.splits[split].values()), *size))
            if size == images.shape[1:]:
                pixels = np.asarray(file.convert(mode))
                images[len(labels)] = pixels.reshape(size)
        if size != images.shape[1:]:
            raise DataError(
                f"{found.name} has images of several sizes: image 0 of {split!r} is "
                f"{images.shape[1:]} and image {len(labels)} is {size}"
            )
        labels.append(label)
    assert images is not None  # `find` has refused an empty split
    try:
        return from_arrays(images, labels, num_classes)
    except ValueError as error:  # -1 stands for a label that is not known
        raise DataError(f"split {split!r} of {found.name}: {error}") from error


def _pick(found: Prepared, kinds: dict[str, Any], kind: str, usual: str) -> str:
    """The name of the feature of a kind: the usual one, or else the only one."""
    keys = [key for key in kinds if kinds[key] == kind]
    if usual in keys:
        return usual
    if len(keys) != 1:
        raise DataError(
            f"{found.name} is no image-classification set: of its features ("
            f"{', '.join(kinds)}) {len(keys)} are of the kind "
            f"{kind.rpartition('.')[2]}, and none of these is called {usual!r}"
        )
    return keys[0]


def _records(
    found: Prepared, split: str, image_key: str, label_key: str
) -> Iterator[tuple[bytes, int]]:
    """Yields encoded image and label of every example."""
    for name, count in found.splits[split].items():
        for start in range(0, count, _BATCH):
            with _reading(found):
                if start == 0:
                    reader = _reader(found, name, count)
                records = reader.read(list(range(start, min(start + _BATCH, count))))
                examples = [_example(r, image_key, label_key) for r in records]
            yield from examples


def _reader(found: Prepared, name: str, count: int) -> ArrayRecordReader:
    path = found.folder / name
    if not path.is_file():
        raise ValueError(f"there is no file {name}")
    options = "readahead_buffer_size:0,max_parallelism:0"
    reader = ArrayRecordReader(str(path), options=options)
    if reader.num_records() != count:
        raise ValueError(f"{name} has {reader.num_records()} examples, not {count}")
    return reader


def _example(record: bytes, image_key: str, label_key: str) -> tuple[bytes, int]:
    example = tf_example_pb2.Example.FromString(record)  # pyright: ignore
    features = example.features.feature
    (image,) = features[image_key].bytes_list.value
    (label,) = features[label_key].int64_list.value
    return image, label


def _opened(encoded: bytes) -> Image.Image:
    """An image of which no more is read yet than its size."""
    return Image.open(io.BytesIO(encoded), formats=_FORMATS)


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """Memory for all images, of which a small file can promise any number and size."""
    size, most = math.prod(shape), _memory()
    if size > most:
        raise ValueError(
            f"its images {list(shape)} take {size:.3g} bytes; "
            f"this machine has {most:.3g}"
        )
    return np.empty(shape, np.uint8)


def _memory() -> float:
    """Bytes of this machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


@contextlib.contextmanager
def _reading(found: Prepared) -> Iterator[None]:
    """Makes one kind of error of the many that damaged files cause."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise DataError(
            f"the prepared files of {found.name} cannot be read: {str(error)[:500]}. "
            f"If they are damaged, remove {found.folder} and prepare the set again"
        ) from error
