"""Data sets that tensorflow-datasets prepared: finding and decoding them."""

import json
import os
import re
import shlex
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jcnn import data
from jcnn.data import prepared, tfrecord
from tests.helpers.prepared import crc32c, encode, masked, write_set, write_tfrecord


def _pairs(images, labels, kind="PNG", **options):
    return [(encode(i, kind, **options), int(n)) for i, n in zip(images, labels)]


def _random(rng, count=5, channels=3):
    images = rng.integers(0, 256, (count, 6, 4, channels), np.uint8)
    return images, rng.integers(0, 3, count)


def _edit(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# Decoding


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_set_that_tensorflow_datasets_prepared(root, rng, monkeypatch, file_format):
    """The real thing: features of other names, other features, config, class names."""
    import tensorflow_datasets as tfds

    images, labels = _random(rng, 7)
    splits = {"train": slice(5), "test": slice(5, 7)}

    class Own(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "own"
        VERSION = tfds.core.Version("2.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="red.v-1", version="2.1.0")]

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(None, None, 3)),
                "breed": tfds.features.ClassLabel(names=["cat", "gr\u00fcn", "dog"]),
                "size": tfds.features.Scalar(dtype=np.int64),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(
                builder=self, features=features, disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(part) for s, part in splits.items()}

        def _generate_examples(self, part):
            for i in range(7)[part]:
                picture, label = encode(images[i]), int(labels[i])
                yield i, {"picture": picture, "breed": label, "size": 1}

    builder = Own(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    folder = Path(builder.data_path)
    if file_format == "tfrecord":  # which it writes by TensorFlow only
        _convert(folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for split, part in splits.items():
        for _ in range(2):  # decoded, then from the cache
            dataset = data.load("own/red.v-1", split)
            np.testing.assert_array_equal(dataset.image, images[part])
            np.testing.assert_array_equal(dataset.label, labels[part])
            assert dataset.image.dtype == np.uint8 and dataset.label.dtype == np.int32
            assert dataset.num_classes == 3
            assert dataset.class_names == ("cat", "gr\u00fcn", "dog")
    both = data.load("own/red.v-1:2.1.0", "test+train[:2]")
    np.testing.assert_array_equal(both.image, images[[5, 6, 0, 1]])


def _convert(folder):
    from array_record.python.array_record_module import ArrayRecordReader

    for path in folder.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(path))
        other = path.with_name(path.name.replace("array_record", "tfrecord"))
        write_tfrecord(other, reader.read(0, reader.num_records()))
        path.unlink()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_are_those_encoded(root, rng, channels):
    images, labels = _random(rng, 3, channels)
    pairs = _pairs(images, labels)
    if channels > 2:  # WebP has no grey
        pairs += _pairs(images, labels, "WEBP", lossless=True, exact=True)
    write_set(root, {"train": pairs}, shape=(6, 4, channels))
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image, [*images, *images][: len(pairs)])
    assert dataset.label.tolist() == [*labels, *labels][: len(pairs)]


def test_more_examples_than_are_read_at_once(root):
    images = [encode(np.full((1, 1), n, np.uint8)) for n in range(9)]
    pairs = [(images[n % 9], n % 3) for n in range(2003)]
    write_set(root, {"train": pairs}, shape=(1, 1, 1))
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image.ravel(), np.arange(2003) % 9)
    np.testing.assert_array_equal(dataset.label, np.arange(2003) % 3)


def test_several_files(root, rng):
    images, labels = _random(rng, 5)
    folder = write_set(root, {"train": _pairs(images[:3], labels[:3])})
    part = folder / "tiny-train.array_record-00000-of-00001"
    part.rename(folder / "tiny-train.array_record-00000-of-00002")
    write_set(root, {"train": _pairs(images[3:], labels[3:])})
    part.rename(folder / "tiny-train.array_record-00001-of-00002")
    info = folder / "dataset_info.json"
    _edit(info, lambda info: info["splits"][0].update(shardLengths=["3", "2"]))
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image, images)
    np.testing.assert_array_equal(dataset.label, labels)


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


