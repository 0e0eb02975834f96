"""The scripts in experiments/: their command lines, their recipes, and real runs."""

import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cifar10, digits, fashion_mnist, mnist, mnist_small
from jcnn.data import from_arrays
from jcnn.runs import AdamW, fit, main, read_config, read_metrics
from jcnn.runs.stepping import compile_steps
from jcnn.runs.threads import use_threads

SCRIPTS = [digits, mnist, mnist_small, fashion_mnist, cifar10]
IMAGE_SHAPES = {
    digits: (8, 8, 1),
    mnist: (28, 28, 1),
    mnist_small: (28, 28, 1),
    fashion_mnist: (28, 28, 1),
    cifar10: (32, 32, 3),
}


def _digits(*options, **how):
    arguments = [str(option) for option in options]
    return main(digits.Config, digits.recipe, arguments, **how)


# Command lines


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_introduces_the_script_and_each_option(script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    monkeypatch.delitem(sys.modules, script.__name__)  # else runpy warns
    with pytest.raises(SystemExit) as end:
        runpy.run_module(script.__name__, run_name="__main__", alter_sys=True)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert script.__doc__.splitlines()[0] in text
    assert f"python -m {script.__name__}" in text
    for option in ("seed", "epochs", "batch-size", "data-dir", "run-dir"):
        assert f"--{option} " in text
    # mnist_small has one optimizer alone.
    group = "" if script.__name__ == mnist_small.__name__ else "optimizer."
    assert f"--{group}learning-rate FLOAT" in text
    words = " ".join(text.replace("│", " ").split())
    assert "Passes over the training images. (default: " in words


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--epoch", "3"], "--epoch"),
        (["--epochs", "three"], "three"),
        (["--epochs", "2.5"], "2.5"),
        (["--optimizer.learning-rate", "fast"], "fast"),
        (["--optimizer.momentum", "0.9"], "--optimizer.momentum"),
        (["--seed"], "--seed"),
        (["digits"], "digits"),
    ],
)
def test_unknown_and_ill_typed_options_end_with_status_2(
    options, word, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        _digits(*options)
    assert end.value.code == 2
    assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed", "-1"),
        ("--epochs", "0"),
        ("--epochs", "1000000000"),
        ("--batch-size", "0"),
        ("--batch-size", "1438"),
        ("--dropout", "1.0"),
        ("--optimizer.learning-rate", "nan"),
        ("--optimizer.learning-rate", "inf"),
        ("--optimizer.learning-rate", "-0.1"),
        ("--optimizer.weight-decay", "-1.0"),
    ],
)
def test_values_out_of_range_give_one_line_and_status_2(
    option, value, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert _digits(option, value) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {option} must be ")
    assert captured.err.endswith(f", got {value}\n")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_used_run_folder_is_refused(capsys, tmp_path):
    (tmp_path / "config.json").write_text("old")
    assert _digits("--run-dir", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --run-dir: {tmp_path} ") and "empty" in error
    assert (tmp_path / "config.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_data_that_is_not_there_is_missed_before_anything_is_written(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = ["--data-dir", str(tmp_path), "--run-dir", "run"]
    assert main(mnist.Config, mnist.recipe, options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "mnist" in error and str(tmp_path) in error
    assert list(tmp_path.iterdir()) == []


# Recipes


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_recipe_trains_and_tests_on_the_two_splits(script, monkeypatch, rng):
    shape = IMAGE_SHAPES[script]
    loaded = {}

    def load(name, split, data_dir=None):
        assert script.__name__.rpartition(".")[-1].startswith(name)
        pixels = rng.integers(0, 256, (200, *shape)).astype(np.uint8)
        loaded[split] = from_arrays(pixels, rng.integers(0, 10, 200), 10)
        return loaded[split]

    monkeypatch.setattr(script, "load", load)
    recipe = script.recipe(script.Config(epochs=1, batch_size=200))
    assert recipe.train is loaded["train"] and recipe.test is loaded["test"]

    batch = {"image": recipe.train.image, "label": recipe.train.label}
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    key = jax.random.key(0)
    params, state = jax.eval_shape(recipe.layer.init, key, inputs)
    loss, (new_state, metrics) = jax.eval_shape(
        recipe.loss_fn, params, state, batch, key
    )
    assert loss.shape == () and "accuracy" in metrics
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    tested = jax.eval_shape(recipe.example_metrics, params, state, batch)
    assert tested["accuracy"].shape == (200,)
    jax.eval_shape(recipe.tx(10).init, params)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_only_training_images_are_augmented_each_step_anew(script, rng):
    shape = IMAGE_SHAPES[script]
    images = jnp.asarray(rng.integers(0, 256, (20, *shape)).astype(np.uint8))
    plain = script.prepare(images, None)
    assert plain.dtype == jnp.float32 and plain.shape == images.shape
    # One scale and offset for each channel, whatever the script's are.
    for channel in range(shape[-1]):
        pixels = np.asarray(images[..., channel], np.float64).ravel()
        values = np.asarray(plain[..., channel], np.float64).ravel()
        slope, offset = np.polyfit(pixels, values, 1)
        assert slope > 0
        np.testing.assert_allclose(slope * pixels + offset, values, atol=1e-5)
    first, again, other = (
        script.prepare(images, jax.random.key(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    augments = script is not mnist_small  # whose few parameters do not overfit
    assert np.array_equal(first, other) is not augments
    assert np.array_equal(first, plain) is not augments


def test_the_smallest_model_has_660_parameters_and_shares_its_convolutions(rng):
    layer, x = mnist_small.model(11, "lax"), jnp.zeros((2, 28, 28, 1))
    params, state = layer.init(jax.random.key(0), x)
    assert sum(a.size for a in jax.tree.leaves(params)) == 660
    images = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    def convolve(x, kernel, groups=1, padding="VALID"):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            padding,
            dimension_numbers=dims,
            feature_group_count=groups,
        )

    def norm(x, scale, bias):
        x = np.asarray(x)
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        x = x * np.asarray(scale) + np.asarray(bias)
        return np.where(x > 0, x, np.float32(0.2) * x)

    first = params["first"]
    x = convolve(images, first["conv"]["kernel"], padding="SAME")
    x = norm(x, 1, first["norm"]["bias"])
    # The four places where windows can begin.
    x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), "edge")
    moved = [x[:, i : i + 28, j : j + 28] for i in (0, 1) for j in (0, 1)]
    x = np.concatenate([m.reshape(2, 14, 2, 14, 2, 11).max((2, 4)) for m in moved])
    for part, times in (("body", 3), ("end", 2)):
        unit = params[part]["unit"]
        for i in map(str, range(times)):
            x = convolve(x, unit["depthwise"]["kernel"], groups=11)
            x = convolve(x, unit["pointwise"]["kernel"])
            x = norm(x, **params[part][i]["norm"])
    logits, _ = layer.apply(params, state, images, train=True)
    expected = x.mean((1, 2))[:, :10].reshape(4, 2, 10).mean(0)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


# Runs


def test_a_short_run_on_digits_learns_and_repeats_to_the_bit(tmp_path, capfd):
    options = ["--epochs", "5", "--seed", "3", "--optimizer.learning-rate", "0.005"]
    assert _digits(*options, "--run-dir", tmp_path / "a") == 0
    text = capfd.readouterr().out
    assert "\x1b" not in text and text.count("epoch ") == 5

    names = {file.name for file in (tmp_path / "a").iterdir()}
    assert names == {
        ".gitignore",
        ".lock",
        "certificate.jsonl",
        "checkpoints",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "network.json",
        "network.jaxexport",
        "params.safetensors",
        "source.json",
        "curves.png",
        "filters.png",
        "report.html",
        "report.safetensors",
    }
    config = read_config(tmp_path / "a", digits.Config)
    assert config == digits.Config(
        seed=3,
        epochs=5,
        threads=use_threads(None),
        run_dir=tmp_path / "a",
        optimizer=AdamW(learning_rate=0.005, decayed=""),
    )
    last = read_metrics(tmp_path / "a")[-1]
    assert last["step"] == 5 * (1437 // config.batch_size)
    assert last["test_accuracy"] > 0.8

    # The same command in a program of its own.
    program = subprocess.run(
        [sys.executable, "-m", "experiments.digits", *options]
        + ["--run-dir", str(tmp_path / "b")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert program.returncode == 0, program.stderr
    a, b = ((tmp_path / name / "params.safetensors").read_bytes() for name in "ab")
    assert a == b
    experiment = json.loads((tmp_path / "b" / "config.json").read_text())["experiment"]
    assert experiment == "experiments.digits"


@pytest.mark.parametrize("dtype", ["float16", "bf16", ""])
def test_other_dtypes_are_refused_and_those_allowed_named(dtype, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        _digits("--dtype", dtype, "--run-dir", tmp_path / "run")
    assert end.value.code == 2 and not list(tmp_path.iterdir())
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "--dtype" in text and "'float32', 'bfloat16'" in text


def test_deterministic_reaches_the_compiler_and_the_record(tmp_path, monkeypatch):
    """On a GPU XLA is told to; what it is told here it does not know, and says so."""
    unknown = {"xla_no_such_option": True}
    monkeypatch.setattr(
        "jcnn.runs.start.default_options",
        lambda *, deterministic: unknown if deterministic else {},
    )
    options = ["--run-dir", tmp_path / "run", "--epochs", 1, "--deterministic"]
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        _digits(*options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        # Evaluation is told, too.
        _digits(*options, fit=partial(fit, compile_steps=_without_options))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["compiler_options"] == unknown
    assert read_config(tmp_path / "run", digits.Config).deterministic


def _without_options(*args, compiler_options, **how):
    return compile_steps(*args, **how)
