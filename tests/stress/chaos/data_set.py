"""A small data set, as tensorflow-datasets prepares MNIST, in either kind of files."""

import io
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jcnn.data.tfrecord import crc32c
from jcnn.runs.store.folder import write_json

FORMATS = ("array_record", "tfrecord")
_SIZES = {"train": 320, "test": 100}
_KINDS = "tensorflow_datasets.core.features"
_FEATURES = {
    "image": {
        "pythonClassName": f"{_KINDS}.image_feature.Image",
        "image": {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}},
    },
    "label": {
        "pythonClassName": f"{_KINDS}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": "10"},
    },
}


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
    folder = data_dir / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    patterns, splits = rng.integers(0, 256, (10, 28, 28)), []
    for split, size in _SIZES.items():
        records = []
        for label in rng.integers(0, 10, size).tolist():
            noise = rng.integers(0, 256, (28, 28))
            pixels = ((patterns[label] + 3 * noise) // 4).astype(np.uint8)
            records.append(_example(pixels, label))
        path = folder / f"mnist-{split}.{form}-00000-of-00001"
        if form == "tfrecord":
            path.write_bytes(b"".join(map(_framed, records)))
        else:
            _write_array_record(path, records)
        splits.append({"name": split, "shardLengths": [str(size)]})
    write_json(folder / "features.json", {"featuresDict": {"features": _FEATURES}})
    info = {"name": "mnist", "fileFormat": form, "splits": splits}
    write_json(folder / "dataset_info.json", info)


def _example(pixels: np.ndarray, label: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    example = tf_example_pb2.Example()  # pyright: ignore
    example.features.feature["image"].bytes_list.value.append(file.getvalue())
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString(deterministic=True)


def _framed(record: bytes) -> bytes:
    """A record between its length and its checksums, as TFRecord files have it."""
    size = len(record).to_bytes(8, "little")
    sums = crc32c([size, record])
    masked = (sums >> 15 | sums << 17) + np.uint32(0xA282EAD8)
    first, second = (value.astype("<u4").tobytes() for value in masked)
    return size + first + record + second


def _write_array_record(path: Path, records: list[bytes]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
