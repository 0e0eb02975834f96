"""Runs on images that stay in their files: the bits of the same run in memory."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jcnn import flatten, serial
from jcnn.data import View, batches, from_arrays, stream_folder
from jcnn.layers import Conv, Dense
from jcnn.runs import Count, OptionError, Recipe, RunConfig, check_recipe, main
from jcnn.runs.devices import Devices
from jcnn.runs.evaluation import make_evaluator
from jcnn.runs.output import lasting_output
from jcnn.runs.sweep.command import _why_apart
from jcnn.runs.sweep.members import Member
from jcnn.train import batch_at, classification, create, indices_at

SHAPE = (8, 8, 3)


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 3
    batch_size: Count = 8


@pytest.fixture
def images(tmp_path, monkeypatch, rng):
    """A folder of 20 PNG files of one size, of two classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for index in range(20):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, SHAPE, np.uint8)).save(path)
    return tmp_path / "images"


def _streamed(images, **how):
    return stream_folder(images, view=View(8, **how), workers=0)


def _in_memory(dataset):
    pixels = np.asarray(dataset.image)
    return from_arrays(pixels, dataset.label, 2, class_names=dataset.class_names)


def _recipe(dataset, **how):
    layer = serial(conv=Conv(2, 3), flatten=flatten, head=Dense(2))
    losses = classification(layer, lambda images, key: images.astype("float32") / 255)
    return Recipe(layer, optax.adam(0.01), *losses, dataset, dataset, **how)


def _run(folder, dataset, *options):
    arguments = ["--run-dir", str(folder), "--certify-every", "1", *options]
    status = main(Config, lambda config: _recipe(dataset), arguments)
    lines = (folder / "certificate.jsonl").read_text().splitlines()
    return status, [json.loads(line) for line in lines]


def _metrics(folder):
    keys = ("images_per_second", "seconds")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in keys} for line in lines]


def test_a_run_has_the_bits_of_one_in_memory_resumed_or_not(images, tmp_path):
    """Also its validation, and the metrics of its test images."""
    dataset, validation = _streamed(images), ("--validation", "0.3")
    status, expected = _run(tmp_path / "memory", _in_memory(dataset), *validation)
    assert status == 0
    status, found = _run(tmp_path / "streamed", dataset, *validation)
    assert status == 0 and len(found) == 4
    assert found[1:] == expected[1:]
    assert _metrics(tmp_path / "streamed") == _metrics(tmp_path / "memory")
    described = found[0]["data"]["validation"]["image"]
    assert described["shape"] == [6, *SHAPE]
    report = tmp_path / "streamed" / "report.safetensors"
    assert report.read_bytes() == (tmp_path / "memory" / report.name).read_bytes()

    options = (*validation, "--no-report", "--max-steps")
    assert _run(tmp_path / "resumed", dataset, *options, "2")[0] == 0
    status, resumed = _run(tmp_path / "resumed", dataset, *options, "3")
    assert status == 0 and resumed == found


def test_on_two_devices_too(images, tmp_path):
    dataset, options = _streamed(images), ("--devices", "2", "--validation", "0.3")
    status, expected = _run(tmp_path / "memory", _in_memory(dataset), *options)
    assert status == 0
    status, found = _run(tmp_path / "streamed", dataset, *options)
    assert status == 0 and found[1:] == expected[1:]
    assert _metrics(tmp_path / "streamed") == _metrics(tmp_path / "memory")


def test_a_step_that_is_not_finite_is_repeated_and_found(images, tmp_path, capsys):
    """The first batch with a certain image, of those in the order of steps."""
    dataset = _streamed(images)
    key, sizes = jax.random.key(0), {"num_examples": 20, "batch_size": 8}
    orders = [np.asarray(indices_at(key, step, **sizes)) for step in range(2)]
    second = next(i for i in orders[1] if i not in orders[0])
    wrong = np.asarray(dataset.image[[second]])

    def recipe(config):
        made = _recipe(dataset)

        def loss_fn(params, model_state, batch, key):
            loss, aux = made.loss_fn(params, model_state, batch, key)
            bad = (batch["image"] == wrong).all((1, 2, 3)).any()
            return jnp.where(bad, jnp.nan, loss), aux

        return made._replace(loss_fn=loss_fn)

    assert main(Config, recipe, ["--run-dir", str(tmp_path / "run")]) == 1
    text = capsys.readouterr().err
    assert "step 1 is not finite: loss (NaN)" in text
    assert f"its batch is examples {orders[1].tolist()}" in text


def test_evaluation_is_that_of_the_set_in_memory(images):
    dataset = _streamed(images)
    recipe, inputs = _recipe(dataset), jnp.zeros((1, *SHAPE))
    state = create(recipe.layer, optax.adam(0.01), jax.random.key(1), inputs)
    in_memory = _recipe(_in_memory(dataset))
    found, expected = (
        make_evaluator(recipe, "test", None, Devices())(state)
        for recipe in (recipe, in_memory)
    )
    assert found == expected


def test_broken_images_end_a_run_if_they_are_too_many(images, tmp_path, capsys):
    for path in (images / "a").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    dataset = _streamed(images)
    with pytest.warns(RuntimeWarning, match="broken image 1: "):
        status = main(
            Config,
            lambda config: _recipe(dataset),
            ["--run-dir", str(tmp_path / "run")],
        )
    assert status == 1
    assert "error: 2 images are broken, and max_broken is 1" in capsys.readouterr().err


def test_a_broken_first_image_does_not_end_a_run(images, tmp_path):
    (images / "a" / "00.png").write_bytes(b"x")
    with pytest.warns(RuntimeWarning, match="broken image 1: "):
        status, _ = _run(tmp_path / "run", _streamed(images))
    assert status == 0
    report = load_file(tmp_path / "run" / "report.safetensors")
    assert report["matrix"].sum() == 19
    assert any(name.startswith("maps/") for name in report)


def test_what_streamed_images_cannot_do_is_an_error_before_training(images):
    dataset = _streamed(images)
    whole = _in_memory(dataset)
    with pytest.raises(OptionError, match="batch_at must be jcnn.train.batch_at for"):
        check_recipe(_recipe(dataset, batch_at=lambda *a: batch_at(*a)), batch_size=4)
    recipe = _recipe(whole, split_metrics={"iou": lambda *a: 0})._replace(test=dataset)
    with pytest.raises(OptionError, match="must be empty for streamed test images"):
        check_recipe(recipe, batch_size=4)


def test_members_of_a_sweep_are_trained_apart(images):
    recipe = _recipe(_streamed(images))
    members = [Member({}, Config(seed=seed)) for seed in range(2)]
    reason = _why_apart("always", members, [recipe], lambda config: recipe)
    assert reason == "their images are streamed"


def test_steps_are_profiled(images, tmp_path, capsys):
    dataset = _streamed(images)
    arguments = ["--run-dir", str(tmp_path / "run"), "--profile", "--no-report"]
    assert main(Config, lambda config: _recipe(dataset), arguments) == 0
    assert "the recorded steps are in" in capsys.readouterr().out


def test_a_warning_of_jcnn_is_one_line_in_a_run():
    with lasting_output():
        found = warnings.formatwarning("text", RuntimeWarning, batches.__file__, 3)
        other = warnings.formatwarning("text", RuntimeWarning, __file__, 3)
    assert found == "warning: text\n"
    for text in (other, warnings.formatwarning("text", RuntimeWarning, __file__, 3)):
        assert text.startswith(f"{__file__}:3: RuntimeWarning: text\n")
