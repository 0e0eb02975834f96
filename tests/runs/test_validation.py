"""The validation split, the best epoch, early stopping, and the test at the end."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcnn import flatten, serial
from jcnn.__main__ import main as jcnn
from jcnn.data import Dataset, from_arrays
from jcnn.layers import Dense
from jcnn.runs import OptionError, Recipe, RunConfig, fit, hold_out, main, read_metrics
from jcnn.runs.evaluation import Epochs
from jcnn.train import classification

TIMES = ("images_per_second", "seconds")


def _images(n, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 4, 4, 1)).astype(np.uint8)
    return from_arrays(pixels, np.arange(n) % classes, classes)


def _prepare(images, key):
    return images.astype(jnp.float32) / 255


def recipe(config, **more: Any) -> Recipe:
    """50 random images learnt by heart: those held out get worse soon."""
    layer = serial(flatten=flatten, head=Dense(3))
    losses = classification(layer, _prepare)
    more = {"watch": "loss"} | more
    return Recipe(layer, optax.adam(0.05), *losses, _images(50), _images(7), **more)


def _run(run_dir, *options, make_recipe=recipe, **how):
    arguments = [f"--run-dir={run_dir}", "--batch-size=8", *map(str, options)]
    seams = {"report": False, "steps_per_call": 2} | how
    return main(RunConfig, make_recipe, arguments, fit=partial(fit, **seams))


def _lines(run_dir):
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in read_metrics(Path(run_dir))
    ]


def _result(run_dir):
    names = ("params.safetensors", "certificate.jsonl")
    return _lines(run_dir), *(Path(run_dir, name).read_bytes() for name in names)


def _validated(run_dir, name="validation_loss"):
    return [line[name] for line in _lines(run_dir) if name in line]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Holding out


def _split(seed):
    split = hold_out(recipe(None), 0.2, seed=seed)
    assert split.validation is not None
    return split.train, split.validation


def test_each_image_is_either_trained_on_or_held_out_and_the_seed_decides():
    data = _images(50)
    held = {}
    for seed in (0, 1):
        train, validation = _split(seed)
        assert len(validation.label) == 10 and len(train.label) == 40
        both = [*validation.image, *train.image]
        assert {a.tobytes() for a in both} == {a.tobytes() for a in data.image}
        pairs = {a.tobytes(): b for a, b in zip(data.image, data.label, strict=True)}
        for part in (validation, train):
            for image, label in zip(part.image, part.label, strict=True):
                assert pairs[image.tobytes()] == label
        _, again = _split(seed)
        assert np.array_equal(again.image, validation.image)
        held[seed] = validation.image
    assert not np.array_equal(held[0], held[1])
    assert hold_out(recipe(None), 0.0, seed=0).validation is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--validation", 0.001], "--validation must hold out 1 to 49 of 50 images"),
        (["--validation", 0.999], "--validation must hold out 1 to 49 of 50 images"),
        (["--validation", 1.0], "--validation"),
        (
            ["--patience", 2],
            "--patience needs a validation split: --validation must",
        ),
        (
            ["--validation", 0.5, "--batch-size", 26],
            "at most 25, the number",
        ),
    ],
)
def test_what_cannot_be_held_out_is_told_before(options, words, tmp_path, capsys):
    assert _run("a", *options) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_may_bring_its_own_validation_split(capsys):
    own = partial(recipe, validation=_images(9, seed=5))
    assert _run("a", "--epochs", 1, make_recipe=own) == 0
    assert len(_validated("a")) == 1
    assert _run("b", "--validation", 0.1, make_recipe=own) == 2
    assert "--validation must be 0 for a recipe with a" in capsys.readouterr().err


def test_whether_more_is_better_must_be_known(capsys):
    def made(config, **more):
        one = recipe(config)

        def metrics(*args):
            return {"iou": one.example_metrics(*args)["accuracy"]}

        return one._replace(example_metrics=metrics, watch="iou", **more)

    assert _run("a", "--validation", 0.1, make_recipe=made) == 2
    assert "higher_is_better must be True or False for the metric 'iou'" in (
        capsys.readouterr().err
    )
    known = partial(made, higher_is_better=True)
    assert _run("a", "--validation", 0.1, "--epochs", 1, make_recipe=known) == 0


# What is evaluated when


def test_validation_is_evaluated_each_epoch_and_tests_at_the_end(capsys):
    assert _run("a", "--epochs", 3, "--validation", 0.2) == 0
    *lines, last = _lines("a")
    for line in lines:
        ends = line["step"] % 5 == 0
        assert ("validation_loss" in line) == ("validation_accuracy" in line) == ends
        assert not any(name.startswith("test_") for name in line)
    assert last["test_loss"] > 0
    told = [x for x in capsys.readouterr().out.splitlines() if x.startswith("epoch ")]
    for text, value in zip(told, _validated("a"), strict=True):
        assert f"validation {value:.4f}" in text and "test" not in text
    assert _run("b", "--epochs", 3, "--validation", 0.2, "--test-each-epoch") == 0
    tested = _validated("b", "test_loss")
    assert len(tested) == 4 and tested[-1] == tested[-2] == last["test_loss"]
    assert _validated("a") == _validated("b")
    assert _result("a")[1:] == _result("b")[1:]


def test_the_validation_metrics_are_those_of_the_images_held_out():
    train, validation = _split(0)
    made = recipe(None)._replace(train=train, validation=validation)
    how: Any = {"report": False, "steps_per_call": 5}
    result = fit(made, Path(), seed=0, epochs=1, batch_size=8, **how)
    x = np.asarray(_prepare(validation.image, None), np.float64).reshape(10, -1)
    head = result.state.params["head"]
    logits = x @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
    picked = logits[np.arange(10), validation.label]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - picked)
    assert _validated(".") == pytest.approx([expected], rel=1e-5)


# The best epoch, and early stopping


def test_epochs_are_compared_in_the_right_direction():
    for higher, values, best in (
        (False, [3, 1, 1, 2], 1),
        (True, [3, 1, 3, 2], 0),
        (True, [None, float("inf"), 0.5, float("nan")], 2),
        (False, [float("-inf"), -0.5, None], 1),
    ):
        epochs = Epochs("m", higher_is_better=higher, patience=len(values) - best)
        for index, value in enumerate(values):
            assert not epochs.out_of_patience()
            epochs.add({"validation_m": value})
            if index >= best:
                assert epochs.last_is_best() == (index == best)
        assert not epochs.out_of_patience()
        epochs.add({"validation_m": None})
        assert epochs.out_of_patience()


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run of at most 40 epochs that stops early, with all of its checkpoints."""
    folder = tmp_path_factory.mktemp("early")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _run("run", *EARLY) == 0
    return folder / "run"


