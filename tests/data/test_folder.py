"""Folders of images of any size and kind of colour, good and broken."""

import os

import numpy as np
import pytest
from PIL import Image

from jcnn.data import DataError, Folder, from_arrays, load_folder, split_folder
from jcnn.data import folder as module

RED, BLUE = (200, 10, 20), (10, 20, 200)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder with two classes, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, colour in (("blue", BLUE), ("red", RED)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            path = tmp_path / "images" / name / f"{number}.png"
            Image.new("RGB", (7 + number, 9), colour).save(path)
    return tmp_path / "images"


def test_images_and_labels_are_those_of_the_folders(images):
    dataset, paths, broken = load_folder(images, size=5)
    assert dataset.class_names == ("blue", "red")
    assert paths == tuple(f"{c}/{n}.png" for c in ("blue", "red") for n in range(3))
    np.testing.assert_array_equal(dataset.label, [0, 0, 0, 1, 1, 1])
    for image, label in zip(dataset.image, dataset.label, strict=True):
        assert (image == (BLUE, RED)[label]).all()
    assert dataset.image.shape == (6, 5, 5, 3) and broken == {}


def _only(images, name="new.png", **how):
    """The pixels of the file that a test has added to red."""
    dataset, paths, broken = load_folder(images, **how)
    assert broken == {}
    return dataset.image[paths.index(f"red/{name}")]


@pytest.mark.parametrize("size", [(12, 4), (4, 12)])
def test_the_middle_of_the_longer_side_is_taken(size, images, rng):
    pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(images / "red" / "new.png")
    found = _only(images, size=4)
    middle = pixels[4:8] if size[0] > 4 else pixels[:, 4:8]
    np.testing.assert_array_equal(found, middle)


def test_the_shorter_side_is_scaled_by_triangles(images, rng):
    """Each pixel is a mean over twice its width, weighted by distance."""
    pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(images / "red" / "new.png")
    far = np.abs(np.arange(32)[None] + 0.5 - 4 * (np.arange(8)[:, None] + 0.5)) / 4
    weights = np.maximum(0, 1 - far)
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("ih,jw,hwc->ijc", weights, weights, pixels.astype(float))
    np.testing.assert_allclose(_only(images, size=8), expected, atol=1.01)


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("LA", (40, 255), (40, 40, 40)),
        ("I;16", 77 * 256, (77, 77, 77)),
    ],
)
def test_kinds_of_colour(mode, colour, expected, images):
    Image.new(mode, (6, 6), colour).save(images / "red" / "new.png")
    assert (_only(images, size=6) == expected).all()


def test_palettes_have_colours_and_transparency(images):
    image = Image.new("P", (6, 6), 1)
    image.putpalette([*BLUE, *RED, 0, 0, 0])
    image.save(images / "red" / "new.png")
    assert (_only(images, size=6) == RED).all()
    image.save(images / "red" / "new.png", transparency=1)
    assert (_only(images, size=6) == 255).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs(mode, images):
    Image.new("RGB", (16, 16), RED).convert(mode).save(images / "red" / "new.JPG")
    found = _only(images, "new.JPG", size=8)
    expected = np.asarray(Image.new("RGB", (1, 1), RED).convert(mode).convert("RGB"))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (8, 8, 3)), atol=3)


def test_grey(images):
    dataset, _, _ = load_folder(images, size=3, channels=1)
    expected = Image.new("RGB", (1, 1), BLUE).convert("L").getpixel((0, 0))
    assert dataset.image.shape == (6, 3, 3, 1) and (dataset.image[0] == expected).all()


def test_pictures_are_turned_as_cameras_say(images):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = RED  # above, but the camera lay on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(images / "red" / "new.png", exif=exif)
    found = _only(images, size=8)
    assert (found[:, 4:] == RED).all() and (found[:, :4] == 0).all()


