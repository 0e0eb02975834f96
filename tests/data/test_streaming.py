"""Sets whose images stay in their files: the same batches as in memory, and faults."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jcnn import data, train
from jcnn.data import DataError, View, batches, loading, stream, stream_folder, streamed
from tests.helpers.prepared import encode, write_set

KEY = jax.random.key(7)


def _data(dataset):
    return {"image": dataset.image, "label": dataset.label}


def _take(dataset, step, batch_size=4, **how):
    taken = data.Batches(**how)
    try:
        return jax.tree.map(np.asarray, taken(KEY, step, _data(dataset), batch_size))
    finally:
        taken.close()


def _equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, dict(first), dict(second))


@pytest.fixture
def tiny(root, rng):
    """Write a set of 11 images of one size; return its images and labels."""

    def write(form="array_record"):
        images = rng.integers(0, 256, (11, 6, 4, 3), np.uint8)
        labels = rng.integers(0, 3, 11)
        pairs = [(encode(i), int(n)) for i, n in zip(images, labels, strict=True)]
        splits = {"train": pairs[:7], "test": pairs[7:]}
        write_set(root, splits, form=form, shape=(6, 4, 3))
        return images, labels

    return write


@pytest.fixture
def photos(tmp_path, rng):
    """A folder of two classes of JPEG and PNG files of several sizes."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            size = tuple(rng.integers(20, 60, 2))
            small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
            kind = "png" if i == 3 else "jpg"
            path = tmp_path / "photos" / name / f"{i}.{kind}"
            small.resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    return tmp_path / "photos"


def _files(folder):
    return sorted(path for path in folder.rglob("*.*") if path.is_file())


# The same batches as in memory


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
@pytest.mark.parametrize("split", ["train", "train[2:]+test[:50%]"])
def test_batches_are_those_of_the_set_in_memory(form, split, tiny):
    images, labels = tiny(form)
    chosen = range(7) if split == "train" else [*range(2, 7), 7, 8]
    whole = jax.tree.map(
        jnp.asarray,
        {"image": images[[*chosen]], "label": labels[[*chosen]].astype(np.int32)},
    )
    dataset = stream("tiny", split, workers=0)
    assert data.is_streamed(dataset)
    for batch_size in (3, 7, 20):
        taken = data.Batches()
        for step in (0, 1, 2, 5, 6, 6, 7, 1000):
            found = taken(KEY, step, _data(dataset), batch_size)
            _equal(found, train.batch_at(KEY, step, whole, batch_size))
        taken.close()


def test_batches_go_on_where_the_drawn_epochs_end(tiny):
    images, labels = tiny()
    dataset, taken = stream("tiny", "train", workers=0), data.Batches()
    whole = {"image": jnp.asarray(images[:7]), "label": jnp.asarray(labels[:7])}
    for step in range(80, 100):  # 258 epochs of 7 images, in batches of 20
        found = taken(KEY, step, _data(dataset), 20)
        expected = train.batch_at(KEY, step, whole, 20)
        np.testing.assert_array_equal(found["label"], expected["label"])
    taken.close()


def test_load_streams_what_is_too_large_for_memory(tiny, monkeypatch):
    images, _ = tiny()
    sizes = {"SC_PAGE_SIZE": 8, "SC_PHYS_PAGES": 100}
    monkeypatch.setattr("os.sysconf", sizes.get)
    monkeypatch.setattr(loading, "fits_in_memory", lambda size: True)  # of the files
    assert data.is_streamed(data.load("tiny", "train"))  # 504 bytes of 400
    assert not data.is_streamed(data.load("tiny", "test"))
    assert data.is_streamed(data.load("tiny", "train+test"))
    sizes["SC_PHYS_PAGES"] = 126
    assert not data.is_streamed(data.load("tiny", "train"))
    monkeypatch.setattr(loading, "fits_in_memory", lambda size: False)
    assert data.is_streamed(data.load("tiny", "train"))
    assert not data.is_streamed(data.load("tiny", "train", stream=False))
    dataset = data.load("tiny", "test", stream=True)
    assert data.is_streamed(dataset)
    np.testing.assert_array_equal(np.asarray(dataset.image), images[7:])
    assert np.asarray(dataset.image).dtype == dataset.image.dtype == np.uint8
    with pytest.raises(ValueError, match="stream must be False or None for digits"):
        data.load("digits", "test", stream=True)


def test_a_streamed_folder_has_the_images_of_one_in_memory(photos, monkeypatch):
    whole = data.load_folder(photos, size=16)
    found = data.load_folder(photos, size=16, stream=True)
    assert data.is_streamed(found.dataset) and found.paths == whole.paths
    np.testing.assert_array_equal(np.asarray(found.dataset.image), whole.dataset.image)
    for mine, other in zip(data.split_folder(found), data.split_folder(whole)):
        assert mine.class_names == other.class_names
        np.testing.assert_array_equal(np.asarray(mine.image), other.image)
        np.testing.assert_array_equal(mine.label, other.label)