EARLY = ("--epochs", 40, "--validation", 0.2, "--patience", 3, "--keep-checkpoints", 1)


def test_a_run_stops_after_so_many_epochs_without_a_better_one(early, capsys):
    losses = _validated(early)
    assert 4 <= len(losses) < 40
    assert np.argmin(losses) == len(losses) - 4
    last = _lines(early)[-1]
    assert last["step"] == 5 * len(losses) and last["interrupted"] is False
    best = 5 * (len(losses) - 3)
    folders = sorted(path.name for path in (early / "checkpoints").iterdir())
    assert folders == [f"{step:010d}" for step in (best, last["step"])]
    assert _run(early, *EARLY) == 0
    assert "this run is finished" in capsys.readouterr().out


def test_the_best_of_a_metric_that_is_to_be_high_is_kept():
    high = partial(recipe, watch="accuracy")
    options = ("--epochs", 6, "--validation", 0.4, "--keep-checkpoints", 1)
    assert _run("a", *options, "--batch-size", 6, make_recipe=high) == 0
    best = 1 + int(np.argmax(_validated("a", "validation_accuracy")))
    kept = {path.name for path in Path("a/checkpoints").iterdir()}
    assert kept == {f"{step:010d}" for step in (5 * best, 30)}


@pytest.mark.parametrize("step", [4, 10])
def test_an_interrupted_run_stops_early_with_the_same_bytes(step, early):
    def stop(line):
        if line["step"] == step and "interrupted" not in line:
            signal.raise_signal(signal.SIGTERM)

    assert _run("a", *EARLY, on_metrics=stop) == 143
    assert _run("a", *EARLY) == 0
    assert _result("a") == _result(early)


