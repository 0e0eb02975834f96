"""jcnn.runs: configuration, run folder, weights, pictures, progress, the loop."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from rich.console import Console
from safetensors import safe_open

from jcnn import flatten, serial
from jcnn._files import write_file
from jcnn.data import from_arrays
from jcnn.layers import BatchNorm, Conv, Dense, Dropout
from jcnn.runs import (
    Count,
    OptionError,
    Positive,
    Range,
    Rate,
    Recipe,
    RunConfig,
    count_steps,
    fit,
    read_config,
    read_metrics,
    read_weights,
    write_weights,
)
from jcnn.runs.config import check_config
from jcnn.runs.config_json import config_from_json, config_to_json
from jcnn.runs.interrupt import catch_interrupt
from jcnn.runs.pictures import draw_curves, draw_filters, write_picture
from jcnn.runs.progress import describe_metrics, progress_bar
from jcnn.runs.stepping import compile_steps, split_epoch, suggest_steps_per_call
from jcnn.runs.store.folder import (
    check_run_dir,
    make_run_dir,
    write_config,
    write_json,
)
from jcnn.runs.store.journal import Journal
from jcnn.runs.verify.environment import describe_environment
from jcnn.train import classification, create, make_scan


@dataclass(frozen=True)
class Inner:
    rate: Positive = 0.5
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 7
    dropout: Rate = 0.25
    name: str = "a"
    flip: bool = True
    limit: Annotated[int, Range(-3, 3)] | None = None
    inner: Inner = Inner()


# Configuration


def test_config_comes_back_equal_from_its_folder(tmp_path):
    config = Config(
        seed=5,
        data_dir=Path("data") / "sets",
        run_dir=tmp_path,
        flip=False,
        limit=2,
        inner=Inner(rate=1e-7, steps=(3, 4, 5)),
    )
    write_config(tmp_path, config, experiment="somewhere.digits")
    assert read_config(tmp_path, Config) == config
    assert read_config(tmp_path, Config) != Config()
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["experiment"] == "somewhere.digits"
    assert values["config"]["inner"] == {"rate": 1e-7, "steps": [3, 4, 5]}


def test_config_of_another_dataclass_is_refused():
    with pytest.raises(ValueError, match="inner"):
        config_from_json(RunConfig, config_to_json(Config()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(seed=-1), "--seed must be at least 0 and .*, got -1"),
        (Config(seed=2**32), "--seed must be .*, got 4294967296"),
        (Config(epochs=0), "--epochs must be at least 1, got 0"),
        (Config(max_steps=0), "--max-steps must be at least 1, got 0"),
        (Config(ema_decay=1.0), "--ema-decay must be above 0 and below 1, got 1.0"),
        (Config(ema_decay=0.0), "--ema-decay must be above 0 and below 1, got 0.0"),
        (Config(batch_size=-4), "--batch-size must be at least 1, got -4"),
        (Config(dropout=1.0), "--dropout must be at least 0 and below 1, got 1.0"),
        (Config(dropout=math.nan), "--dropout must be at least 0 and below 1, got nan"),
        (Config(inner=Inner(rate=0.0)), "--inner.rate must be above 0, got 0.0"),
        (Config(inner=Inner(rate=math.inf)), "--inner.rate must be above 0, got inf"),
        (Config(limit=4), "--limit must be at least -3 and at most 3, got 4"),
    ],
)
def test_numbers_out_of_range_are_refused(config, message):
    with pytest.raises(OptionError, match=message):
        check_config(config)


def test_the_ends_of_a_range_belong_to_it():
    check_config(Config(seed=2**32 - 1, epochs=1, batch_size=1, dropout=0.0, limit=-3))
    check_config(Config(seed=0, limit=3))


def test_two_seeds_are_never_the_same_run():
    first, last = (jax.random.key_data(jax.random.key(s)) for s in (0, 2**32 - 1))
    assert not np.array_equal(first, last)


# Run folder


def test_a_used_folder_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("old")
    for refuse in (check_run_dir, lambda path: make_run_dir(path, name="x")):
        with pytest.raises(FileExistsError, match="--run-dir.*not empty"):
            refuse(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "run"):
        with pytest.raises(NotADirectoryError, match="--run-dir.*file"):
            make_run_dir(path, name="x")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(PermissionError, match="--run-dir"):
        make_run_dir(tmp_path / "new" / "run", name="x")
    assert list(tmp_path.iterdir()) == []


def test_new_and_empty_folders_are_taken(tmp_path):
    assert make_run_dir(tmp_path / "a" / "b", name="x") == tmp_path / "a" / "b"
    assert make_run_dir(tmp_path / "a" / "b", name="x").is_dir()


def test_folders_of_one_second_have_different_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda format: "20261122-153012")
    names = [str(make_run_dir(None, name="digits", seed=0)) for _ in range(3)]
    first = "runs/digits-20261122-153012-seed0"
    assert [Path(name) for name in names] == [
        Path(first),
        Path(f"{first}-2"),
        Path(f"{first}-3"),
    ]
    assert all(Path(name).is_dir() for name in names)


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    write_file(tmp_path / "a", b"old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_without_meaning_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_each_line_of_metrics_is_there_at_once(tmp_path):
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": math.inf}]
    metrics = Journal(tmp_path / "metrics.jsonl")
    for count, line in enumerate(lines, 1):
        metrics.append(line)
        assert len(read_metrics(tmp_path)) == count
    assert read_metrics(tmp_path)[1] == {"step": 2, "loss": None}


# Environment


def _git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_environment_names_versions_device_and_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=b")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    values = describe_environment(tmp_path)
    installed = values["distributions"]
    assert installed["jax"] == jax.__version__ and values["XLA_FLAGS"] == "--a=b"
    assert installed["numpy"] == np.__version__
    assert installed["optax"] == optax.__version__
    assert {"orbax-checkpoint", "pytest"} < installed.keys()
    assert values["jax_config"]["jax_numpy_rank_promotion"] == "raise"
    assert 1 <= values["cpus"]["usable"] <= values["cpus"]["all"]
    assert values["device"]["count"] == jax.device_count()
    assert values["device"]["platform"] == jax.default_backend()
    assert values["commit"] is None and values["dirty"] is None
    assert json.loads(json.dumps(values)) == values


def test_environment_names_the_commit_and_whether_files_differ(tmp_path):
    try:
        _git(tmp_path, "init")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert describe_environment(tmp_path)["commit"] is None
    (tmp_path / "script.py").write_text("1")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "first")
    values = describe_environment(tmp_path)
    assert values["commit"] == _git(tmp_path, "rev-parse", "HEAD").strip()
    assert values["dirty"] is False
    (tmp_path / "script.py").write_text("2")
    assert describe_environment(tmp_path)["dirty"] is True


# Weights


def _tree(rng) -> dict[str, Any]:
    return {
        "stage": {
            "conv": {"kernel": rng.normal(size=(3, 3, 2, 4)), "bias": np.zeros(4)}
        },
        "head": {"kernel": rng.normal(size=(4, 5)).astype(np.float32).T},
        "count": {"value": np.int32(7)},
    }


def test_weights_come_back_with_names_values_dtypes_and_shapes(tmp_path, rng):
    params, state = _tree(rng), {"norm": {"mean": np.arange(3, dtype=np.float32)}}
    path = tmp_path / "params.safetensors"
    write_weights(path, params, state)
    both = read_weights(path)
    assert jax.tree.structure(both) == jax.tree.structure((params, state))
    for before, after in zip(
        jax.tree.leaves((params, state)), jax.tree.leaves(both), strict=True
    ):
        assert before.dtype == after.dtype and before.shape == after.shape
        np.testing.assert_array_equal(before, after)
    with safe_open(path, framework="numpy") as file:
        assert "params/stage/conv/kernel" in file.keys()  # noqa: SIM118
        assert "state/norm/mean" in file.keys()  # noqa: SIM118


def test_the_order_of_names_does_not_change_the_bytes(tmp_path, rng):
    params = _tree(rng)
    turned = {name: params[name] for name in reversed(params)}
    write_weights(tmp_path / "a", params, {})
    write_weights(tmp_path / "b", turned, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_name_with_a_slash_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a/b"):
        write_weights(tmp_path / "a", {"a/b": np.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []


# Pictures and progress


def _drawn(figure):
    return {
        (axes.get_ylabel(), line.get_label()): np.asarray(line.get_xydata()).tolist()
        for axes in figure.axes
        for line in axes.get_lines()
    }


def test_curves_show_the_numbers_of_the_metrics(tmp_path):
    metrics = [
        {"epoch": 0.5, "loss": 2.0, "accuracy": 0.5},
        {"epoch": 1.0, "loss": None, "accuracy": 0.75, "test_loss": 1.0},
        {"epoch": 1.0, "test_accuracy": 0.6, "interrupted": False},
    ]
    figure = draw_curves(metrics, title="a run")
    assert _drawn(figure) == {
        ("loss", "train, mean of each call"): [[0.5, 2.0]],
        ("loss", "test"): [[1.0, 1.0]],
        ("accuracy (%)", "train, mean of each call"): [[0.5, 50.0], [1.0, 75.0]],
        ("accuracy (%)", "test"): [[1.0, 60.0]],
    }
    write_picture(tmp_path / "curves.png", figure)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG" and image.width > image.height > 300


def test_curves_have_one_point_for_each_epoch_that_ended():
    metrics = [
        {"epoch": 0.5, "loss": 2.0, "error": 7.0},
        {"epoch": 1.0, "loss": 1.0, "error": 5.0, "epoch_loss": 1.5, "epoch_error": 6.0}
        | {"test_loss": 3.0, "test_error": 9.0},
        {"epoch": 1.5, "loss": 0.5, "error": 4.0},
        {"epoch": 1.5, "test_loss": 2.5, "test_error": 8.0, "interrupted": True},
    ]
    losses = {
        ("loss", "train, mean of each epoch"): [[1.0, 1.5]],
        ("loss", "test"): [[1.0, 3.0], [1.5, 2.5]],
    }
    errors = {
        ("error", "train, mean of each epoch"): [[1.0, 6.0]],
        ("error", "test"): [[1.0, 9.0], [1.5, 8.0]],
    }
    assert _drawn(draw_curves(metrics, watch="loss")) == losses
    assert _drawn(draw_curves(metrics, watch="error")) == losses | errors
    # What there is not is not drawn, and not in the legend either.
    only_tested = [{"epoch": 1.0, "test_$\\frac$": 2.0}]
    figure = draw_curves(only_tested, watch="$\\frac$")
    assert _drawn(figure) == {("$\\frac$", "test"): [[1.0, 2.0]]}
    figure.savefig(io.BytesIO(), format="png")
    legends = [axes.get_legend() for axes in figure.axes]
    assert legends[0] is None
    assert [text.get_text() for text in legends[1].get_texts()] == ["test"]


@pytest.mark.parametrize(("low", "high"), [(0.66, 1.1), (0.69, 0.79), (1e-4, 3)])
def test_a_scale_of_losses_has_several_numbers_to_read(low, high):
    lines = [{"epoch": 1, "loss": high}, {"epoch": 2, "loss": low}]
    axes = draw_curves(lines).axes[0]
    begin, end = axes.get_ylim()
    assert sum(begin <= tick <= end for tick in axes.get_yticks()) >= 3


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_filters_are_drawn_one_by_one(channels, rng):
    kernel = rng.normal(size=(5, 4, channels, 11)).astype(np.float32)
    figure = draw_filters(kernel)
    images = [np.asarray(a.images[0].get_array()) for a in figure.axes if a.images]
    assert len(images) == 11
    for index, image in enumerate(images):
        if channels == 3:
            low, high = kernel[..., index].min(), kernel[..., index].max()
            expected = (kernel[..., index] - low) / (high - low)
        else:
            expected = kernel[:, :, 0, index]
        np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_a_kernel_that_is_no_pictures_is_refused():
    with pytest.raises(ValueError, match="kernel"):
        draw_filters(np.zeros((3, 3, 2)))


def test_the_bar_moves_on_a_terminal_only():
    seen = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        with progress_bar(console, 10) as show:
            show(5, "epoch 1/2")
            console.print("a line that stays")
        seen[terminal] = console.file.getvalue()  # pyright: ignore
    assert "epoch 1/2" in seen[True] and "a line that stays" in seen[True]
    assert seen[False].splitlines() == ["a line that stays"]


def test_a_line_of_progress_fits_80_columns():
    metrics = {"epoch": 199.5, "loss": 10.12345, "accuracy": 1.0, "test_accuracy": 0.5}
    text = describe_metrics(metrics | {"images_per_second": 123456.7}, 200)
    assert (
        text.split()
        == (
            "epoch 200/200 loss 10.1235 accuracy 100.00% test 50.00% 123,457 images/s"
        ).split()
    )
    assert len(text) <= 80


# The loop


def test_an_epoch_is_divided_into_few_sizes_within_the_limit():
    for num_steps in range(1, 60):
        for limit in range(1, 70):
            sizes = split_epoch(num_steps, limit)
            assert sum(sizes) == num_steps
            assert max(sizes) <= limit
            assert len(set(sizes)) <= 2
            assert len(sizes) <= max(1, 2 * num_steps / min(limit, num_steps))


def test_a_call_takes_no_more_than_about_a_second(monkeypatch):
    of_lenet5, of_resnet20 = 53_314_560, 5_224_087_552  # at batches of 128
    assert suggest_steps_per_call(of_lenet5) == 45  # of 23 ms each
    assert suggest_steps_per_call(of_resnet20) == 4  # of 240 ms each
    assert suggest_steps_per_call(0) == 50
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert suggest_steps_per_call(of_resnet20) == 191


def test_an_epoch_has_the_whole_batches_of_the_data():
    assert count_steps(10, batch_size=3, epochs=4) == 12
    assert count_steps(10, batch_size=10, epochs=2**31 - 1) == 2**31 - 1
    for batch_size in (0, 11):
        with pytest.raises(
            OptionError, match=f"--batch-size must .*10.*got {batch_size}"
        ):
            count_steps(10, batch_size=batch_size, epochs=1)
    for epochs in (0, 2**30):
        with pytest.raises(
            OptionError, match=f"--epochs must .*1073741823, got {epochs}"
        ):
            count_steps(10, batch_size=5, epochs=epochs)


def _prepare(images, key):
    return images.astype(jnp.float32) / 255


def _recipe(*, num_train=70, num_test=33) -> Recipe:
    """Two kinds of noise, bright above or bright below, for a model with all parts."""
    rng = np.random.default_rng(0)

    def images(count):
        label = rng.integers(0, 2, count)
        image = rng.integers(0, 200, (count, 6, 6, 1))
        for one, kind in zip(image, label, strict=True):
            one[3 * kind : 3 * kind + 3] += 55
        return from_arrays(image.astype(np.uint8), label, num_classes=2)

    layer = serial(
        conv1=Conv(4, 3),
        norm1=BatchNorm(),
        relu1=jax.nn.relu,
        flatten=flatten,
        drop1=Dropout(0.1),
        head=Dense(2),
    )
    losses = classification(layer, _prepare)
    train, test = images(num_train), images(num_test)
    return Recipe(layer, optax.adam(1e-2), *losses, train=train, test=test)


def _fit(run_dir, *, seed=0, epochs=4, **options):
    run_dir.mkdir(exist_ok=True)
    text = io.StringIO()
    recipe = _recipe()
    result = fit(
        recipe,
        run_dir,
        seed=seed,
        epochs=epochs,
        batch_size=16,
        console=Console(file=text, width=80),
        **options,
    )
    return recipe, result, text.getvalue()


def test_fit_fills_the_folder_with_what_it_reached(tmp_path):
    recipe, result, text = _fit(tmp_path / "run")
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == {
        "metrics.jsonl",
        "certificate.jsonl",
        "checkpoints",
        "network.json",
        "network.jaxexport",
        "params.safetensors",
        "curves.png",
        "filters.png",
        "report.html",
        "report.safetensors",
    }
    *lines, last = read_metrics(tmp_path / "run")
    assert [line["epoch"] for line in lines if "epoch_loss" in line] == [1, 2, 3, 4]
    assert not any("test_accuracy" in line for line in lines)
    assert lines[-1]["step"] == last["step"] == 16 == int(result.state.step)
    assert last["epoch"] == 4 and last["interrupted"] is False
    assert result.stopped_by is None
    for line in lines:
        assert {"loss", "accuracy", "images_per_second"} < line.keys()
        assert ("epoch_loss" in line) == (line["epoch"] % 1 == 0)
    assert lines[-1]["epoch_loss"] < lines[0]["epoch_loss"]

    # What the file of weights says of the test images, without the loop.
    params, model_state = read_weights(tmp_path / "run" / "params.safetensors")
    images = jnp.asarray(_prepare(recipe.test.image, None))
    logits, _ = recipe.layer.apply(params, model_state, images)
    accuracy = np.mean(np.argmax(np.asarray(logits), -1) == recipe.test.label)
    assert last["test_accuracy"] == pytest.approx(accuracy)
    assert result.tested["accuracy"] == last["test_accuracy"]
    assert result.tested["loss"] == last["test_loss"]

    assert "\x1b" not in text
    assert sum(line.startswith("epoch ") for line in text.splitlines()) == 4
    assert f"test accuracy {accuracy:.2%}" in text.splitlines()[-1]
    assert str(tmp_path / "run") in text.splitlines()[-1]
    assert [line for line in text.splitlines() if line.startswith("total")]


def test_the_same_run_twice_gives_the_same_bytes_and_another_seed_others(tmp_path):
    runs = {"a": 0, "b": 0, "c": 1}
    files = {}
    for name, seed in runs.items():
        _fit(tmp_path / name, seed=seed, epochs=1, report=False)
        files[name] = (tmp_path / name / "params.safetensors").read_bytes()
    assert files["a"] == files["b"] != files["c"]


def test_the_division_into_calls_changes_nothing():
    recipe = _recipe()
    data = {"image": recipe.train.image, "label": recipe.train.label}
    data = jax.device_put(data)
    inputs = jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32)
    ends, losses = [], []
    calls = compile_steps(
        recipe.loss_fn,
        recipe.tx,
        batch_size=16,
        sizes=[1, 2, 4],
        state=create(recipe.layer, recipe.tx, jax.random.key(3), inputs),
        data=data,
    )
    for sizes in ([4], [2, 2], [1, 2, 1]):
        state = create(recipe.layer, recipe.tx, jax.random.key(3), inputs)
        seen = []
        for size in sizes:
            state, metrics = calls[size](state, data)
            assert metrics["loss"].shape == (size,)
            seen.extend(np.asarray(metrics["loss"]).tolist())
        ends.append(jax.device_get((state.params, state.model_state)))
        losses.append(seen)
    assert losses[0] == losses[1] == losses[2] and len(set(losses[0])) == 4
    for end in ends[1:]:
        jax.tree.map(np.testing.assert_array_equal, end, ends[0])


def test_steps_leave_the_loop_where_convolutions_are_laxs(monkeypatch):
    scanned = []

    def spy(*args, num_steps, **options):
        scanned.append(num_steps)
        return make_scan(*args, num_steps=num_steps, **options)

    monkeypatch.setattr("jcnn.runs.stepping.make_scan", spy)
    random = np.random.default_rng(0)
    data = {
        "image": jnp.asarray(random.standard_normal((20, 6, 6, 2)), "float32"),
        "label": jnp.asarray(random.integers(0, 3, 20)),
    }
    ends = {}
    for impl in ("auto", "lax"):
        layer = serial(conv=Conv(4, 3, impl=impl), flatten=flatten, head=Dense(3))
        loss_fn, _ = classification(layer, lambda images, key: images)
        tx = optax.sgd(0.1)
        state = create(layer, tx, jax.random.key(0), data["image"])
        calls = compile_steps(
            loss_fn, tx, batch_size=5, sizes=[3], state=state, data=data
        )
        ends[impl], _ = calls[3](state, data)
    assert scanned == [3]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        ends["auto"].params,
        ends["lax"].params,
    )


def test_fit_refuses_a_batch_larger_than_the_data(tmp_path):
    with pytest.raises(OptionError, match="--batch-size must be .*70, .*got 71"):
        fit(_recipe(), tmp_path, seed=0, epochs=1, batch_size=71)
    assert list(tmp_path.iterdir()) == []


# Ctrl-C


def test_the_first_interrupt_is_noted_and_the_second_one_ends():
    # A shell's background job is started with SIGINT ignored.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, usual)


def _interrupt_twice():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with catch_interrupt() as interrupted:
            assert interrupted() is None
            signal.raise_signal(signal.SIGINT)
            assert interrupted() == signal.SIGINT
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


SCRIPT = '''
"""An experiment outside of the package, without end."""

import sys
from dataclasses import dataclass

import numpy as np
import optax

from jcnn import flatten, serial
from jcnn.data import from_arrays
from jcnn.runs import Count, Recipe, RunConfig, main
from jcnn.layers import Conv, Dense
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 1_000_000
    batch_size: Count = 8


def recipe(config):
    layer = serial(conv=Conv(2, 3), flatten=flatten, head=Dense(2))
    losses = classification(layer, lambda images, key: images.astype("float32") / 255)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 4, 4, 1)).astype("uint8")
    data = from_arrays(pixels, rng.integers(0, 2, 40), 2)
    return Recipe(layer, optax.sgd(0.1), *losses, train=data, test=data)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
'''


def test_an_interrupt_ends_a_run_with_what_it_has_reached(tmp_path):
    (tmp_path / "endless.py").write_text(SCRIPT)
    program = subprocess.Popen(
        [sys.executable, "endless.py", "--run-dir", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() and program.poll() is None:
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    text, _ = program.communicate()
    assert program.returncode == 130, text
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("interrupted after ")

    *_, line, last = read_metrics(tmp_path / "run")
    assert last["interrupted"] is True and last["step"] == line["step"] > 0
    assert 0 <= last["test_accuracy"] <= 1
    params, _ = read_weights(tmp_path / "run" / "params.safetensors")
    assert params["conv"]["kernel"].shape == (3, 3, 1, 2)
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"config.json", "environment.json", "curves.png", "filters.png"} < names
    experiment = json.loads((tmp_path / "run" / "config.json").read_text())
    assert experiment["experiment"] == "endless.py"