def test_parts_of_a_batch_make_the_whole(photos):
    dataset = stream_folder(photos, view=View(8, random=True), workers=0)
    whole = _take(dataset, 3, 6)
    parts = [_take(dataset, 3, 6, shard=(index, 3)) for index in range(3)]
    _equal(whole, jax.tree.map(lambda *p: np.concatenate(p), *parts))
    with pytest.raises(ValueError, match="batch_size must be divided by the 4 parts"):
        _take(dataset, 3, 6, shard=(0, 4))
    with pytest.raises(ValueError, match=r"shard must be .*got \(3, 3\)"):
        data.Batches(shard=(3, 3))


# What is taken of an image


def test_evaluation_takes_the_scaled_middle(photos):
    dataset = stream_folder(photos, view=View(16, center=0.75), workers=0)
    for path, image in zip(_files(photos), np.asarray(dataset.image), strict=True):
        with Image.open(path) as file:
            side = 0.75 * min(file.size)
            left, top = ((length - side) / 2 for length in file.size)
            box = (left, top, left + side, top + side)
            whole = file.convert("RGB").resize((16, 16), 2, box)
        difference = np.abs(np.asarray(whole).astype(int) - image)
        assert difference.max() <= 1  # Pillow rounds the crop's corners


def test_random_crops_are_a_function_of_seed_step_and_place(tmp_path):
    """Pixels tell the columns and rows that they are of."""
    rows, columns = np.mgrid[:200, :250]
    pixels = np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    dataset = stream_folder(tmp_path, view=View(10, random=True), workers=0)
    first = _take(dataset, 0, 60)["image"].astype(int)
    np.testing.assert_array_equal(first, _take(dataset, 0, 60)["image"])
    _equal(_take(dataset, 2, 20), _take(dataset, 2, 20))
    assert (first[:20] != _take(dataset, 1, 60)["image"][:20]).any((1, 2, 3)).all()
    # Nine tenths of a crop lie between the centers of its outermost pixels.
    widths = (first[:, 5, -1, 0] - first[:, 5, 0, 0]) / 0.9
    heights = (first[:, -1, 5, 1] - first[:, 0, 5, 1]) / 0.9
    share, ratio = widths * heights / (200 * 250), widths / heights
    assert 0.07 < share.min() < 0.25 and 0.75 < share.max() < 1.03
    assert 0.7 < ratio.min() < 0.85 and 1.18 < ratio.max() < 1.42
    assert len(np.unique(first[:, 0, 0, 0])) > 20  # they lie in many places


def test_an_image_too_narrow_for_any_random_crop_gives_its_middle():
    draws = np.full((10, 4), 0.9)
    assert streamed.random_crop_box(300, 10, draws) == pytest.approx(
        (143.3, 0, 156.7, 10), abs=0.1
    )
    assert streamed.random_crop_box(10, 300, draws) == pytest.approx(
        (0, 143.3, 10, 156.7), abs=0.1
    )


@pytest.mark.parametrize("batch_size", [5, 12])
def test_a_set_in_memory_is_evaluated_in_the_same_batches(batch_size, photos):
    dataset = stream_folder(photos, view=View(8), workers=0)
    arrays, labels = np.asarray(dataset.image), dataset.label
    for images in (dataset.image, arrays):
        found = list(data.evaluation_batches(images, labels, batch_size))
        assert {b["image"].shape for b, _ in found} == {(batch_size, 8, 8, 3)}
        counted = [b["image"][: len(i)] for b, i in found]
        np.testing.assert_array_equal(np.concatenate(counted), arrays)
        counted = [b["label"][: len(i)] for b, i in found]
        np.testing.assert_array_equal(np.concatenate(counted), labels)
        indices = np.concatenate([i for _, i in found])
        np.testing.assert_array_equal(indices, np.arange(12))


def test_evaluation_of_a_set_with_random_crops_takes_the_middle(photos):
    middle = stream_folder(photos, view=View(16), workers=0)
    dataset = stream_folder(photos, view=View(16, random=True), workers=0)
    np.testing.assert_array_equal(np.asarray(dataset.image), np.asarray(middle.image))
    for batch, indices in data.evaluation_batches(dataset.image, dataset.label, 5):
        expected = np.asarray(middle.image[indices])
        np.testing.assert_array_equal(batch["image"][: len(indices)], expected)
        np.testing.assert_array_equal(
            batch["label"][: len(indices)], dataset.label[indices]
        )
        assert batch["image"].shape == (5, 16, 16, 3)