def test_broken_files_are_named_and_left_out(images):
    good = (images / "red" / "0.png").read_bytes()
    (images / "red" / "cut.png").write_bytes(good[: len(good) // 2])
    (images / "red" / "text.jpg").write_text("no image")
    (images / "blue" / "empty.png").write_bytes(b"")
    (images / "blue" / "gone.png").symlink_to(images / "nowhere")
    dataset, paths, broken = load_folder(images, size=4)
    assert len(dataset.label) == len(paths) == 6
    assert set(broken) == {
        "red/cut.png",
        "red/text.jpg",
        "blue/empty.png",
        "blue/gone.png",
    }
    assert all(broken.values())


def test_a_pipe_is_not_waited_for(images):
    os.mkfifo(images / "red" / "pipe.png")
    assert load_folder(images, size=4).broken == {"red/pipe.png": "not a file"}


def test_other_files_and_hidden_ones_are_none_of_its_business(images):
    (images / "red" / "notes.txt").write_text("x")
    (images / "red" / ".hidden.png").write_text("x")
    (images / ".git").mkdir()
    (images / "readme.md").write_text("x")
    (images / "red" / "more").mkdir()
    Image.new("RGB", (4, 4), RED).save(images / "red" / "more" / "a.png")
    found = load_folder(images, size=4)
    assert len(found.paths) == 7 and "red/more/a.png" in found.paths
    assert found.broken == {}


def test_links_are_followed_but_not_in_circles(images, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (4, 4), RED).save(tmp_path / "elsewhere" / "b.png")
    (images / "red" / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "red" / "all").symlink_to(images)
    (images / "blue" / "self").symlink_to(images / "blue")
    found = load_folder(images, size=4)
    assert len(found.paths) == 7 and "red/linked/b.png" in found.paths


def test_names_need_not_be_utf_8(images):
    (images / "red").rename(os.fsdecode(os.fsencode(images) + b"/caf\xe9"))
    train, test = split_folder(load_folder(images, size=4), 0.4)
    assert len(train.label) + len(test.label) == 6


def test_the_second_time_nothing_is_decoded(images, monkeypatch):
    (images / "red" / "bad.png").write_text("x")
    first = load_folder(images, size=4)

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(module, "_decode", fail)
    second = load_folder(images, size=4)
    np.testing.assert_array_equal(first.dataset.image, second.dataset.image)
    assert (first.paths, first.broken) == (second.paths, second.broken)
    Image.new("RGB", (7, 9), BLUE).save(images / "red" / "0.png")
    with pytest.raises(AssertionError):
        load_folder(images, size=4)


def test_a_cache_that_cannot_be_written_is_only_a_warning(images, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.warns(RuntimeWarning, match="not kept .*XDG_CACHE_HOME") as caught:
        found = load_folder(images, size=4)
    assert [warning.filename for warning in caught] == [__file__]
    assert len(found.paths) == 6 and found.broken == {}


def test_a_class_that_is_broken_as_a_whole_is_an_error(images):
    for path in (images / "red").iterdir():
        path.write_text("x")
    with pytest.raises(DataError, match="got none of red; 3 files are broken"):
        load_folder(images, size=4)


def test_what_is_no_folder_of_classes(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_folder(tmp_path / "nowhere", size=4)
    with pytest.raises(DataError, match="must have a subfolder"):
        load_folder(images / "red", size=4)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        load_folder(images, size=4, channels=4)
    with pytest.raises(ValueError, match="size must be at least 1"):
        load_folder(images, size=0)


def _numbered(counts):
    label = np.repeat(np.arange(len(counts)), counts)
    image = np.arange(len(label)).reshape(-1, 1, 1, 1).astype(np.float32)
    names = [f"class{i}" for i in range(len(counts))]
    paths = tuple(f"{i}.png" for i in range(len(label)))
    return Folder(from_arrays(image, label, len(counts), class_names=names), paths, {})


@pytest.mark.parametrize("test", [0.2, 0.5, 0.9])
def test_each_class_is_split_by_the_same_fraction(test):
    found = _numbered([10, 30, 2])
    train, tested = split_folder(found, test)
    for label, count in enumerate([10, 30, 2]):
        expected = min(max(1, round(test * count)), count - 1)
        assert (tested.label == label).sum() == expected
        assert (train.label == label).sum() == count - expected
    images = np.concatenate([train.image, tested.image]).ravel()
    assert sorted(images) == list(range(42))
    assert tested.class_names == train.class_names == found.dataset.class_names


def test_a_new_image_moves_few_others():
    few, many = _numbered([40, 40]), _numbered([40, 41])
    before, after = (set(split_folder(f, 0.25)[1].image.ravel()) for f in (few, many))
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("test", [0, 1, -0.5])
def test_a_split_needs_both_parts(test):
    with pytest.raises(ValueError, match="test must be above 0 and below 1"):
        split_folder(_numbered([4, 4]), test)
    with pytest.raises(DataError, match="class class1 must have at least 2 images"):
        split_folder(_numbered([4, 1]))
