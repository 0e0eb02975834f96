"""jcnn.data, on tiny sets prepared here: no network, no data from elsewhere."""

import io
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from jcnn import data
from jcnn.data import cache, digits, loading, prepared, splits, tfrecord

pytest.importorskip("tensorflow_datasets")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Every test has an empty cache, and data_dir, of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JCNN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _encode(image, file_format="PNG", **options):
    from PIL import Image

    file = io.BytesIO()
    image = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    Image.fromarray(image).save(file, file_format, **options)
    return file.getvalue()


def _prepare(
    root, splits, *, title="tiny", version="1.0.0", config=None, features=None
):
    """Prepares a set of {split: [example, ...]}; returns its folder."""
    import tensorflow_datasets as tfds

    default = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    feature_dict = tfds.features.FeaturesDict(features or default)

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = title
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = (
            [tfds.core.BuilderConfig(name=config, version=version)] if config else []
        )

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=feature_dict,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(rows) for s, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    builder = Tiny(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_path)


def _rows(images, labels, **options):
    return [
        {"image": _encode(image, **options), "label": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]


def _rgb(rng, count=5):
    images = rng.integers(0, 256, (count, 6, 4, 3), np.uint8)
    return images, rng.integers(0, 3, count)


def _edit_info(folder, edit):
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def _python(code, **environment):
    """Starts a fresh interpreter."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
    )


# from_arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("label_dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_from_arrays_keeps_the_values(rng, dtype, label_dtype):
    image = rng.integers(0, 256, (7, 3, 2, 1)).astype(dtype)
    label = rng.integers(0, 100, 7).astype(label_dtype)
    dataset = data.from_arrays(image, label, 1000)
    assert dataset.image.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert dataset.label.dtype == np.int32
    np.testing.assert_array_equal(dataset.image, image)
    np.testing.assert_array_equal(dataset.label, label)
    assert dataset.num_classes == 1000


def test_from_arrays_does_not_copy_what_is_right(rng):
    image, label = np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int32)
    dataset = data.from_arrays(image, label, np.int64(1))  # pyright: ignore
    assert dataset.image is image and dataset.label is label
    assert type(dataset.num_classes) is int


@pytest.mark.parametrize(
    "value, shown", [(np.nan, "nan"), (-np.inf, "-inf"), (1e39, "inf")]
)
def test_from_arrays_names_the_first_pixel_that_is_not_finite(value, shown):
    image = np.zeros((4, 3, 2, 2))
    image[2, 1, 0, 1] = image[3, 0, 0, 0] = value
    message = f"image[2, 1, 0, 1] is {shown} as float32; it must be finite"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.from_arrays(image, [0] * 4, 1)


@pytest.mark.parametrize("value", [-1, 10])
def test_from_arrays_names_the_first_label_out_of_range(value):
    image = np.zeros((4, 2, 2, 1), np.uint8)
    message = f"label[2] is {value}; it must be from 0 to 9 (num_classes=10)"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.from_arrays(image, [0, 9, value, value], 10)


_IMAGE = np.zeros((2, 3, 3, 1), np.uint8)


@pytest.mark.parametrize(
    "image, label, num_classes, error, message",
    [
        (_IMAGE[..., 0], [0, 1], 2, ValueError, r"\(2, 3, 3\).*image\[\.\.\., None\]"),
        (_IMAGE[0, 0], [0, 1], 2, ValueError, r"must be \[N, H, W, C\]$"),
        (_IMAGE[:0], [], 2, ValueError, "image has shape .* it is empty"),
        (_IMAGE[:, :0], [0, 1], 2, ValueError, "it is empty"),
        (_IMAGE.astype(int), [0, 1], 2, TypeError, "int64; it must be uint8 or float"),
        (_IMAGE > 0, [0, 1], 2, TypeError, "image has dtype bool"),
        ([[[[1]]], [[[1], [2]]]], [0, 1], 2, ValueError, "image is not a rectangular"),
        (_IMAGE, [0, 1, 1], 2, ValueError, r"\(3,\); it must be \(2,\)"),
        (_IMAGE, [[0], [1]], 2, ValueError, r"label has shape \(2, 1\)"),
        (_IMAGE, [0.0, 1.0], 2, TypeError, "label has dtype float64"),
        (_IMAGE, [True, False], 2, TypeError, "label has dtype bool"),
        (_IMAGE, [0, 1], 2.0, TypeError, "num_classes must be an int, got 2.0"),
        (_IMAGE, [0, 1], True, TypeError, "num_classes must be an int, got True"),
        (_IMAGE, [0, 1], 0, ValueError, "num_classes must be from 1 .* got 0"),
        (_IMAGE, [0, 1], 2**31 + 1, ValueError, "got 2147483649"),
    ],
)
def test_from_arrays_refuses(image, label, num_classes, error, message):
    with pytest.raises(error, match=message):
        data.from_arrays(image, label, num_classes)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 28, 28), (5, 4, 5, 90)])
def test_from_arrays_refuses_channels_first_before_anything_else(shape):
    message = f"image has shape {shape}, which looks like [N, C, H, W]; it must be"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.from_arrays(np.zeros(shape, bool), [0.5], 0)


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 4, 4, 512), (2, 64, 1, 8)])
def test_from_arrays_takes_any_number_of_channels_last(shape):
    assert data.from_arrays(np.zeros(shape), [0, 0], 1).image.shape == shape


def test_from_arrays_refuses_masked_arrays_before_anything_else():
    masked = np.ma.masked_equal(np.arange(2), 1)
    for value in masked, [masked, masked], [0, np.ma.masked]:
        with pytest.raises(TypeError, match="image is a masked array; it must be"):
            data.from_arrays(value, [[0.5]], 0)
        with pytest.raises(TypeError, match="label is a masked array; .*label.filled"):
            data.from_arrays(np.zeros((2, 3, 32, 32)), value, 0)


def test_from_arrays_names_the_classes():
    names = [f"class {i}" for i in range(20)]
    dataset = data.from_arrays(_IMAGE, [0, 1], 20, class_names=names)
    assert dataset.class_names == tuple(names)
    assert "num_classes=20, class_names=('class 0', 'class 1'," in repr(dataset)
    assert len(repr(dataset)) < 200
    assert data.from_arrays(_IMAGE, [0, 1], 20).class_names is None
    for wrong in "ab", [0, 1]:
        with pytest.raises(TypeError, match="class_names must be a list of str, got"):
            data.from_arrays(_IMAGE, [0, 1], 2, class_names=wrong)
    with pytest.raises(ValueError, match="class_names has 20 names; it must have 2,"):
        data.from_arrays(_IMAGE, [0, 1], 2, class_names=names)


# Decoding


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"file_format": "WEBP", "lossless": True, "exact": True}]
)
def test_load_gives_the_prepared_pixels_in_order(
    root, rng, monkeypatch, channels, options
):
    import tensorflow_datasets as tfds

    import jcnn.data.decode

    if channels == 1:
        options = {}  # WebP has no grey
    monkeypatch.setattr(jcnn.data.decode, "_BATCH", 4)
    images = rng.integers(0, 256, (11, 6, 4, channels), np.uint8)
    labels = rng.integers(0, 3, 11)
    splits = {
        "train": _rows(images[:9], labels[:9], **options),
        "test": _rows(images[9:], labels[9:], **options),
    }
    features = {
        "image": tfds.features.Image(shape=(6, 4, channels)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    _prepare(root, splits, features=features)
    for split, part in ("train", slice(9)), ("test", slice(9, 11)):
        for _ in range(2):  # decoded, then from the cache
            dataset = data.load("tiny", split)
            assert dataset.image.dtype == np.uint8 and dataset.label.dtype == np.int32
            np.testing.assert_array_equal(dataset.image, images[part])
            np.testing.assert_array_equal(dataset.label, labels[part])
            assert dataset.num_classes == 3


def test_images_are_converted_to_the_declared_channels(root, rng):
    grey = rng.integers(0, 256, (6, 4, 1), np.uint8)
    images, _ = _rgb(rng, 1)
    _prepare(root, {"train": _rows([grey, images[0]], [0, 1])})
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image[0], np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(dataset.image[1], images[0])


def test_images_of_several_sizes_are_refused(root, rng):
    images, _ = _rgb(rng, 2)
    _prepare(root, {"train": _rows([images[0], images[1, :5]], [0, 1])})
    with pytest.raises(ValueError, match=r"0 of 'train' is \(6, 4, 3\) and image 1 is"):
        data.load("tiny", "train")
    assert not list(cache.user_cache().rglob("*.npz"))


def test_features_of_other_names_are_found(root, rng):
    import tensorflow_datasets as tfds

    images, labels = _rgb(rng)
    features = {
        "picture": tfds.features.Image(shape=(6, 4, 3)),
        "breed": tfds.features.ClassLabel(names=["a", "b", "c"]),
        "size": tfds.features.Scalar(dtype=np.int64),
    }
    rows = [
        {"picture": row["image"], "breed": row["label"], "size": 1}
        for row in _rows(images, labels)
    ]
    _prepare(root, {"train": rows}, features=features)
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image, images)
    np.testing.assert_array_equal(dataset.label, labels)


@pytest.mark.parametrize("missing, kind", [("image", "Image"), ("label", "ClassLabel")])
def test_a_set_without_image_or_label_is_refused(root, rng, missing, kind):
    import tensorflow_datasets as tfds

    (row,) = _rows(*_rgb(rng, 1))
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
        "id": tfds.features.Text(),
    }
    del row[missing], features[missing]
    _prepare(root, {"train": [row | {"id": "x"}]}, features=features)
    with pytest.raises(ValueError, match=f"tiny:1.0.0 is no image.*id.* kind {kind}"):
        data.load("tiny", "train")


def _own_png(samples, depth, color, palette=None, alphas=None):
    """A PNG written here: `samples` are [H, W, channels] of so many bits each."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    height, width = samples.shape[:2]
    bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", head), (b"PLTE", palette), (b"tRNS", alphas)]
    parts += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, bytes(content)) for kind, content in parts if content is not None
    )