# Indices


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_a_set_is_indexed_once_until_its_files_change(form, tiny, root, monkeypatch):
    images, _ = tiny(form)
    first = stream("tiny", "train").image
    with monkeypatch.context() as patch:
        patch.setattr("jcnn.data.decode.records", None)
        again = stream("tiny", "train").image
    assert again.describe() == first.describe()
    time.sleep(0.01)
    other, _ = tiny(form)
    changed = stream("tiny", "train").image
    np.testing.assert_array_equal(np.asarray(changed), other[:7])
    assert changed.describe()["sha256"] != first.describe()["sha256"]
    with monkeypatch.context() as patch:
        patch.setattr("jcnn.data.cache.read_arrays", lambda path: None)
        anew = stream("tiny", "train").image
    assert anew.describe() == changed.describe()


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_files_that_replace_those_that_were_read_are_read_anew(form, tiny, root):
    for _ in range(2):
        for path in root.rglob("tiny-*"):
            path.unlink()
        images, _ = tiny(form)
        dataset = stream("tiny", "train", workers=0)
        np.testing.assert_array_equal(np.asarray(dataset.image), images[:7])


def test_a_damaged_record_is_an_error_of_the_set(tiny, root):
    tiny("tfrecord")
    (path,) = root.rglob("tiny-train*")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="tiny:1.0.0 cannot be read.*checksum"):
        stream("tiny", "train")


def test_what_is_drawn_shows_in_the_description(photos):
    views = View(8), View(9), View(8, random=True), View(8, center=0.5)
    digests = [stream_folder(photos, view=v).image.describe() for v in views]
    assert len({one["sha256"] for one in digests}) == 4
    part = stream_folder(photos, view=View(8)).image[2:]
    assert part.describe()["shape"] == [10, 8, 8, 3]
    assert part.describe()["sha256"] != digests[0]["sha256"]


# Broken images


def _break(path):
    path.write_bytes(path.read_bytes()[:60])


def test_a_broken_image_is_named_and_the_next_one_takes_its_place(photos):
    whole = stream_folder(photos, view=View(8), workers=0)
    pixels = np.asarray(whole.image)
    _break(_files(photos)[5])
    dataset = stream_folder(photos, view=View(8), workers=0)
    with pytest.warns(RuntimeWarning, match="broken image 1: .*cat.*5.jpg: ") as caught:
        batch = _take(dataset, 0, 12)
    assert len(caught) == 1
    order = np.array(train.indices_at(KEY, 0, num_examples=12, batch_size=12))
    order[order == 5] = 6
    np.testing.assert_array_equal(batch["image"], pixels[order])
    np.testing.assert_array_equal(batch["label"], whole.label[order])


def test_broken_images_are_left_out_of_evaluation(photos):
    pixels = np.asarray(stream_folder(photos, view=View(8)).image)
    for index in (0, 11):
        _break(_files(photos)[index])
    dataset = stream_folder(photos, view=View(8), workers=0, max_broken=2)
    with (
        pytest.warns(RuntimeWarning, match="broken image 1: .*cat.*0.jpg"),
        pytest.warns(RuntimeWarning, match="broken image 2: .*dog.*5.jpg"),
    ):
        found = list(data.evaluation_batches(dataset.image, dataset.label, 4))
    indices = np.concatenate([i for _, i in found])
    np.testing.assert_array_equal(indices, np.arange(1, 11))
    images = np.concatenate([b["image"][: len(i)] for b, i in found])
    np.testing.assert_array_equal(images, pixels[1:11])


def test_too_many_broken_images_are_an_error_that_counts_them(photos):
    for index in (3, 4):
        _break(_files(photos)[index])
    dataset = stream_folder(photos, view=View(8), workers=0)
    message = (
        r"2 images are broken, and max_broken is 1; the first one is .*[34]\.\w+: "
    )
    with (
        warnings.catch_warnings(),
        pytest.raises(DataError, match=message),
    ):
        warnings.simplefilter("ignore")
        _take(dataset, 0, 12)
    with pytest.raises(DataError, match=r"cat.3\.png"):
        np.asarray(dataset.image)


def test_links_to_nowhere_pipes_and_empty_files_are_broken(photos):
    whole = stream_folder(photos, view=View(8), workers=0)
    pixels, files = np.asarray(whole.image), _files(photos)
    for index in (0, 4, 8):
        files[index].unlink()
    files[0].symlink_to(photos / "nowhere")
    os.mkfifo(files[4])
    files[8].touch()
    dataset = stream_folder(photos, view=View(8), workers=0, max_broken=3)
    with pytest.warns(RuntimeWarning, match="broken image") as caught:
        batch = _take(dataset, 0, 12)
    texts = sorted(str(one.message).rpartition("/")[2] for one in caught)
    reasons = "not a file", "not a file", "cannot identify image file"
    names = "0.jpg", "4.jpg", "2.jpg"
    assert texts == [f"{name}: {why}" for name, why in sorted(zip(names, reasons))]
    order = np.array(train.indices_at(KEY, 0, num_examples=12, batch_size=12))
    order += np.isin(order, (0, 4, 8))
    np.testing.assert_array_equal(batch["image"], pixels[order])