@pytest.mark.parametrize(
    "color, depth, channels",
    [(_GREY, depth, 1) for depth in (1, 2, 4, 8, 16)]
    + [(_PALETTE, depth, 3) for depth in (1, 2, 4, 8)]
    + [(_PALETTE, 8, 4), (_GREY_ALPHA, 8, 2), (_GREY_ALPHA, 16, 2)]
    + [(_RGB, 8, 3), (_RGB, 16, 3), (_RGBA, 8, 4), (_RGBA, 16, 4)],
)
def test_pngs_of_every_kind_are_decoded_as_tensorflow_does(
    root, rng, color, depth, channels
):
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
    write_set(root, {"train": [(image, 0)]}, shape=(6, 5, channels))
    np.testing.assert_array_equal(data.load("tiny", "train").image[0], expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_images_in_a_set_of_colors(root, rng, depth):
    grey = rng.integers(0, 1 << depth, (6, 4, 1))
    write_set(root, {"train": [(_own_png(grey, depth, _GREY), 0)]})
    image = data.load("tiny", "train").image[0]
    np.testing.assert_array_equal(image, np.repeat(grey >> depth - 8, 3, axis=2))


def _rejected(match, name="tiny", split="train"):
    with pytest.raises(data.DataError, match=match):
        data.load(name, split)


def test_images_of_several_sizes_are_rejected(root, rng, tmp_path):
    images, _ = _random(rng, 2)
    write_set(root, {"train": _pairs([images[0], images[1, :5]], [0, 1])})
    _rejected(r"\(6, 4, 3\) at 0 and \(5, 4, 3\) at 1 of 'train'")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_are_rejected(root, rng, kind):
    images, _ = _random(rng, 2)
    more = {"save_all": True, "append_images": [Image.fromarray(images[1])]}
    write_set(root, {"train": _pairs(images[:1], [0], kind, **more)})
    _rejected("an image must have one frame, got several")


@pytest.mark.parametrize(
    "shape, dtype",
    [((6, 4, 1), "uint16"), ((6, 4), "uint8"), ((6, 4, 5), "uint8")]
    + [((6, 4, None), "uint8")],
)
def test_other_images_are_rejected(root, rng, shape, dtype):
    write_set(root, {"train": _pairs(*_random(rng))}, shape=shape, dtype=dtype)
    shown = re.escape(f"got {dtype} {[n or -1 for n in shape]}")
    _rejected(f"uint8 .height, width, channels. of 1 to 4 channels, {shown}")


@pytest.mark.parametrize("kind, key", [("Image", "image"), ("ClassLabel", "label")])
def test_a_set_without_image_or_label_is_rejected(root, rng, kind, key):
    folder = write_set(root, {"train": _pairs(*_random(rng))})

    def rename(content):
        content["featuresDict"]["features"][key]["pythonClassName"] = "evil.Text"

    _edit(folder / "features.json", rename)
    _rejected(f"have one {kind} or one called '{key}' .* features image, label")
    assert "evil" not in sys.modules


def test_the_usual_of_several_images_is_read(root, rng):
    images, labels = _random(rng)
    folder = write_set(root, {"train": _pairs(images, labels)})

    def add(content):
        features = content["featuresDict"]["features"]
        features["mask"] = features["image"]

    _edit(folder / "features.json", add)
    np.testing.assert_array_equal(data.load("tiny", "train").image, images)


def test_unknown_labels_are_rejected(root, rng):
    write_set(root, {"test": _pairs(_random(rng, 3)[0], [0, -1, -1])})
    _rejected(r"tiny:1.0.0 .*label must be from 0 to 2, got -1 at \[1\]", split="test")


def test_wrong_class_names_are_rejected(root, rng):
    folder = write_set(root, {"train": _pairs(*_random(rng))})
    (folder / "label.labels.txt").write_text("cat\n")
    _rejected("tiny:1.0.0 .*class_names must have 3 names")
    (folder / "label.labels.txt").write_bytes(b"\xff\nred\ndog\n")
    _rejected("files of tiny:1.0.0 cannot be read: .*utf-8")


# TFRecord


def test_crc32c(rng):
    # RFC 3720, B.4
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        bytes(range(31, -1, -1)): 0x113FDB5C,
    }
    assert tfrecord.crc32c(list(vectors)).tolist() == list(vectors.values())
    assert list(map(crc32c, vectors)) == list(vectors.values())
    # The beginning of every event file that TensorFlow writes.
    assert masked(struct.pack("<Q", 24)) == b'\xa3\x7fK"'
    messages = [rng.bytes(n) for n in rng.permutation([*range(67), 127, 128, 2000])]
    assert tfrecord.crc32c(messages).tolist() == list(map(crc32c, messages))
    assert tfrecord.crc32c([]).tolist() == []


def test_tfrecord(tmp_path, rng):
    path = tmp_path / "a.tfrecord-00000-of-00001"
    records = [rng.bytes(n) for n in (30, 0, 5, 100)]
    write_tfrecord(path, records)
    assert list(tfrecord.read(path, 4)) == records
    for count in 3, 5:
        with pytest.raises(ValueError, match=f"have {count} examples, got (4|more)"):
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
        with pytest.raises(ValueError, match="damaged|4 examples, got"):
            list(tfrecord.read(path, 4))