_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    "color, depth, channels",
    [(_GREY, depth, 1) for depth in (1, 2, 4, 8, 16)]
    + [(_PALETTE, depth, 3) for depth in (1, 2, 4, 8)]
    + [(_PALETTE, 8, 4), (_GREY_ALPHA, 8, 2), (_GREY_ALPHA, 16, 2)]
    + [(_RGB, 8, 3), (_RGB, 16, 3), (_RGBA, 8, 4), (_RGBA, 16, 4)],
)
def test_pngs_of_every_kind_are_decoded_as_tensorflow_does(
    root, rng, color, depth, channels, declared
):
    import tensorflow_datasets as tfds

    stored = 1 if color == _PALETTE else channels
    samples = rng.integers(0, 1 << depth, (6, 5, stored))
    if color == _PALETTE:
        colors = rng.integers(0, 256, (1 << depth, 4), np.uint8)
        expected = colors[samples[..., 0], :channels]
        alphas = colors[:, 3] if channels == 4 else None
        image = _own_png(samples, depth, color, colors[:, :3].copy(), alphas)
    else:
        # Upper bits where there are too many; the whole range where too few.
        most = (1 << depth) - 1
        expected = samples >> 8 if depth == 16 else samples * 255 // most
        image = _own_png(samples, depth, color)
    if not declared and (color, depth) == (_GREY_ALPHA, 16):
        expected = expected[..., [0, 0, 0, 1]]  # Pillow does not tell them from RGBA
    features = {
        "image": tfds.features.Image(shape=(6, 5, channels if declared else None)),
        "label": tfds.features.ClassLabel(num_classes=1),
    }
    _prepare(root, {"train": [{"image": image, "label": 0}]}, features=features)
    decoded = data.load("tiny", "train").image
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded[0], expected)


