"""Decode a prepared data set into arrays.

The files are read here without tensorflow-datasets' own reader: that imports whatever
modules a set names, and decodes all of its features.
"""

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from .._untrusted import MOST_JSON, open_file, read_object
from . import tfrecord
from .dataset import DataError, Dataset, from_arrays
from .prepared import Prepared, label_files, reading

_BATCH = 1000  # records read at a time: twice as fast as one by one
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by the number of channels
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # for EPS Pillow runs a program
_IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
_LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"


def decode(found: Prepared, split: str) -> Dataset:
    """Decodes every image of a split, in the order of its files.

    Pillow does it whether or not OpenCV is there: one decoder, one result. Images come
    out as TensorFlow decodes them to uint8: of 16 bits the upper 8, palettes as colors,
    with the channels that the set declares or, if it does not, those of the files.

    Args:
        found: where it is, from `jcnn.data.prepared.find`.
        split: one of its splits.

    Returns:
        The images, uint8 [N, H, W, C], and their labels.

    Raises:
        DataError: the set has no uint8 image or no class label, its images are of
            several sizes, have several frames or are larger than this machine's memory,
            a label is out of range, or the files are damaged.

    >>> from jcnn.data import digits, prepared
    >>> decode(prepared.find("digits", "test", digits.prepare()), "test").num_classes
    10
    """
    with reading(found):
        description = read_object(found.folder / "features.json")
        features = description.get("featuresDict", {}).get("features", {})
        kinds = {key: feature["pythonClassName"] for key, feature in features.items()}
    image_key = _pick(found, kinds, _IMAGE, "image")
    label_key = _pick(found, kinds, _LABEL, "label")
    with reading(found):
        dtype = features[image_key]["image"]["dtype"]
        shape = tuple(map(int, features[image_key]["image"]["shape"]["dimensions"]))
        num_classes = int(features[label_key]["classLabel"]["numClasses"])
        names = _class_names(found, label_key)
    declared = max(shape[-1], 0) if len(shape) == 3 else None  # 0: not declared
    if dtype != "uint8" or declared not in (0, *_MODES):
        raise DataError(
            f"{found.name} has images of {dtype} and shape {shape}; "
            "jcnn reads uint8 images [height, width, channels] of 1 to 4 channels"
        )
    images, labels = None, []
    for encoded, label in _records(found, split, image_key, label_key):
        with reading(found), _opened(encoded) as file:
            size = (file.height, file.width, declared or _channels(file))
            if images is None:
                images = _room((sum(found.splits[split].values()), *size))
            if size == images.shape[1:]:
                images[len(labels)] = _pixels(file, size)
        if size != images.shape[1:]:
            raise DataError(
                f"{found.name} has images of several sizes: image 0 of {split!r} is "
                f"{images.shape[1:]} and image {len(labels)} is {size}"
            )
        labels.append(label)
    assert images is not None  # `find` has refused an empty split
    try:
        return from_arrays(images, labels, num_classes, class_names=names)
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
    with reading(found):
        for name, count in found.splits[split].items():
            path = found.folder / name
            if not path.is_file():
                raise ValueError(f"there is no file {name}")
            is_tfrecord = path.suffix.startswith(".tfrecord")
            read = tfrecord.read if is_tfrecord else _read_array_record
            for record in read(path, count):
                yield _example(record, image_key, label_key)


def _read_array_record(path: Path, count: int) -> Iterator[bytes]:
    options = "readahead_buffer_size:0,max_parallelism:0"
    reader = ArrayRecordReader(os.fsencode(path), options=options)
    if reader.num_records() != count:
        raise ValueError(
            f"{path.name} has {reader.num_records()} examples, not {count}"
        )
    for start in range(0, count, _BATCH):
        yield from reader.read(list(range(start, min(start + _BATCH, count))))


def _example(record: bytes, image_key: str, label_key: str) -> tuple[bytes, int]:
    example = tf_example_pb2.Example.FromString(record)  # pyright: ignore
    features = example.features.feature
    (image,) = features[image_key].bytes_list.value
    (label,) = features[label_key].int64_list.value
    return image, label


def _class_names(found: Prepared, label_key: str) -> list[str] | None:
    name = f"{label_key}.labels.txt"
    if name not in label_files(found):
        return None
    with open_file(found.folder / name, MOST_JSON) as file:
        lines = file.read().decode().split("\n")
    return [line.strip() for line in lines if line.strip()]


def _opened(encoded: bytes) -> Image.Image:
    """An image of which no more is read yet than its size."""
    return Image.open(io.BytesIO(encoded), formats=_FORMATS)


def _channels(file: Image.Image) -> int:
    """How many channels TensorFlow gives an image if it is not told."""
    if file.mode in ("P", "CMYK") or file.format == "GIF":
        return 4 if file.format == "PNG" and "transparency" in file.info else 3
    return len(file.getbands())


def _pixels(file: Image.Image, size: tuple[int, int, int]) -> np.ndarray:
    # Any PNG may hold an animation besides its image, any JPEG a preview.
    if file.format in ("GIF", "WEBP") and getattr(file, "is_animated", False):
        raise ValueError("an image has several frames; allowed: one")
    if file.mode.startswith("I"):  # grey of 16 bits, which `convert` would clip
        file = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8))
    return np.asarray(file.convert(_MODES[size[-1]])).reshape(size)


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