def test_all_images_may_not_be_broken(photos):
    for path in _files(photos):
        _break(path)
    dataset = stream_folder(photos, view=View(8), workers=0, max_broken=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="12 images are broken.* max_broken is 11"):
            _take(dataset, 0, 12)
        with pytest.raises(DataError, match="12 images are broken.* max_broken is 11"):
            list(data.evaluation_batches(dataset.image, dataset.label, 4))


def test_an_image_of_another_size_is_broken(root, rng):
    sizes = [(4, 6)] * 3 + [(5, 6)]
    pairs = [(encode(rng.integers(0, 256, (*s, 3), np.uint8)), 0) for s in sizes]
    write_set(root, {"train": pairs})
    dataset = stream("tiny", "train", workers=0)
    with pytest.warns(RuntimeWarning, match="must have one size, got 5x6, others 4x6"):
        _take(dataset, 0)


# Worker processes


def test_workers_give_the_same_batches_and_one_that_dies_is_an_error(photos):
    how = {"view": View(8, random=True)}
    dataset = stream_folder(photos, workers=2, **how)
    alone = stream_folder(photos, workers=0, **how)
    before = set(multiprocessing.active_children())
    taken = data.Batches()
    for step in (4, 5, 6):
        _equal(taken(KEY, step, _data(dataset), 5), _take(alone, step, 5))
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker in workers:  # Ctrl-C reaches all processes; the run itself ends them
        os.kill(worker.pid, signal.SIGINT)
    for step in range(7, 12):
        _equal(taken(KEY, step, _data(dataset), 5), _take(alone, step, 5))
    for worker in workers:
        worker.kill()
    message = "a process that reads images has died.* must begin under `if __name__"
    with pytest.raises(OSError, match=message):
        for step in range(12, 20):
            taken(KEY, step, _data(dataset), 5)
    taken.close()
    assert not set(multiprocessing.active_children()) - before


def test_a_reader_leaves_no_shared_memory_at_its_end(photos, monkeypatch):
    """At the end of a program Python warns of it, and containers have little."""
    closed = []

    class Seen(batches.Reader):
        def close(self):
            closed.append(weakref.ref(self._iterator))
            super().close()

    monkeypatch.setattr(batches, "Reader", Seen)
    dataset = stream_folder(photos, view=View(8), workers=1)
    assert len(list(data.evaluation_batches(dataset.image, dataset.label, 5))) == 3
    (iterator,) = closed
    assert iterator() is None


# Bad input


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"view": View(0)}, "view.size must be at least 1, got 0"),
        ({"view": View()}, "view.size must be the height and width"),
        ({"view": View(8, center=0.0)}, "view.center must be above 0 and at most 1"),
        ({"view": View(None, random=True)}, "view.size must be given to crop images"),
        ({"view": View(8), "workers": -1}, "workers must be at least 0, got -1"),
        ({"view": View(8), "max_broken": -1}, "max_broken must be at least 0"),
        ({"view": View(8), "channels": 2}, "channels must be 1 or 3, got 2"),
    ],
)
def test_bad_arguments(how, message, photos):
    with pytest.raises(ValueError, match=re.escape(message)):
        stream_folder(photos, **how)


def test_bad_types(photos):
    with pytest.raises(TypeError, match="view must be a jcnn.data.View, got 8"):
        stream_folder(photos, view=8)
    for name, split, argument in ((3, "train", "name"), ("tiny", 3, "split")):
        with pytest.raises(TypeError, match=f"{argument} must be a str, got 3"):
            stream(name, split)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_class_without_images_is_an_error(streamed, photos):
    (photos / "cow").mkdir()
    with pytest.raises(DataError, match="must have PNG or JPEG files, got none of cow"):
        data.load_folder(photos, size=8, stream=streamed)


def test_images_are_selected_by_arrays_only(photos):
    images = stream_folder(photos, view=View(8)).image
    assert len(images[[3, 4]]) == 2 and images[np.arange(12) > 3].shape[0] == 8
    with pytest.raises(TypeError, match="images must be selected by an array, got 3"):
        images[3]


def test_a_program_without_its_guard_is_an_error(photos, tmp_path):
    """Its workers begin by running it again, and die before they are told anything."""
    program = tmp_path / "program.py"
    program.write_text(f"""
import jax
from jcnn.data import Batches, View, stream_folder
found = stream_folder({str(photos)!r}, view=View(8), workers=2)
Batches()(jax.random.key(0), 0, {{"image": found.image, "label": found.label}}, 2)
""")
    ended = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert "must begin under" in ended.stderr