def test_deep_grey_in_a_set_of_colors(root, rng):
    grey = rng.integers(0, 1 << 16, (6, 4, 1))
    rows = [{"image": _own_png(grey, 16, _GREY), "label": 0}]
    _prepare(root, {"train": rows})
    image = data.load("tiny", "train").image[0]
    np.testing.assert_array_equal(image, np.repeat(grey >> 8, 3, axis=2))


def test_images_of_several_channels_are_refused_if_none_are_declared(root, rng):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(6, 4, None)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    images, _ = _rgb(rng, 1)
    rows = _rows([images[0], images[0, :, :, 0]], [0, 0])
    _prepare(root, {"train": rows}, features=features)
    with pytest.raises(ValueError, match=r"is \(6, 4, 3\) and image 1 is \(6, 4, 1\)"):
        data.load("tiny", "train")


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_animations_are_refused(root, rng, file_format):
    from PIL import Image

    images, _ = _rgb(rng, 2)
    more = {"save_all": True, "append_images": [Image.fromarray(images[1])]}
    _prepare(root, {"train": _rows(images[:1], [0], file_format=file_format, **more)})
    with pytest.raises(ValueError, match="an image has several frames; allowed: one"):
        data.load("tiny", "train")


def test_class_names_are_kept(root, rng):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(6, 4, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "gr\u00fcn", "dog"]),
    }
    folder = _prepare(root, {"train": _rows(*_rgb(rng))}, features=features)
    for _ in range(2):  # decoded, then from the cache
        dataset = data.load("tiny", "train")
        assert dataset.class_names == ("cat", "gr\u00fcn", "dog")
        assert data.load("tiny", "train[:2]").class_names == dataset.class_names
    (folder / "label.labels.txt").write_text("cat\nred\ndog\n")
    assert data.load("tiny", "train").class_names == ("cat", "red", "dog")
    (folder / "label.labels.txt").write_text("cat\n")
    with pytest.raises(
        ValueError, match="tiny:1.0.0: class_names has 1 names; it must"
    ):
        data.load("tiny", "train")
    (folder / "label.labels.txt").write_bytes(b"\xff\nred\ndog\n")
    with pytest.raises(ValueError, match="files of tiny:1.0.0 cannot be read: 'utf-8'"):
        data.load("tiny", "train")


# TFRecord


