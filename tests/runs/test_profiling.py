"""--profile: it tells where the time goes, and changes and ends nothing."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

from jcnn import flatten, serial
from jcnn.data import from_arrays
from jcnn.inspect import profiling
from jcnn.layers import BatchNorm, Conv, Dense, Dropout
from jcnn.runs import Recipe, fit
from jcnn.runs.profiling import profile_steps
from jcnn.train import classification
from tests.helpers.tiny_experiment import InThisProcess, write_experiment


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(profiling, "_SECONDS", 0.02)
    monkeypatch.setattr(profiling, "product_gflops", lambda dtype: 100.0)


def _prepare(images, key):
    if key is not None:
        images = images + jax.random.bernoulli(key, shape=images.shape)
    return images.astype("float32") / 255


def _fit(run_dir, impl="auto", **options):
    """Six steps of a small network: its weights, its certificate, and what was told."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 8, 8, 1)).astype(np.uint8)
    data = from_arrays(images, rng.integers(0, 3, 48), num_classes=3)
    layer = serial(
        conv1=Conv(4, 3, impl=impl),
        norm1=BatchNorm(),
        relu1=jax.nn.relu,
        conv2=Conv(4, 3, impl=impl),
        flatten=flatten,
        drop1=Dropout(0.1),
        head=Dense(3),
    )
    recipe = Recipe(
        layer, optax.adam(0.01), *classification(layer, _prepare), data, data
    )
    run_dir.mkdir(exist_ok=True)
    text = io.StringIO()
    how = dict(seed=0, epochs=2, batch_size=16, steps_per_call=2, certify_every=1)
    console = Console(file=text, width=80)
    fit(recipe, run_dir, **how, report=False, console=console, **options)
    weights = (run_dir / "params.safetensors").read_bytes()
    return weights, (run_dir / "certificate.jsonl").read_text(), text.getvalue()


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual")
    return {impl: _fit(folder / impl, impl) for impl in ("auto", "lax")}


@pytest.mark.parametrize("impl", ["auto", "lax"])  # by lax, each step is a call
def test_a_profiled_run_tells_all_layers_and_has_the_same_bits(tmp_path, usual, impl):
    *same, text = _fit(tmp_path, impl, profile=True)
    assert same == [*usual[impl][:2]]
    table = (tmp_path / "profile" / "times.txt").read_text()
    assert table in text
    times = {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:]}
    for name in ("conv1", "conv2", "batch", "optimizer", "idle"):
        assert float(times[name][0]) >= 0, table
    assert times["total"][3] == "100.0%" and "head" in times
    assert [*tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz")]


def test_where_no_steps_are_left_it_says_so(tmp_path, usual):
    _fit(tmp_path)
    *same, text = _fit(tmp_path, profile=True)
    assert same == [*usual["auto"][:2]]
    assert "--profile: no steps are left to record" in text
    assert not (tmp_path / "profile").exists()


def _full_disk(*args, **how):
    raise OSError(28, "No space left on device")


def _no_trace(recorded, *args, **how):
    raise ValueError("the profiler has recorded no operation of the program")
    yield


@pytest.mark.parametrize(
    "what, fails, reason",
    [
        ("record", _full_disk, "[Errno 28] No space left on device"),
        ("report", _no_trace, "the profiler has recorded no operation"),
    ],
)
def test_what_fails_in_it_is_told_and_nothing_is_lost(
    tmp_path, usual, monkeypatch, what, fails, reason
):
    monkeypatch.setattr(f"jcnn.runs.profiling.{what}", fails)
    *same, text = _fit(tmp_path, profile=True)
    assert same == [*usual["auto"][:2]]
    assert f"--profile: not measured: {reason}" in text


def test_a_profiler_that_runs_already_is_left_alone(tmp_path, usual):
    with jax.profiler.trace(tmp_path / "other"):
        *same, text = _fit(tmp_path / "run", profile=True)
    assert same == [*usual["auto"][:2]]
    assert "--profile: not measured: Profile has already been started" in text
    assert [*(tmp_path / "other").glob("plugins/profile/*/*.xplane.pb")]


def test_the_option_is_of_the_command_not_of_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    command = ["python", "-m", "tiny", "--run-dir", "a", "--max-steps", "2"]
    assert InThisProcess([*command, "--profile"]).wait() == 0
    assert "GFLOP/s" in capfd.readouterr().out
    assert Path("a/profile/times.txt").exists()
    assert json.loads(Path("a/config.json").read_text())["config"]["profile"] is False
    longer = ["python", "-m", "tiny", "--run-dir", "a", "--as-recorded"]
    assert InThisProcess([*longer, "--max-steps", "4"]).wait() == 0
    assert "GFLOP/s" not in capfd.readouterr().out
    assert InThisProcess([*longer, "--profile"]).wait() == 0
    assert "--profile: no steps are left to record" in capfd.readouterr().out


def test_it_measures_the_largest_of_the_calls_and_donates_a_copy(tmp_path):
    """The state of the run can still be used."""

    class Run:
        console = Console(file=io.StringIO(), width=80)
        state = {"a": jax.numpy.ones(3)}
        train = None
        run_dir = tmp_path

    called = []

    def steps(size):
        @jax.jit
        def add(state):
            return jax.tree.map(lambda a: a + 1, state)

        def call(state, train):
            called.append(size)
            new = add(state)
            state["a"].delete()
            return new, {}

        return call

    profile_steps(Run(), {1: steps(1), 3: steps(3)})  # pyright: ignore
    assert set(called) == {3} and Run.state["a"].tolist() == [1, 1, 1]
