"""The decoded arrays in the user's cache folder."""

import os
import shutil
import sys

import numpy as np
import pytest

from jcnn import data
from jcnn._files import user_cache
from jcnn.data import cache
from jcnn.data.dataset import Dataset
from tests.helpers.prepared import encode, write_set


def _prepare(root, rng, labels=(2, 0, 1), **options):
    images = rng.integers(0, 256, (len(labels), 6, 4, 3), np.uint8)
    write_set(root, {"train": list(zip(map(encode, images), labels))}, **options)
    return images


@pytest.fixture
def dataset(root, rng):
    """A small set that has been loaded."""
    _prepare(root, rng)
    return data.load("tiny", "train")


@pytest.fixture
def path(dataset):
    """The file that keeps it."""
    (path,) = user_cache().rglob("*.npz")
    return path


def _same(left, right):
    return (
        np.array_equal(left.image, right.image)
        and np.array_equal(left.label, right.label)
        and left.num_classes == right.num_classes
        and left.class_names == right.class_names
    )


def test_the_cache_is_used(dataset, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jcnn.data.decode", None)
    assert _same(data.load("tiny", "train"), dataset)
    assert data.load("tiny", "train[1:]").label.tolist() == [0, 1]
    assert os.listdir(path.parent) == [path.name]
    path.unlink()
    message = "there is no .* data: pip install array-record .*pillow"
    with pytest.raises(ModuleNotFoundError, match=message):
        data.load("tiny", "train")


def test_a_set_that_moved_is_not_decoded_again(root, dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "jcnn.data.decode", None)
    root.rename(root.with_name("elsewhere"))
    moved = data.load("tiny", "train", data_dir=root.with_name("elsewhere"))
    assert _same(moved, dataset)


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_a_set_replaced_by_one_of_equal_names_sizes_and_times(root, rng, form):
    seed = rng.integers(1 << 32)
    for labels in [0, 1, 2], [2, 1, 0]:
        shutil.rmtree(root, ignore_errors=True)
        _prepare(root, np.random.default_rng(seed), labels, form=form)
        for path in *(root / "tiny/1.0.0").iterdir(), root / "tiny/1.0.0":
            os.utime(path, (1, 1))
        assert data.load("tiny", "train").label.tolist() == labels


def test_what_else_is_decoded_counts_as_content(root, dataset):
    folder = root / "tiny" / "1.0.0"
    for names in "abc", "abd":
        (folder / "label.labels.txt").write_text("\n".join(names))
        assert data.load("tiny", "train").class_names == tuple(names)
    features = folder / "features.json"
    features.write_text(features.read_text().replace('"-1", "3"', '"-1", "1"'))
    assert data.load("tiny", "train").image.shape == (3, 6, 4, 1)


def test_equal_names_in_two_folders_do_not_mix(root, rng):
    folders = root / "one", root / "two"
    images = [_prepare(folder, rng) for folder in folders]
    for _ in range(2):
        for folder, expected in zip(folders, images):
            found = data.load("tiny", "train", data_dir=folder)
            np.testing.assert_array_equal(found.image, expected)


def test_no_damage_is_read(dataset, path, rng):
    content = path.read_bytes()
    assert _same(cache.read(path), dataset)
    unnoticed, positions = 0, range(int(rng.integers(5)), len(content), 5)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found = cache.read(path)
        assert found is None or _same(found, dataset), position
        unnoticed += found is not None
    assert unnoticed < len(positions) / 4  # dates and the like
    for length in range(0, len(content), 31):
        path.write_bytes(content[:length])
        assert cache.read(path) is None, length
    assert _same(data.load("tiny", "train"), dataset)  # decoded again
    assert path.stat().st_size == len(content)
    assert _same(cache.read(path), dataset)


def test_a_smaller_shape_does_not_escape_the_checksum(tmp_path, rng):
    image = rng.integers(0, 256, (9, 64, 32, 1), np.uint8)
    path = tmp_path / "set.npz"
    cache.write(path, data.from_arrays(image, np.arange(9), 9))
    content = path.read_bytes()
    assert content.count(b"(9, 64, 32, 1)") == 1
    path.write_bytes(content.replace(b"(9, 64, 32, 1)", b"(9, 24, 32, 1)"))
    assert cache.read(path) is None


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle in the cache was run",))


def test_pickles_are_not_run(dataset, path):
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["image"] = np.array([_Bomb()], object)
    np.savez(path, **arrays)
    assert cache.read(path) is None
    assert _same(data.load("tiny", "train"), dataset)


def test_a_cache_that_cannot_be_written_is_only_a_warning(root, rng, tmp_path):
    images = _prepare(root, rng)
    (tmp_path / "cache").touch()
    with pytest.warns(RuntimeWarning, match="not kept .*XDG_CACHE_HOME") as caught:
        dataset = data.load("tiny", "train")
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(dataset.image, images)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(tmp_path, error):
    class Failing:
        def __array__(self, *args, **options):
            raise error

    path = tmp_path / "decoded" / "set.npz"
    dataset = Dataset(np.zeros((1, 1, 1, 1)), Failing(), 1)  # pyright: ignore
    with pytest.raises(type(error)):
        cache.write(path, dataset)
    assert os.listdir(path.parent) == []


def test_a_relative_xdg_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in "", "relative":
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert user_cache() == tmp_path / ".cache" / "jcnn"
