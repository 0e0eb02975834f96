"""Data sets as tensorflow-datasets prepares them, written without it or jcnn.data."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

_KINDS = "tensorflow_datasets.core.features"
_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    _TABLE.append(_byte)


def write_set(
    root: Path,
    splits: Mapping[str, Iterable[tuple[bytes, int]]],
    *,
    name: str = "tiny/1.0.0",
    form: str = "array_record",
    shape: tuple[int | None, ...] = (None, None, 3),
    dtype: str = "uint8",
    classes: int = 3,
    keys: tuple[str, str] = ("image", "label"),
) -> Path:
    """Write a set of encoded images and labels; return its folder.

    Args:
        root: Folder of sets, which need not exist.
        splits: The examples of each split.
        name: `set/version` or `set/config/version`.
        form: `array_record` or `tfrecord`.
        shape: Declared shape of the images.
        dtype: Declared dtype of the images.
        classes: Number of classes.
        keys: Names of the two features.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    base, described = name.partition("/")[0], []
    for split, examples in splits.items():
        records = [_example(*pair, *keys) for pair in examples]
        path = folder / f"{base}-{split}.{form}-00000-of-00001"
        if form == "tfrecord":
            write_tfrecord(path, records)
        else:
            _write_array_record(path, records)
        described.append({"name": split, "shardLengths": [str(len(records))]})
    dimensions = [str(n or -1) for n in shape]
    image = {"dtype": dtype, "shape": {"dimensions": dimensions}}
    features = {
        keys[0]: {"pythonClassName": f"{_KINDS}.image_feature.Image", "image": image},
        keys[1]: {
            "pythonClassName": f"{_KINDS}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
    }
    content = {"featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(content))
    info = {"name": base, "fileFormat": form, "splits": described}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def encode(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """Return the file of an image [H, W] or [H, W, C]."""
    file = io.BytesIO()
    grey = image.ndim == 3 and image.shape[2] == 1
    Image.fromarray(image[:, :, 0] if grey else image).save(file, kind, **options)
    return file.getvalue()


def crc32c(content: bytes) -> int:
    """Return a CRC-32C, byte by byte."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def write_tfrecord(path: Path, records: Iterable[bytes]) -> None:
    """Write records with their lengths and masked checksums."""
    with open(path, "wb") as file:
        for record in records:
            size = len(record).to_bytes(8, "little")
            file.write(size + masked(size) + record + masked(record))


def masked(content: bytes) -> bytes:
    """Return the checksum of some bytes as TFRecord files have it."""
    crc = crc32c(content)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def _write_array_record(path: Path, records: Iterable[bytes]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def _example(image: bytes, label: int, image_key: str, label_key: str) -> bytes:
    example = tf_example_pb2.Example()  # pyright: ignore
    example.features.feature[image_key].bytes_list.value.append(image)
    example.features.feature[label_key].int64_list.value.append(label)
    return example.SerializeToString(deterministic=True)
