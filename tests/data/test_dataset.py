"""Data sets from arrays, the digits, and parts of splits."""

import hashlib
import re
import sys

import numpy as np
import pytest

from jcnn import data
from jcnn.data.splits import select

_IMAGE = np.zeros((2, 3, 3, 1), np.uint8)


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


def test_from_arrays_does_not_copy_arrays_of_the_right_dtype():
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
    message = f"image must be finite in float32, got {shown} at [2, 1, 0, 1]"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.from_arrays(image, [0] * 4, 1)


@pytest.mark.parametrize("value", [-1, 10])
def test_from_arrays_names_the_first_label_out_of_range(value):
    image = np.zeros((4, 2, 2, 1), np.uint8)
    message = f"label must be from 0 to 9, got {value} at [2]"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.from_arrays(image, [0, 9, value, value], 10)


@pytest.mark.parametrize(
    "image, label, num_classes, error, message",
    [
        (_IMAGE[..., 0], [0, 1], 2, ValueError, r"\(2, 3, 3\).*image\[\.\.\., None\]"),
        (_IMAGE[0, 0], [0, 1], 2, ValueError, r"\[N, H, W, C\], got shape \(3, 1\)$"),
        (_IMAGE[:0], [], 2, ValueError, "image must not be empty, got shape"),
        (_IMAGE[:, :0], [0, 1], 2, ValueError, "image must not be empty"),
        (_IMAGE.astype(int), [0, 1], 2, TypeError, "uint8 or float, got int64"),
        (_IMAGE > 0, [0, 1], 2, TypeError, "image must have dtype .* got bool"),
        ([[[[1]]], [[[1], [2]]]], [0, 1], 2, ValueError, "image must be a rectangular"),
        (_IMAGE, [0, 1, 1], 2, ValueError, r"shape \(2,\), .*, got \(3,\)"),
        (_IMAGE, [[0], [1]], 2, ValueError, r"label must have .* got \(2, 1\)"),
        (_IMAGE, [0.0, 1.0], 2, TypeError, "an integer dtype, got float64"),
        (_IMAGE, [True, False], 2, TypeError, "label must .* got bool"),
        (_IMAGE, [0, 1], 2.0, TypeError, "num_classes must be an int, got 2.0"),
        (_IMAGE, [0, 1], True, TypeError, "num_classes must be an int, got True"),
        (_IMAGE, [0, 1], 0, ValueError, "num_classes must be from 1 .* got 0"),
        (_IMAGE, [0, 1], 2**31 + 1, ValueError, "got 2147483649"),
    ],
)
def test_from_arrays_rejects(image, label, num_classes, error, message):
    with pytest.raises(error, match=message):
        data.from_arrays(image, label, num_classes)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 28, 28), (5, 4, 5, 90)])
def test_from_arrays_rejects_channels_first_before_anything_else(shape):
    message = f"image must be [N, H, W, C], got shape {shape}, which looks like [N, C,"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.from_arrays(np.zeros(shape, bool), [0.5], 0)


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 4, 4, 512), (2, 64, 1, 8)])
def test_from_arrays_takes_any_number_of_channels_last(shape):
    assert data.from_arrays(np.zeros(shape), [0, 0], 1).image.shape == shape


def test_from_arrays_rejects_masked_arrays_before_anything_else():
    masked = np.ma.masked_equal(np.arange(2), 1)
    for value in masked, [masked, masked], [0, np.ma.masked]:
        with pytest.raises(TypeError, match="image must be a plain array, got a mask"):
            data.from_arrays(value, [[0.5]], 0)
        with pytest.raises(TypeError, match="label must be a plain .*label.filled"):
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
    with pytest.raises(ValueError, match="class_names must have 2 names.* got 20"):
        data.from_arrays(_IMAGE, [0, 1], 2, class_names=names)


# The digits


