"""Experiments on composed canvases, on one's own images, and the speedruns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import (
    cifar10_speedrun,
    detection,
    digit_pictures,
    mnist_fast,
    own_images,
    segmentation,
)
from experiments.digit_canvas import BACKGROUND, Canvas, Kind, compose
from jcnn.data import from_arrays
from jcnn.runs import main, read_metrics
from jcnn.train import batch_at, create, make_step


def _digits(number, rng, shape=(28, 28, 1)):
    """Blots with a hard edge, a different size for each class."""
    label = rng.integers(0, 10, number)
    image = np.zeros((number, *shape), np.uint8)
    for one, blot in zip(label, image, strict=True):
        blot[4 : 10 + one, 6 : 22 - one] = 255
    return from_arrays(image, label, 10)


def _width(path):
    with Image.open(path) as picture:
        return picture.size[0]


def _canvases(number, kind, rng):
    digits = _digits(50, rng)
    data = {"image": jnp.asarray(digits.image), "label": jnp.asarray(digits.label)}
    made = compose(jax.random.key(0), data, number, kind)
    return Canvas(*map(np.asarray, made))


KINDS = [Kind(), Kind((64, 84), 3, overlap=0)]


@pytest.mark.parametrize("kind", KINDS, ids=["overlapping", "apart"])
def test_canvases_are_what_their_labels_say(kind, rng):
    canvases = _canvases(40, kind, rng)
    assert canvases.image.shape == (40, *kind.size, 1)
    numbers = (canvases.objects[..., 4] >= 0).sum(1)
    assert set(numbers) <= set(range(1, kind.most + 1)) and len(set(numbers)) > 1
    for image, mask, objects in zip(*canvases, strict=True):
        expected = np.full(kind.size, BACKGROUND)
        for top, left, bottom, right, one in objects[objects[:, 4] >= 0].astype(int):
            assert (bottom - top, right - left) == (6 + one, 16 - one)
            place = expected[top:bottom, left:right]
            assert (place != BACKGROUND).mean() <= kind.overlap
            place[:] = one  # later ones lie on earlier ones
        np.testing.assert_array_equal(mask, expected)
        ink = image[..., 0] == 255
        np.testing.assert_array_equal(ink, mask != BACKGROUND)
        assert image[~ink].max() <= 100
        if not kind.overlap:
            areas = [(b - t) * (r - left) for t, left, b, r, _ in objects]
            assert sum(areas) == ink.sum()


def test_each_key_has_its_own_canvases(rng):
    digits = _digits(50, rng)
    data = {"image": jnp.asarray(digits.image), "label": jnp.asarray(digits.label)}
    one, same, other = (
        compose(jax.random.key(seed), data, 4, Kind()).image for seed in (1, 1, 2)
    )
    assert (one == same).all() and (one != other).any()


@pytest.mark.parametrize("script", [segmentation, detection])
def test_canvases_are_learnt_evaluated_and_drawn(script, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(script, "load", lambda *_, **__: _digits(24, rng))
    options = ["--epochs", "1", "--batch-size", "8", "--run-dir", str(tmp_path / "run")]
    options += ["--m2nist"] if script is segmentation else ["--dtype", "bfloat16"]
    assert main(script.Config, script.recipe, options) == 0
    *_, validated, last = read_metrics(tmp_path / "run")
    name = {segmentation: "mean_iou", detection: "mean_average_precision"}[script]
    assert 0 <= last[f"test_{name}"] <= 1 and last["step"] == 3
    assert 0 <= validated[f"validation_{name}"] <= 1
    picture = tmp_path / "run" / f"{script.__name__.rpartition('.')[2]}.png"
    assert _width(picture) > 500


def test_own_images_are_reported_by_class(tmp_path, capsys, rng):
    for name, colour in (("sky", (90, 90, 250)), ("wood", (90, 200, 60))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.normal(colour, 20, (30 + number, 25, 3)).clip(0, 255)
            path = tmp_path / "images" / name / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "images" / "sky" / "broken.jpg").write_text("x")
    options = f"--images {tmp_path}/images --size 8 --epochs 2 --batch-size 4".split()
    options += ["--run-dir", str(tmp_path / "run")]
    assert main(own_images.Config, own_images.recipe, options) == 0
    out, err = capsys.readouterr()
    assert "left out: sky/broken.jpg" in err and "1 files could not be read" in out
    report = (tmp_path / "run" / "classes.txt").read_text().splitlines()
    assert [line.split()[:2] for line in report[1:3]] == [["sky", "2"], ["wood", "2"]]
    assert all(line in out for line in report)
    options[-1] += "-streamed"
    with pytest.warns(RuntimeWarning, match="broken image 1: .*sky.broken.jpg"):
        streamed = [*options, "--stream", "True"]
        assert main(own_images.Config, own_images.recipe, streamed) == 0
    streamed = (tmp_path / "run-streamed" / "classes.txt").read_text().splitlines()
    assert [line.split()[:2] for line in streamed[1:]] == [["sky", "2"], ["wood", "2"]]


def test_own_images_need_a_folder(capsys, tmp_path):
    assert main(own_images.Config, own_images.recipe, []) == 2
    assert "--images must be a folder" in capsys.readouterr().err
    options = ["--images", str(tmp_path / "nowhere")]
    assert main(own_images.Config, own_images.recipe, options) == 2


@pytest.fixture
def speedrun(monkeypatch, rng):
    pixels = rng.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    data = from_arrays(pixels, rng.integers(0, 10, 40), 10)
    monkeypatch.setattr(cifar10_speedrun, "load", lambda *_, **__: data)
    return cifar10_speedrun.recipe(cifar10_speedrun.Config())


def test_the_speedrun_keeps_whitening_and_norms_and_trains_the_rest(speedrun, rng):
    params, state = speedrun.layer.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(p.size for p in jax.tree.leaves(params)) == 1_971_640
    tx = speedrun.tx(8)
    gradients = jax.tree.map(lambda p: rng.normal(size=p.shape).astype("f4"), params)
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
    new = jax.tree.map(jnp.add, params, updates)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, new)
    assert same["whitening"] == {"bias": False, "kernel": True}
    changed = [
        s for path, s in jax.tree.leaves_with_path(same) if "whitening" not in str(path)
    ]
    assert not any(changed)
    kernel = params["group2"]["first"]["conv"]["kernel"]
    update = updates["group2"]["first"]["conv"]["kernel"]
    scaled = kernel * 16 / jnp.linalg.norm(kernel)
    # What Muon adds to a kernel of norm 16 has singular values of about 0.24.
    values = np.linalg.svd(
        (kernel + update - scaled).reshape(-1, 256), compute_uv=False
    )
    assert 0.1 < values[:20].min() and values.max() < 0.35


def test_speedrun_images_are_mirrored_in_every_other_epoch(speedrun):
    data = {
        "image": jnp.asarray(speedrun.train.image),
        "label": jnp.arange(40, dtype=jnp.int32),
    }
    key, seen = jax.random.key(3), {}
    for step in range(4):
        batch = speedrun.batch_at(key, jnp.int32(step), data, 20)
        plain = batch_at(key, jnp.int32(step), data, 20)
        assert (batch["label"] == plain["label"]).all()
        for name, image in zip(batch["label"].tolist(), np.asarray(batch["image"])):
            middle = slice(2, 30)
            original = np.asarray(data["image"][name]).astype(int)
            found = [
                any(
                    (
                        image[middle, middle]
                        == version[2 + dy : 30 + dy, 2 + dx : 30 + dx]
                    ).all()
                    for dy in range(-2, 3)
                    for dx in range(-2, 3)
                )
                for version in (original, original[:, ::-1])
            ]
            assert sum(found) == 1
            seen.setdefault(name, []).append(found.index(True))
    assert all(sorted(flips) == [0, 1] for flips in seen.values())


def test_a_speedrun_step_is_finite_and_in_parts(speedrun):
    data = {"image": speedrun.train.image[:8], "label": speedrun.train.label[:8]}
    tx, inputs = speedrun.tx(8), jnp.zeros((1, 32, 32, 3))
    step = make_step(speedrun.loss_fn, tx, accumulate=2)
    first = create(speedrun.layer, tx, jax.random.key(0), inputs)
    before = jax.tree.map(jnp.copy, first.params)
    state, metrics = step(first, jax.tree.map(jnp.asarray, data))
    assert metrics["finite"] and np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, state.params)
    assert not moved["whitening"].pop("kernel") and all(jax.tree.leaves(moved))


def test_mnist_fast_is_one_program(monkeypatch, capsys, rng):
    monkeypatch.setattr(mnist_fast, "load", lambda *_, **__: _digits(1000, rng))
    assert mnist_fast.main(["--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out and "compile until" in out


def test_boxes_are_drawn(tmp_path, rng):
    canvases = _canvases(4, Kind(), rng)
    boxes, classes = canvases.objects[..., :4], canvases.objects[..., 4]
    path = tmp_path / "boxes.png"
    found = boxes, np.ones_like(classes), classes
    digit_pictures.draw_boxes(path, canvases.image, canvases.objects, *found)
    assert _width(path) > 500