def test_killed_at_its_early_end_it_ends_there(early):
    class Killed(BaseException):
        pass

    end = _lines(early)[-1]["step"]

    def kill(line):
        if line["step"] == end:
            raise Killed

    with pytest.raises(Killed):
        _run("a", *EARLY, on_metrics=kill)
    assert _run("a", *EARLY) == 0
    # As if it was killed between the last checkpoint and the last line.
    metrics = Path("a/metrics.jsonl")
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(True)[:-1]))
    assert _run("a", *EARLY) == 0
    assert _result("a") == _result(early)


def test_a_signal_at_the_early_end_is_no_interruption(early):
    end = _lines(early)[-1]["step"]

    def stop(line):
        if line["step"] == end and "interrupted" not in line:
            signal.raise_signal(signal.SIGTERM)

    assert _run("a", *EARLY, on_metrics=stop) == 0
    assert _result("a") == _result(early)


def test_made_longer_it_has_one_more_epoch_and_stops_again(early):
    assert _run("a", *EARLY) == 0
    assert _run("a", *EARLY, "--epochs", 50) == 0
    losses = _validated("a")
    assert losses[:-1] == _validated(early)
    assert losses[-1] > min(losses)


def test_a_run_that_ends_before_is_made_longer_as_if_it_had_been_long(early):
    short = ("--epochs", 2, *EARLY[2:])
    assert _run("a", *short) == 0
    assert _run("a", *EARLY) == 0
    (*_, first), (*_, second) = _lines("a"), _lines(early)
    assert first == second
    assert _result("a")[1:] == _result(early)[1:]


def test_a_run_with_validation_is_reproduced(tmp_path, capsys):
    end = '\nif __name__ == "__main__":\n    sys.exit(main(RunConfig, recipe))\n'
    Path("held.py").write_text(Path(__file__).read_text() + end)
    command = [sys.executable, "held.py", "--batch-size=8", "--run-dir=run"]
    subprocess.run([*command, *map(str, EARLY)], check=True)
    assert jcnn(["reproduce", "run"]) == 0
    assert "identical to the bit" in capsys.readouterr().out


# Recipes


def test_an_optimizer_may_depend_on_the_number_of_steps():
    asked = []

    def tx(num_steps):
        asked.append(num_steps)
        return optax.sgd(optax.linear_schedule(0.1, 0.0, num_steps))

    def made(config, tx=tx):
        return recipe(config)._replace(tx=tx)

    options = ("--epochs", 2, "--validation", 0.2, "--max-steps", 7)
    assert _run("a", *options, make_recipe=made) == 0
    assert set(asked) == {10}
    assert _run("b", *options, make_recipe=partial(made, tx=tx(10))) == 0
    assert _result("a") == _result("b")


def test_targets_may_be_numbers_and_the_best_epoch_the_one_of_least_error():
    layer = serial(flatten=flatten, head=Dense(1))

    def error(params, model_state, batch):
        y, _ = layer.apply(params, model_state, _prepare(batch["image"], None))
        return y[:, 0] - batch["label"]

    def loss_fn(params, model_state, batch, key):
        loss = jnp.mean(error(params, model_state, batch) ** 2)
        return loss, (model_state, {})

    def example_metrics(params, model_state, batch):
        return {"error": jnp.abs(error(params, model_state, batch))}

    rng = np.random.default_rng(0)
    pixels = _images(50).image
    data = Dataset(pixels, rng.normal(size=50).astype("float32"), 1)
    losses = (loss_fn, example_metrics)
    made = Recipe(layer, optax.adam(0.05), *losses, data, data, watch="error")
    made = made._replace(higher_is_better=False)
    options = ("--epochs", 4, "--validation", 0.2, "--keep-checkpoints", 1)
    assert _run("a", *options, make_recipe=lambda config: made) == 0
    errors = _validated("a", "validation_error")
    steps = {5 * (1 + int(np.argmin(errors))), 20}
    kept = {path.name for path in Path("a/checkpoints").iterdir()}
    assert kept == {f"{step:010d}" for step in steps}
    with pytest.raises(OptionError, match="'nothing'"):
        fit(made._replace(watch="nothing"), Path(), seed=0, epochs=1, batch_size=8)