def _crc32c(content):
    """Bit by bit, as the polynomial division that it is."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(content):
    crc = _crc32c(content)
    masked = ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<I", masked)


def _write_tfrecord(path, records):
    sizes = [struct.pack("<Q", len(record)) for record in records]
    path.write_bytes(
        b"".join(
            size + _masked(size) + record + _masked(record)
            for size, record in zip(sizes, records, strict=True)
        )
    )


def _as_tfrecord(folder):
    """Writes every array_record file of a set once more, beside it."""
    from array_record.python.array_record_module import ArrayRecordReader

    for path in folder.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(path))
        other = path.with_name(path.name.replace("array_record", "tfrecord"))
        _write_tfrecord(other, reader.read(0, reader.num_records()))


def test_crc32c(rng):
    # RFC 3720, B.4; and the beginning of every event file that TensorFlow writes.
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        bytes(range(31, -1, -1)): 0x113FDB5C,
    }
    assert tfrecord.crc32c(list(vectors)).tolist() == list(vectors.values())
    assert _masked(struct.pack("<Q", 24)) == b'\xa3\x7fK"'
    lengths = [*range(67), 127, 128, 129, 1000, 2000]
    messages = [rng.bytes(n) for n in rng.permutation(lengths)]
    assert tfrecord.crc32c(messages).tolist() == list(map(_crc32c, messages))
    assert tfrecord.crc32c([]).tolist() == []


@pytest.mark.parametrize("batch", [(2, 1 << 20), (1000, 40), (1000, 1 << 20)])
def test_tfrecord(tmp_path, rng, monkeypatch, batch):
    monkeypatch.setattr(tfrecord, "_BATCH", batch)
    path = tmp_path / "a.tfrecord-00000-of-00001"
    records = [rng.bytes(n) for n in (30, 0, 5, 100)]
    _write_tfrecord(path, records)
    assert list(tfrecord.read(path, 4)) == records
    for count in 3, 5:
        with pytest.raises(ValueError, match=f"has 4 examples, not {count}"):
            list(tfrecord.read(path, count))
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            list(tfrecord.read(path, 4))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="damaged|examples, not 4"):
            list(tfrecord.read(path, 4))


@pytest.mark.parametrize("info", [{"fileFormat": "tfrecord"}, {}])
def test_sets_in_tfrecord_are_read(root, rng, info):
    images, labels = _rgb(rng)
    folder = _prepare(root, {"train": _rows(images, labels)})
    _as_tfrecord(folder)
    for path in folder.glob("*.array_record-*"):
        path.unlink()
    _edit_info(folder, lambda old: (old.pop("fileFormat"), old.update(info)))
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image, images)
    np.testing.assert_array_equal(dataset.label, labels)
    (path,) = folder.glob("*.tfrecord-*")
    path.unlink()
    with pytest.raises(ValueError, match="read: .*no file .*tfrecord|read: .*No such"):
        data.load("tiny", "train")


@pytest.mark.parametrize("gone", ["", "*.array_record-*", "*.tfrecord-*"])
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord", "riegeli"])
def test_sets_in_two_formats_are_read(root, rng, file_format, gone):
    images, labels = _rgb(rng)
    folder = _prepare(root, {"train": _rows(images, labels)})
    _as_tfrecord(folder)
    for path in folder.glob(gone) if gone else ():
        path.unlink()
    _edit_info(folder, lambda info: info.update(fileFormat=file_format))
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image, images)
    np.testing.assert_array_equal(dataset.label, labels)


# Parts of splits


_NUMBERS = ["", "0", "1", "7", "-1", "-6", "0%", "1%", "33%", "12.5%", "-40%", "100%"]


@pytest.mark.parametrize("count", [7, 10, 1001])
def test_parts_are_those_of_tensorflow_datasets(count):
    import tensorflow_datasets as tfds

    info = tfds.core.SplitInfo(name="train", shard_lengths=[count], num_bytes=0)
    whole = data.from_arrays(np.zeros((count, 1, 1, 1)), np.arange(count), count)
    for start in _NUMBERS:
        for stop in _NUMBERS:
            text = f"train[{start}:{stop}]"
            if text == "train[:]":
                continue  # which they refuse
            try:
                (part,) = tfds.core.ReadInstruction.from_spec(text).to_absolute(
                    {"train": info}
                )
            except ValueError:  # "[7:1%]" are percentages, too; never too large here
                pytest.fail(text)
            expected = list(range(count))[part.from_ : part.to]
            if expected:
                found = splits.join(text, {"train": whole}).label.tolist()
                assert found == expected, text
            else:
                with pytest.raises(ValueError, match="in which there is no example"):
                    splits.join(text, {"train": whole})


def test_sums_of_parts(root, rng, monkeypatch):
    images, labels = _rgb(rng, 8)
    rows = _rows(images, labels)
    _prepare(root, {"train": rows[:5], "val": rows[5:]})
    dataset = data.load("tiny", "val[-1:] + train[:60%]+val[:0]")
    np.testing.assert_array_equal(dataset.image, images[[7, 0, 1, 2]])
    np.testing.assert_array_equal(dataset.label, labels[[7, 0, 1, 2]])
    assert dataset.image.base is None  # what was cut off takes no memory
    # Both splits are kept whole: any part is read without decoding.
    monkeypatch.setitem(sys.modules, "jcnn.data.decode", None)
    np.testing.assert_array_equal(data.load("tiny", "train+val").image, images)
    for wrong, most in ("train[:6]", "-5 to 5"), ("train[-101%:]", "-100 to 100%"):
        with pytest.raises(ValueError, match=f"of 'train'; allowed: from {most}$"):
            data.load("tiny", wrong)


def test_sums_of_several_sizes_are_refused(root, rng):
    images, _ = _rgb(rng, 2)
    splits = {"a": _rows(images[:1], [0]), "b": _rows(images[1:, :5], [0])}
    _prepare(root, splits)
    with pytest.raises(
        ValueError, match=r"'a\+b', .* sizes: \(6, 4, 3\) and \(5, 4, 3"
    ):
        data.load("tiny", "a+b")


def test_images_that_are_not_uint8_are_refused(root, rng):
    import tensorflow_datasets as tfds

    rows = [{"image": _encode(np.zeros((6, 4), np.uint16)), "label": 0}]
    features = {
        "image": tfds.features.Image(shape=(6, 4, 1), dtype=np.uint16),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    _prepare(root, {"train": rows}, features=features)
    with pytest.raises(ValueError, match=r"images of uint16 and shape \(6, 4, 1\)"):
        data.load("tiny", "train")


def test_unknown_labels_are_refused(root, rng):
    images, _ = _rgb(rng, 3)
    _prepare(root, {"test": _rows(images, [0, -1, -1])})
    with pytest.raises(ValueError, match=r"'test' of tiny:1.0.0: label\[1\] is -1"):
        data.load("tiny", "test")


# Finding


def test_configs_and_versions(root, rng):
    images, _ = _rgb(rng, 4)
    _prepare(root, {"train": _rows(images[:1], [0])}, version="9.0.0")
    _prepare(root, {"train": _rows(images[1:2], [0])}, version="10.0.0")
    _prepare(root, {"train": _rows(images[2:3], [0])}, config="red.v-1")
    (root / "tiny" / "11.0.0").mkdir()  # not complete
    expected = {
        "tiny": 1,
        "tiny:10.0.0": 1,
        "tiny:9.0.0": 0,
        "tiny/red.v-1": 2,
        "tiny/red.v-1:1.0.0": 2,
    }
    for name, index in expected.items():
        np.testing.assert_array_equal(data.load(name, "train").image[0], images[index])


def test_data_dir_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/tfds")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepared.data_root("there") == Path.cwd() / "there"
    assert prepared.data_root("~/there") == tmp_path / "there"
    assert prepared.data_root() == tmp_path / "data"
    monkeypatch.setenv("JCNN_DATA_DIR", "")
    assert prepared.data_root() == Path("/tfds")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert prepared.data_root() == tmp_path / "tensorflow_datasets"


def test_a_set_that_is_not_prepared(root, rng, monkeypatch):
    _prepare(root, {"train": _rows(*_rgb(rng))}, title="other", version="2.1.0")
    _prepare(root, {"train": _rows(*_rgb(rng))}, config="red")
    # Found out without tensorflow-datasets, which could go to the network.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for name in "mnist", "other:2.0.0", "tiny", "tiny/blue", "tiny/red:2.0.0":
        with pytest.raises(FileNotFoundError) as error:
            data.load(name, "train")
        message = str(error.value)
        assert f"{name!r} is not prepared in {root}" in message
        assert "(found there: other:2.1.0, tiny/red:1.0.0)" in message
        assert "JCNN_DATA_DIR" in message
        assert message.endswith(prepared.prepare_command(name, root))
    with pytest.raises(FileNotFoundError, match=r"/none \(there is no such folder\)"):
        data.load("mnist", "train", data_dir=root / "none")
    (root / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"\(found there: nothing\)"):
        data.load("mnist", "train", data_dir=root / "empty")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the names")
def test_what_else_is_in_the_folders_does_not_matter(root, rng):
    images, labels = _rgb(rng)
    _prepare(root, {"train": _rows(images, labels)})
    odd = root.with_name(os.fsdecode(b"\xff"))
    root.rename(odd)
    folder = odd / "tiny" / "1.0.0"
    for place in folder, folder.parent, odd:
        (place / ".DS_Store").write_bytes(b"\0")
        (place / "lost+found").mkdir(mode=0)
        (place / "dangling").symlink_to("nowhere")
        os.mkdir(os.fsencode(place) + b"/\xfe.txt")
    (folder / "x.labels.txt").symlink_to("nowhere")
    (folder.parent / "2.0.0").symlink_to("nowhere")
    dataset = data.load("tiny", "train", data_dir=odd)
    np.testing.assert_array_equal(dataset.image, images)
    with pytest.raises(FileNotFoundError, match=r"\(found there: tiny:1.0.0\)"):
        data.load("mnist", "train", data_dir=odd)


def test_the_command_prepares_array_record_in_that_folder(monkeypatch):
    root = Path('/my "own" folder/it\'s $HOME')
    words = shlex.split(prepared.prepare_command("set/config:1.0.0", root))
    calls = []
    fake = types.ModuleType("tensorflow_datasets")

    def builder(name, **options):
        def prepare():
            calls.append((name, options))

        return types.SimpleNamespace(download_and_prepare=prepare)

    monkeypatch.setattr(fake, "builder", builder, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    assert words[0] == "uvx" and words[-3:-1] == ["python", "-c"]
    exec(words[-1], {})
    options = {"data_dir": str(root), "file_format": "array_record"}
    assert calls == [("set/config:1.0.0", options)]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../tiny", "/tiny", "tiny/", "tiny/../tiny", "tiny/.", "a/b/c"]
    + ["tiny:", "tiny:1", "tiny:1.0.0/x", "tiny\n", "ti ny", "t*", "~", "tíny", "a\\b"],
)
def test_odd_names_are_refused(root, rng, name):
    _prepare(root, {"train": _rows(*_rgb(rng, 1))})
    with pytest.raises(ValueError, match="name is .*; it must look like 'mnist'"):
        data.load(name, "train")


@pytest.mark.parametrize("name, split", [(b"digits", "train"), ("digits", None)])
def test_name_and_split_are_str(name, split):
    with pytest.raises(TypeError, match="must be a str, got (b'digits'|None)"):
        data.load(name, split)
    assert not cache.user_cache().exists()


def test_unknown_and_empty_splits_are_refused(root, rng):
    rows = _rows(*_rgb(rng, 1))
    folder = _prepare(root, {"train": rows, "test": rows})
    for split in "valid", "train[1]", "train[1:2:3]", "", "../train", "train+valid":
        with pytest.raises(ValueError, match="splits are 'train', 'test'") as error:
            data.load("tiny", split)
        missing = split.rpartition("+")[2]
        assert f"tiny:1.0.0 has no split {missing!r}" in str(error.value)
    _edit_info(folder, lambda info: info["splits"][1].pop("shardLengths"))
    with pytest.raises(ValueError, match="split 'test' of tiny:1.0.0 is empty"):
        data.load("tiny", "test")
    _edit_info(folder, lambda info: info.pop("splits"))
    with pytest.raises(ValueError, match="its splits are none at all"):
        data.load("tiny", "test")


def test_files_of_another_format_are_refused(root, rng):
    folder = _prepare(root, {"train": _rows(*_rgb(rng, 1))})
    _edit_info(folder, lambda info: info.update(fileFormat="parquet"))
    for path in folder.glob("*array_record*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds parquet files; .* array_record and"):
        data.load("tiny", "train")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"splits": [{}]}'])
def test_a_damaged_dataset_info_is_refused(root, rng, content):
    folder = _prepare(root, {"train": _rows(*_rgb(rng, 1))})
    (folder / "dataset_info.json").write_bytes(content)
    with pytest.raises(ValueError, match="dataset_info.json is damaged: "):
        data.load("tiny", "train")


def test_missing_examples_are_noticed(root, rng):
    folder = _prepare(root, {"train": _rows(*_rgb(rng, 5))})
    _edit_info(folder, lambda info: info["splits"][0].update(shardLengths=["6"]))
    with pytest.raises(ValueError, match="prepared files of tiny:1.0.0 cannot be read"):
        data.load("tiny", "train")


def _halve(path):
    os.truncate(path, path.stat().st_size // 2)


def _zero(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [_halve, _zero, Path.unlink])
@pytest.mark.parametrize("pattern", ["*array_record*", "features.json"])
def test_damaged_files_are_refused(root, rng, damage, pattern):
    folder = _prepare(root, {"train": _rows(*_rgb(rng))})
    (path,) = folder.glob(pattern)
    damage(path)
    with pytest.raises(ValueError, match="prepared files of tiny:1.0.0 cannot be read"):
        data.load("tiny", "train")


def test_a_damaged_image_is_refused(root, rng):
    rows = _rows(*_rgb(rng, 2))
    rows[1]["image"] = rows[1]["image"][:-40]
    _prepare(root, {"train": rows})
    with pytest.raises(ValueError, match="cannot be read: .*truncated"):
        data.load("tiny", "train")


# The cache


def _fingerprint(root):
    return prepared.fingerprint(prepared.find("tiny", "train", root), "train")


def _cached(root, rng):
    """Loads a small set; returns it and the file in the cache."""
    _prepare(root, {"train": _rows(*_rgb(rng))})
    dataset = data.load("tiny", "train")
    (path,) = cache.user_cache().rglob("*.npz")
    return dataset, path


def _same(left, right):
    return (
        np.array_equal(left.image, right.image)
        and np.array_equal(left.label, right.label)
        and left.num_classes == right.num_classes
        and left.class_names == right.class_names
    )


def test_the_cache_is_used(root, rng, monkeypatch):
    dataset, path = _cached(root, rng)
    monkeypatch.setitem(sys.modules, "jcnn.data.decode", None)
    assert _same(data.load("tiny", "train"), dataset)
    assert os.listdir(path.parent) == [path.name]
    path.unlink()
    with pytest.raises(
        ModuleNotFoundError,
        match="there is no .* data: pip install array-record .*pillow",
    ):
        data.load("tiny", "train")


def test_a_set_that_changed_is_decoded_again(root, rng):
    dataset, path = _cached(root, rng)
    shutil.rmtree(root / "tiny")
    images, labels = _rgb(rng)
    _prepare(root, {"train": _rows(images, labels)})
    changed = data.load("tiny", "train")
    np.testing.assert_array_equal(changed.image, images)
    assert not np.array_equal(changed.image, dataset.image)
    assert os.listdir(path.parent) == [path.name]  # the old one is gone


def test_a_set_replaced_by_one_of_equal_names_sizes_and_times(root, rng):
    images, _ = _rgb(rng, 3)
    for labels in [0, 1, 2], [2, 1, 0]:
        shutil.rmtree(root / "tiny", ignore_errors=True)
        folder = _prepare(root, {"train": _rows(images, labels)})
        _as_tfrecord(folder)  # where nothing is compressed
        for path in folder.glob("*.array_record-*"):
            path.unlink()
        for path in *folder.iterdir(), folder:
            os.utime(path, (1, 1))
        assert data.load("tiny", "train").label.tolist() == labels


def test_equal_names_in_two_folders_do_not_mix(root, rng):
    images, _ = _rgb(rng, 2)
    folders = root / "one", root / "two"
    for folder, image in zip(folders, images, strict=True):
        path = _prepare(folder, {"train": _rows([image], [0])})
        for file in path.iterdir():
            os.utime(file, (0, 0))
    for folder, image in zip(folders, images, strict=True):
        dataset = data.load("tiny", "train", data_dir=folder)
        np.testing.assert_array_equal(dataset.image[0], image)


def test_no_damage_to_the_cache_is_read(root, rng):
    dataset, path = _cached(root, rng)
    source = _fingerprint(root)
    content = path.read_bytes()
    assert _same(cache.read(path, source), dataset)
    unnoticed = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found = cache.read(path, source)
        assert found is None or _same(found, dataset), position
        unnoticed += found is not None
    assert unnoticed < len(content) / 4  # dates and the like
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert cache.read(path, source) is None, length


def test_a_damaged_shape_in_the_cache_is_not_believed(tmp_path, rng):
    # Smaller images still fit the data that follows: only the checksum can tell.
    image = rng.integers(0, 256, (9, 64, 32, 1), np.uint8)
    path = tmp_path / "set.npz"
    dataset = data.from_arrays(image, np.arange(9), 9)
    cache.write(path, "source", dataset)
    assert _same(cache.read(path, "source"), dataset)
    content = path.read_bytes()
    assert content.count(b"(9, 64, 32, 1)") == 1
    path.write_bytes(content.replace(b"(9, 64, 32, 1)", b"(9, 24, 32, 1)"))
    assert cache.read(path, "source") is None


@pytest.mark.parametrize("damage", [_halve, _zero, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_rebuilt(root, rng, damage):
    dataset, path = _cached(root, rng)
    content = path.read_bytes()
    damage(path)
    assert _same(data.load("tiny", "train"), dataset)
    source = _fingerprint(root)
    assert path.stat().st_size == len(content)
    assert _same(cache.read(path, source), dataset)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle in the cache was run",))


def test_pickles_in_the_cache_are_not_run(root, rng):
    dataset, path = _cached(root, rng)
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["image"] = np.array([_Bomb()], object)
    np.savez(path, **arrays)
    assert cache.read(path, str(arrays["source"])) is None
    assert _same(data.load("tiny", "train"), dataset)


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    root, rng, tmp_path, monkeypatch
):
    images, labels = _rgb(rng)
    _prepare(root, {"train": _rows(images, labels)})
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="not kept .*XDG_CACHE_HOME") as caught:
        dataset = data.load("tiny", "train")
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(dataset.image, images)


@pytest.mark.parametrize(
    "error, expected",
    [
        (OSError("disk full"), pytest.raises(OSError, match="disk full")),
        (KeyboardInterrupt(), pytest.raises(KeyboardInterrupt)),
    ],
)
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, error, expected):
    path = tmp_path / "decoded" / "set.npz"

    def savez(file, **arrays):
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "savez", savez)
    with expected:
        cache.write(path, "source", data.from_arrays(_IMAGE, [0, 1], 2))
    assert os.listdir(path.parent) == []


def test_a_relative_xdg_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in "", "relative":
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.user_cache() == tmp_path / ".cache" / "jcnn"


# The digits


def _assert_digits(train, test):
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    image = np.concatenate([train.image, test.image])
    assert train.image.shape == (1437, 8, 8, 1) and test.image.shape == (360, 8, 8, 1)
    # v -> v * 255 // 16 loses nothing: the way back is the ceiling of p * 16 / 255.
    np.testing.assert_array_equal(
        -(-image.reshape(-1, 64).astype(int) * 16 // 255), values
    )
    np.testing.assert_array_equal(np.concatenate([train.label, test.label]), labels)
    assert set(np.unique(image)) == {v * 255 // 16 for v in range(17)}
    assert train.num_classes == test.num_classes == 10


_LOAD_DIGITS = """
import sys
from jcnn import data
slow = {"tensorflow_datasets", "PIL", "sklearn", "array_record"}
assert not slow & sys.modules.keys()
data.load("digits", "train"), data.load("digits", "test")
print(sorted(slow & sys.modules.keys()))
"""


def test_digits_by_two_processes_at_once_quietly(monkeypatch):
    processes = [_python(_LOAD_DIGITS) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for out, err in outputs:
        assert err == "" and out.count("\n") == 1
    assert any("tensorflow_datasets" in out for out, _ in outputs)
    assert sorted(os.listdir(cache.user_cache())) == ["decoded", "tfds"]
    assert os.listdir(cache.user_cache() / "tfds" / "digits") == [digits.VERSION]
    assert len(os.listdir(cache.user_cache() / "decoded")) == 2
    # From here on it is read without any of the extra's packages.
    assert _python(_LOAD_DIGITS).communicate(timeout=300) == ("[]\n", "")
    monkeypatch.setitem(sys.modules, "jcnn.data.decode", None)
    named = data.load(f"digits:{digits.VERSION}", "test", data_dir="ignored")
    _assert_digits(data.load("digits", "train"), named)


_KILLED = """
import os, signal
from PIL import Image
from jcnn import data
save, calls = Image.Image.save, []
def killing_save(self, *args):
    calls.append(1)
    if len(calls) == 1600:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, *args)