def test_digits_are_those_of_scikit_learn(tmp_path):
    """Recorded from `load_digits`, since importing scikit-learn takes many seconds."""
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert train.image.shape == (1437, 8, 8, 1) and test.image.shape == (360, 8, 8, 1)
    image = np.concatenate([train.image, test.image])
    assert image.dtype == np.uint8 and train.label.dtype == test.label.dtype == np.int32
    # v -> v * 255 // 16 loses nothing: the inverse is the ceiling of p * 16 / 255.
    values = (-(-image.astype(int) * 16 // 255)).astype(np.uint8)
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == "8f26b2bd9d135c25"
    label = np.concatenate([train.label, test.label]).astype("<i4")
    assert hashlib.sha256(label.tobytes()).hexdigest()[:16] == "3a0e68456f9a3c60"
    assert set(np.unique(image)) == {v * 255 // 16 for v in range(17)}
    assert train.num_classes == test.num_classes == 10
    with pytest.raises(ValueError, match="must be 'train' or 'test' of digits.* 'val'"):
        data.load("digits", "train+val")
    assert not (tmp_path / "cache").exists()


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match="there is no sklearn; .* extra data"):
        data.load("digits", "train")


@pytest.mark.parametrize("name, split", [(b"digits", "train"), ("digits", None)])
def test_name_and_split_must_be_str(name, split):
    with pytest.raises(TypeError, match="must be a str, got (b'digits'|None)"):
        data.load(name, split)


# Parts of splits


_BOUNDS = ["", "0", "1", "7", "-1", "-6", "0%", "1%", "33%", "12.5%", "-40%", "100%"]


@pytest.mark.parametrize("count", [7, 10, 1001])
def test_parts_are_those_of_tensorflow_datasets(count):
    import tensorflow_datasets as tfds

    info = tfds.core.SplitInfo(name="train", shard_lengths=[count], num_bytes=0)
    whole = data.from_arrays(np.zeros((count, 1, 1, 1)), np.arange(count), count)
    for text in (f"train[{start}:{stop}]" for start in _BOUNDS for stop in _BOUNDS):
        if text == "train[:]":
            continue  # an error there
        (part,) = tfds.core.ReadInstruction.from_spec(text).to_absolute({"train": info})
        expected = list(range(count))[part.from_ : part.to]
        if expected:
            assert select(text, lambda _: whole).label.tolist() == expected, text
        else:
            with pytest.raises(ValueError, match="must have at least one example, got"):
                select(text, lambda _: whole)


def test_sums_of_parts(rng):
    image = rng.integers(0, 256, (8, 2, 2, 1), np.uint8)
    wholes = {
        "a": data.from_arrays(image[:5], range(5), 8, class_names=[*"abcdefgh"]),
        "b": data.from_arrays(image[5:], range(5, 8), 8),
    }
    calls = []

    def load_split(split):
        calls.append(split)
        return wholes[split]

    dataset = select("a[-1:] + b[:60%]+a[:0]+a", load_split)
    np.testing.assert_array_equal(dataset.image, image[[4, 5, 6, 0, 1, 2, 3, 4]])
    assert dataset.label.tolist() == [4, 5, 6, 0, 1, 2, 3, 4]
    assert dataset.class_names == (*"abcdefgh",)
    assert dataset.image.base is None  # what was cut off takes no memory
    assert calls == ["a", "b"]  # each split is loaded once
    assert select("a", load_split) is wholes["a"]
    for wrong, bounds in ("a[:6]", "-5 to 5"), ("b+a[-101%:]", "-100% to 100%"):
        with pytest.raises(
            ValueError, match=f"bounds (from )?{bounds} of 'a', got -?[61]"
        ):
            select(wrong, load_split)
    wholes["c"] = data.from_arrays(image[:, :1], range(8), 8)
    with pytest.raises(data.DataError, match=r"one size, got \(2, 2, 1\) and \(1, 2,"):
        select("a+c", load_split)