def test_tfrecord_in_batches(tmp_path, rng):
    path = tmp_path / "a.tfrecord-00000-of-00001"
    records = [rng.bytes(n % 5) for n in range(2500)]
    write_tfrecord(path, records)
    assert list(tfrecord.read(path, 2500)) == records
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        list(tfrecord.read(path, 2500))


@pytest.mark.parametrize("declared", ["array_record", "tfrecord", "riegeli", None])
@pytest.mark.parametrize("forms", [("array_record",), ("tfrecord",), prepared._FORMATS])
def test_the_files_that_are_there_are_read(root, rng, forms, declared):
    images, labels = _random(rng)
    for form in forms:
        folder = write_set(root, {"train": _pairs(images, labels)}, form=form)
    info = folder / "dataset_info.json"
    _edit(info, lambda old: old.pop("fileFormat") and old.update(fileFormat=declared))
    dataset = data.load("tiny", "train")
    np.testing.assert_array_equal(dataset.image, images)
    np.testing.assert_array_equal(dataset.label, labels)


# Finding


def test_configs_and_versions(root, rng):
    images, _ = _random(rng, 3)
    for image, name in zip(images, ("9.0.0", "10.0.0", "red.v-1/1.0.0")):
        write_set(root, {"train": _pairs([image], [0])}, name=f"tiny/{name}")
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


def test_a_set_that_is_not_prepared(root, rng):
    splits = {"train": _pairs(*_random(rng, 1))}
    write_set(root, splits, name="other/2.1.0")
    write_set(root, splits, name="tiny/red/1.0.0")
    for name in "mnist", "other:2.0.0", "tiny", "tiny/blue", "tiny/red:2.0.0":
        with pytest.raises(FileNotFoundError) as error:
            data.load(name, "train")
        message = str(error.value)
        assert f"{name!r} is not prepared in {root}" in message
        assert "(found there: other:2.1.0, tiny/red:1.0.0)" in message
        assert "JCNN_DATA_DIR" in message
    with pytest.raises(FileNotFoundError, match=r"/none \(there is no such folder\)"):
        data.load("mnist", "train", data_dir=root / "none")
    (root / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"\(found there: nothing\)"):
        data.load("mnist", "train", data_dir=root / "empty")