Image.Image.save = killing_save
data.load("digits", "train")
"""


def test_a_killed_preparation_of_the_digits_is_done_again(capfd):
    process = _python(_KILLED)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert list(cache.user_cache().rglob("*.array_record*"))  # it had begun
    assert not (cache.user_cache() / "tfds" / "digits" / digits.VERSION).exists()
    with pytest.raises(ValueError, match="digits:1.0.0 has no split 'valid'"):
        data.load("digits", "valid")
    _assert_digits(data.load("digits", "train"), data.load("digits", "test"))
    assert capfd.readouterr() == ("", "")


def test_a_failed_preparation_of_the_digits_leaves_nothing(monkeypatch):
    from jcnn.data import digits_builder

    def fail(**options):
        raise RuntimeError("no digits")

    monkeypatch.setattr(digits_builder, "load_digits", fail)
    with pytest.raises(RuntimeError, match="no digits"):
        data.load("digits", "train")
    assert not [path for path in cache.user_cache().rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "pattern, damage",
    [
        ("*-test.*", Path.unlink),
        ("*-test.*", _halve),
        ("dataset_info.json", Path.unlink),
        ("dataset_info.json", _zero),
        ("features.json", _halve),
    ],
)
def test_damaged_digits_are_prepared_again(monkeypatch, pattern, damage):
    folder = digits.prepare() / "digits" / digits.VERSION
    (path,) = folder.glob(pattern)
    damage(path)
    _assert_digits(data.load("digits", "train"), data.load("digits", "test"))
    assert sorted(os.listdir(cache.user_cache())) == ["decoded", "tfds"]
    shutil.rmtree(cache.user_cache() / "decoded")
    monkeypatch.setitem(sys.modules, "jcnn.data.digits_builder", None)
    _assert_digits(data.load("digits", "train"), data.load("digits", "test"))


def _assert_digits_with_one_warning(match):
    with pytest.warns(RuntimeWarning, match=match) as caught:
        both = data.load("digits", "train+test")
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _assert_digits(data.load("digits", "train"), data.load("digits", "test"))
        with pytest.raises(ValueError, match="digits:1.0.0 has no split 'valid'"):
            data.load("digits", "valid")
    assert len(both.label) == 1797 and both.num_classes == 10


def test_digits_where_the_cache_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _assert_digits_with_one_warning("not kept .*file.* XDG_CACHE_HOME chooses")


def test_a_user_without_home(monkeypatch):
    def getpw(*args):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", getpw)
    for variable in "HOME", "XDG_CACHE_HOME", "JCNN_DATA_DIR":
        monkeypatch.delenv(variable)
    with pytest.raises(OSError):  # what those who write there expect
        cache.user_cache().mkdir(parents=True)
    _assert_digits_with_one_warning("not kept .* XDG_CACHE_HOME chooses")
    with pytest.raises(FileNotFoundError, match="no such home; set data_dir or JCNN_"):
        data.load("mnist", "train")


_FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from jcnn.data import load
print(len(load("digits", "test").label))
"""


def test_digits_where_the_disk_is_full():
    out, err = _python(_FULL).communicate(timeout=300)
    assert out == "360\n", err
    assert err.count("Warning") == err.count("XDG_CACHE_HOME") == 1
    assert not [path for path in cache.user_cache().rglob("*") if path.is_file()]


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jcnn.data.digits_builder", None)
    with pytest.raises(ModuleNotFoundError, match="there is no .* data: pip install"):
        loading.load("digits", "train")