def test_the_command_prepares_array_record_in_that_folder(monkeypatch):
    root = Path('/my "own" folder/it\'s $HOME')
    with pytest.raises(FileNotFoundError) as error:
        data.load("set/config:1.0.0", "train", data_dir=root)
    words = shlex.split(str(error.value).splitlines()[-1])
    calls = []

    def builder(name, **options):
        prepare = lambda: calls.append((name, options))  # noqa: E731
        return types.SimpleNamespace(download_and_prepare=prepare)

    fake = types.SimpleNamespace(builder=builder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    assert words[0] == "uvx" and words[-3:-1] == ["python", "-c"]
    exec(words[-1], {})
    options = {"data_dir": str(root), "file_format": "array_record"}
    assert calls == [("set/config:1.0.0", options)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems reject the names")
def test_what_else_is_in_the_folders_does_not_matter(root, rng):
    images, labels = _random(rng)
    write_set(root, {"train": _pairs(images, labels)})
    odd = root.with_name(os.fsdecode(b"\xff"))
    root.rename(odd)
    folder = odd / "tiny" / "1.0.0"
    for place in folder, folder.parent, odd:
        (place / ".DS_Store").write_bytes(b"\0")
        (place / "lost+found").mkdir(mode=0)
        (place / "dangling").symlink_to("nowhere")
        os.mkdir(os.fsencode(place) + b"/\xfe.txt")
    (folder.parent / "2.0.0").symlink_to("nowhere")
    dataset = data.load("tiny", "train", data_dir=odd)
    np.testing.assert_array_equal(dataset.image, images)
    with pytest.raises(FileNotFoundError, match=r"\(found there: tiny:1.0.0\)"):
        data.load("mnist", "train", data_dir=odd)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../tiny", "/tiny", "tiny/", "tiny/../tiny", "tiny/.", "a/b/c"]
    + ["tiny:", "tiny:1", "tiny:1.0.0/x", "tiny\n", "ti ny", "t*", "~", "tíny", "a\\b"],
)
def test_odd_names_are_rejected(root, rng, name):
    write_set(root, {"train": _pairs(*_random(rng, 1))})
    with pytest.raises(ValueError, match="name must be like 'mnist'.*, got"):
        data.load(name, "train")


def test_unknown_and_empty_splits_are_rejected(root, rng):
    pairs = _pairs(*_random(rng, 1))
    folder = write_set(root, {"train": pairs, "test": pairs, "none": []})
    for split in "valid", "train[1]", "train[1:2:3]", "", "../train", "train+valid":
        message = "split must be 'train' or 'test' or 'none' of tiny:1.0.0.*, got "
        with pytest.raises(ValueError, match=message + repr(split.split("+")[-1])[:3]):
            data.load("tiny", split)
    _rejected("tiny:1.0.0 must have examples in 'none', got none", split="none")
    _edit(folder / "dataset_info.json", lambda i: i["splits"][1].pop("shardLengths"))
    _rejected("tiny:1.0.0 must have examples in 'test', got none", split="test")


def test_a_user_without_home(monkeypatch):
    import pwd

    def getpw(*args):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", getpw)
    for variable in "HOME", "XDG_CACHE_HOME", "JCNN_DATA_DIR":
        monkeypatch.delenv(variable)
    assert len(data.load("digits", "test").label) == 360
    with pytest.raises(FileNotFoundError, match="there is no such home folder"):
        data.load("mnist", "train")


# Damage


def _halve(path):
    os.truncate(path, path.stat().st_size // 2)


def _zero(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [_halve, _zero, Path.unlink])
@pytest.mark.parametrize("name", ["*array_record*", "features.json"])
def test_damaged_files_are_rejected(root, rng, damage, name):
    folder = write_set(root, {"train": _pairs(*_random(rng))})
    (path,) = folder.glob(name)
    damage(path)
    _rejected("prepared files of tiny:1.0.0 cannot be read: .* prepare the set again")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"splits": [{}]}'])
def test_a_damaged_dataset_info_is_rejected(root, rng, content):
    folder = write_set(root, {"train": _pairs(*_random(rng, 1))})
    (folder / "dataset_info.json").write_bytes(content)
    _rejected("prepared files of tiny:1.0.0 cannot be read: ")


def test_files_of_another_format_are_rejected(root, rng):
    folder = write_set(root, {"train": _pairs(*_random(rng, 1))}, form="tfrecord")
    (path,) = folder.glob("*tfrecord*")
    path.rename(str(path).replace("tfrecord", "parquet"))
    _edit(folder / "dataset_info.json", lambda i: i.update(fileFormat="parquet"))
    _rejected("array_record or tfrecord files of tiny-train .* says parquet")


@pytest.mark.parametrize("count", ["1", "3", str(10**12)])
@pytest.mark.parametrize("form", prepared._FORMATS)
def test_another_number_of_examples_is_rejected(root, rng, count, form):
    folder = write_set(root, {"train": _pairs(*_random(rng, 2))}, form=form)
    info = folder / "dataset_info.json"
    _edit(info, lambda i: i["splits"][0].update(shardLengths=[count]))
    _rejected(f"must have {count} examples, got (more|2)|Unable to allocate")


def test_a_damaged_image_is_rejected(root, rng):
    pairs = _pairs(*_random(rng, 2))
    write_set(root, {"train": [pairs[0], (pairs[1][0][:-40], 0)]})
    _rejected("cannot be read: .*truncated")


def test_an_image_that_needs_a_program_is_rejected(root, monkeypatch):
    def start(*args, **options):
        raise AssertionError("a program is started")

    monkeypatch.setattr("subprocess.check_call", start)
    write_set(root, {"train": _pairs([np.zeros((4, 4), np.uint8)], [0], "EPS")})
    _rejected("cannot identify image")


@pytest.mark.parametrize("size", [2**31 - 1, 30_000])
def test_an_image_that_expands_without_limit_is_rejected(root, size):
    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    png = encode(np.zeros((4, 4), np.uint8))
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    write_set(root, {"train": [(png[:16] + head + crc + png[33:], 0)]})
    _rejected("tiny:1.0.0 cannot be read: .*bomb")


@pytest.mark.parametrize(
    "edit",
    [
        lambda info: info.update(name="../2.0.0/tiny"),
        lambda info: info.update(name="/etc/tiny"),
        lambda info: info["splits"][0].update(filepathTemplate="../{SPLIT}"),
    ],
)
def test_files_outside_the_folder_are_rejected(root, rng, edit):
    folder = write_set(root, {"train": _pairs(*_random(rng, 1))})
    _edit(folder / "dataset_info.json", edit)
    _rejected("must (lie in the set's folder|be '{DATASET}.*), got")
