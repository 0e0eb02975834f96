"""Interrupted runs end with the bytes of uninterrupted ones, or say why they cannot."""

import dataclasses
import errno
import fcntl
import functools
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jcnn import flatten, serial
from jcnn.augment import random_crop
from jcnn.data import from_arrays
from jcnn.layers import BatchNorm, Conv, Dense, Dropout
from jcnn.runs import (
    Count,
    Rate,
    Recipe,
    RunConfig,
    count_steps,
    fit,
    main,
    read_config,
    read_metrics,
    read_weights,
)
from jcnn.runs.lock import Locked, lock
from jcnn.runs.stepping import compile_steps
from jcnn.runs.store.checkpoints import CheckpointError, Checkpoints
from jcnn.runs.store.digests import digest_tree
from jcnn.runs.store.journal import Journal, read_lines
from jcnn.train import classification, create
from tests.helpers.stress import few_of


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 4
    batch_size: Count = 16
    dropout: Rate = 0.2
    marks: tuple[int, ...] = (1, 2)


def _prepare(images, key):
    if key is not None:
        images = random_crop(key, images, padding=1)
    return images.astype(jnp.float32) / 255


def recipe(config: Config, *, shift=0) -> Recipe:
    """All that a state can hold: batch norm, dropout, augmentation, a schedule."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (85, 8, 8, 1)).astype(np.uint8)
    pixels[0] += np.uint8(shift)
    data = from_arrays(pixels, rng.integers(0, 3, 85), 3)
    layer = serial(
        conv1=Conv(4, 3, impl=config.impl),
        norm1=BatchNorm(),
        relu1=jax.nn.relu,
        flatten=flatten,
        drop1=Dropout(config.dropout),
        head=Dense(3),
    )
    steps = count_steps(85, batch_size=config.batch_size, epochs=config.epochs)
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, steps // 4, steps)
    losses = classification(layer, _prepare)
    return Recipe(layer, optax.adamw(rate), *losses, train=data, test=data)


class Eager(Checkpoints):
    """A checkpoint after each epoch, however short."""

    def due(self):
        self.wait()
        return True


@functools.cache
def _compiled(impl, sizes, ema_decay):
    """The calls of all runs of one kind, which would compile the same again."""
    made = recipe(Config(impl=impl))
    images, labels = jax.device_put((made.train.image, made.train.label))
    data = {"image": images, "label": labels}
    inputs, ema = images[:1].astype("float32"), ema_decay is not None
    state = create(made.layer, made.tx, jax.random.key(0), inputs, ema=ema)
    return compile_steps(
        made.loss_fn,
        made.tx,
        batch_size=16,
        sizes=sizes,
        state=state,
        data=data,
        ema_decay=ema_decay,
    )


# What compiles the calls of the runs below.
CALLS = SimpleNamespace(compile=compile_steps)


def _set_up(patch, impl="auto"):
    def compile_once(*args, sizes, ema_decay, **options):
        return _compiled(impl, frozenset(sizes | {1, 2}), ema_decay)

    patch.setattr(CALLS, "compile", compile_once)
    patch.setattr("jcnn.runs.store.record.Checkpoints", Eager)


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch):
    _set_up(monkeypatch)


def _run(run_dir, *options, make_recipe=recipe):
    arguments = ["--run-dir", str(run_dir), *map(str, options)]
    return main(Config, make_recipe, arguments, fit=_fit())


def _fit():
    """Training in calls of 2, 2 and 1 steps."""
    return partial(fit, steps_per_call=2, report=False, compile_steps=CALLS.compile)


def _result(run_dir):
    """What must be the same: bytes, and metrics but for measured times."""
    timeless = [
        {k: v for k, v in line.items() if k not in ("images_per_second", "seconds")}
        for line in read_metrics(run_dir)
    ]
    names = ("params.safetensors", "certificate.jsonl")
    return timeless, *((run_dir / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run; twelve calls."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        _set_up(patch)
        assert _run(run_dir) == 0
    return run_dir


class Killed(BaseException):
    """Ends a run as nothing in it expects."""


def _at_call(monkeypatch, number, action):
    """Do something before a call to the device, counted from 1."""
    made = []
    compile_calls = CALLS.compile

    def compile_and_count(*args, **options):
        def counted(call):
            def steps(state, data):
                made.append(call)
                if len(made) == number:
                    action()
                return call(state, data)

            return steps

        calls = compile_calls(*args, **options)
        return {size: counted(call) for size, call in calls.items()}

    monkeypatch.setattr(CALLS, "compile", compile_and_count)


def _kill():
    raise Killed


def _killed(run_dir, monkeypatch, number, *options):
    with monkeypatch.context() as patch:
        _at_call(patch, number, _kill)
        with pytest.raises(Killed):
            _run(run_dir, *options)


# The same bytes


@pytest.mark.parametrize(
    ("number", "stop"), [(2, signal.SIGTERM), (6, signal.SIGINT), (10, signal.SIGTERM)]
)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    number, stop, whole, tmp_path, monkeypatch, capsys
):
    """In the middle of an epoch, at its end, and in the last one."""
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        _at_call(patch, number, partial(signal.raise_signal, stop))
        assert _run(run_dir) == 128 + stop
    last = read_metrics(run_dir)[-1]
    done = 5 * (number // 3) + 2 * (number % 3)
    assert last["step"] == done and last["interrupted"] is True
    assert read_lines(run_dir / "certificate.jsonl")[-1]["step"] == done
    assert (run_dir / "params.safetensors").exists()
    capsys.readouterr()
    assert _run(run_dir) == 0
    captured = capsys.readouterr()
    assert f"going on after {done} of 20 steps" in captured.out
    assert captured.err == ""
    assert _result(run_dir) == _result(whole)


@pytest.mark.parametrize("number", [1, 3, 4, 12])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    number, whole, tmp_path, monkeypatch
):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, number)
    assert _run(run_dir) == 0
    assert _result(run_dir) == _result(whole)


def test_a_run_may_be_stopped_at_each_call(whole, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        _at_call(patch, 1, partial(signal.raise_signal, signal.SIGTERM))
        stops = 0
        while _run(run_dir) != 0:
            stops += 1
            _at_call(patch, 1, partial(signal.raise_signal, signal.SIGTERM))
    assert stops == 11
    assert _result(run_dir) == _result(whole)


def test_laxs_convolutions_go_on_to_the_same_bytes_too(tmp_path, monkeypatch):
    _set_up(monkeypatch, impl="lax")
    assert _run(tmp_path / "a", "--impl", "lax") == 0
    _killed(tmp_path / "b", monkeypatch, 8, "--impl", "lax")
    assert _run(tmp_path / "b", "--impl", "lax") == 0
    assert _result(tmp_path / "a") == _result(tmp_path / "b")


def test_averaged_weights_go_on_to_the_same_bytes_too(tmp_path, monkeypatch):
    result = _fit()(
        recipe(Config()),
        _made(tmp_path / "a"),
        seed=0,
        epochs=4,
        batch_size=16,
        ema_decay=0.8,
        console=Console(file=io.StringIO()),
    )
    options = ("--ema-decay", 0.8)
    _killed(tmp_path / "b", monkeypatch, 8, *options)
    assert _run(tmp_path / "b", *options) == 0
    assert _result(tmp_path / "a") == _result(tmp_path / "b")
    *_, line = read_lines(tmp_path / "a" / "certificate.jsonl")
    assert line["ema"] == digest_tree(result.state.ema)
    # What is written is the average, and so is what is tested.
    params, model_state = read_weights(tmp_path / "a" / "params.safetensors")
    assert digest_tree((params, model_state)) == line["ema"]
    assert digest_tree(params) != line["params"]
    made = recipe(Config())
    images = _prepare(jnp.asarray(made.test.image), None)
    logits, _ = made.layer.apply(params, model_state, images)
    accuracy = np.mean(np.argmax(logits, -1) == made.test.label)
    assert read_metrics(tmp_path / "a")[-1]["test_accuracy"] == pytest.approx(accuracy)


def _made(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize("steps", [4, 5, 8])
def test_a_run_ends_after_so_many_steps(steps, whole, tmp_path, monkeypatch, capsys):
    """In the middle of an epoch, at its end, and within a call."""
    options = ("--max-steps", steps)
    assert _run(tmp_path / "a", *options) == 0
    *_, last = read_metrics(tmp_path / "a")
    assert (last["step"], last["interrupted"]) == (steps, False)
    assert last["epoch"] == steps / 5 and "test_accuracy" in last
    data, *lines = read_lines(tmp_path / "a" / "certificate.jsonl")
    assert [line["step"] for line in lines] == sorted({*range(5, steps, 5), steps})
    # The schedule is that of the whole run.
    shared = steps // 5
    at_ends = read_lines(whole / "certificate.jsonl")
    assert [data, *lines[:shared]] == at_ends[: 1 + shared]
    capsys.readouterr()
    assert _run(tmp_path / "a", *options) == 0
    assert "this run is finished" in capsys.readouterr().out
    _killed(tmp_path / "b", monkeypatch, steps // 2, *options)
    assert _run(tmp_path / "b", *options) == 0
    assert _result(tmp_path / "a") == _result(tmp_path / "b")
    # And so it may become the whole run.
    assert _run(tmp_path / "a") == 0
    assert _result(tmp_path / "a")[1] == _result(whole)[1]


def test_more_steps_than_there_are_change_nothing(whole, tmp_path):
    assert _run(tmp_path / "run", "--max-steps", 21) == 0
    assert _result(tmp_path / "run") == _result(whole)


def test_an_epochs_line_has_the_mean_of_its_steps(tmp_path, monkeypatch):
    losses = []
    compile_calls = CALLS.compile

    def spy(*args, **options):
        def told(call):
            def steps(state, data):
                state, by_step = call(state, data)
                losses.extend(np.asarray(by_step["loss"], np.float64))
                return state, by_step

            return steps

        return {size: told(c) for size, c in compile_calls(*args, **options).items()}

    monkeypatch.setattr(CALLS, "compile", spy)
    _at_call(monkeypatch, 5, partial(signal.raise_signal, signal.SIGTERM))
    assert _run(tmp_path) == 143
    assert _run(tmp_path) == 0
    ends = [line for line in read_metrics(tmp_path) if line["step"] % 5 == 0][:-1]
    expected = np.reshape(losses, (4, 5)).mean(1)
    assert [line["epoch_loss"] for line in ends] == pytest.approx(expected, rel=1e-12)


def test_the_certificate_has_a_line_every_so_many_steps(whole, tmp_path, monkeypatch):
    options = ("--certify-every", 2)
    _killed(tmp_path / "run", monkeypatch, 5, *options)
    assert _run(tmp_path / "run", *options) == 0
    first, *lines = read_lines(tmp_path / "run" / "certificate.jsonl")
    assert [line["step"] % 5 for line in lines] == [2, 4, 0] * 4
    at_ends = read_lines(whole / "certificate.jsonl")
    assert [first, *lines[2::3]] == at_ends
    assert len({line["params"] for line in lines}) == 12


def test_the_certificate_is_of_what_fit_returns(whole, tmp_path):
    result = _fit()(
        recipe(Config()),
        tmp_path,
        seed=0,
        epochs=4,
        batch_size=16,
        console=Console(file=io.StringIO()),
    )
    *_, last = read_lines(whole / "certificate.jsonl")
    for field in ("params", "model_state", "opt_state"):
        assert last[field] == digest_tree(getattr(result.state, field))


# Damaged folders


def test_a_damaged_checkpoint_costs_an_epoch_only(whole, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 11)
    folder = run_dir / "checkpoints" / "0000000015"
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert _run(run_dir) == 0
    captured = capsys.readouterr()
    assert f"{folder} is damaged and renamed" in captured.err
    assert "going on after 10 of 20" in captured.out
    assert _result(run_dir) == _result(whole)


def test_a_flipped_bit_in_a_checkpoint_is_named(
    whole, tmp_path, monkeypatch, rng, capsys
):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 11)
    folder = run_dir / "checkpoints" / "0000000015"
    files = [path for path in (folder / "arrays" / "d").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    largest.write_bytes(content)
    assert _run(run_dir) == 0
    captured = capsys.readouterr()
    assert f"{folder} is damaged and renamed" in captured.err
    assert "going on after 10 of 20" in captured.out
    assert _result(run_dir) == _result(whole)


def _empty(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def _remove(folder):
    shutil.rmtree(folder)


def _remove_all_in(folder):
    _remove(folder)
    folder.mkdir()


@pytest.mark.parametrize("lose", few_of([_empty, _remove, _remove_all_in], 1))
def test_without_a_good_checkpoint_a_run_is_refused_and_can_begin_anew(
    lose, whole, tmp_path, monkeypatch, capsys
):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 11)
    good = shutil.copytree(run_dir, tmp_path / "good")
    lose(run_dir / "checkpoints")
    before = _content(run_dir)
    assert _run(run_dir) == 2
    error = capsys.readouterr().err
    assert "all checkpoints are damaged" in error or "there is no checkpoint" in error
    assert "give --begin-anew" in error
    assert _content(run_dir) == before
    # Put back, they are as good as ever.
    _remove(run_dir)
    shutil.copytree(good, run_dir)
    lose(run_dir / "checkpoints")
    shutil.copytree(good / "checkpoints", run_dir / "checkpoints", dirs_exist_ok=True)
    assert _run(run_dir) == 0
    assert _result(run_dir) == _result(whole)
    # Begun anew, all of the old is moved aside.
    assert _run(run_dir, "--seed", 5, "--begin-anew", "--max-steps", 2) == 0
    assert f"{run_dir} is now {run_dir}.before" in capsys.readouterr().err
    assert _result(tmp_path / "run.before") == _result(whole)
    assert read_config(run_dir, Config).seed == 5
    assert _run(run_dir, "--begin-anew") == 0
    assert (tmp_path / "run.before-2" / "config.json").exists()
    assert _result(run_dir) == _result(whole)


def test_options_that_are_wrong_begin_nothing_anew(whole, tmp_path, capsys):
    run_dir = shutil.copytree(whole, tmp_path / "run")
    before = _content(run_dir)
    assert _run(run_dir, "--begin-anew", "--epochs", 0) == 2
    assert _run(run_dir, "--begin-anew", "--batch-size", 10_000) == 2
    assert _content(run_dir) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def _with_crlf(content):
    return content.replace(b"\n", b"\r\n")


def _indented(content):
    return content.replace(b'"step"', b'  "step"', 1)


@pytest.mark.cover(1)
@pytest.mark.parametrize("name", ["metrics.jsonl", "certificate.jsonl"])
@pytest.mark.parametrize("edit", [_with_crlf, _indented, None])
def test_files_that_were_edited_or_removed_are_restored(
    name, edit, whole, tmp_path, monkeypatch, capsys
):
    if name == "certificate.jsonl" and edit is _indented:
        edit = lambda content: content.replace(b"params", b"weights")  # noqa: E731
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 11)
    path = run_dir / name
    content = path.read_bytes()
    path.unlink() if edit is None else path.write_bytes(edit(content))
    assert _run(run_dir) == 0
    assert "going on after 15 of 20" in capsys.readouterr().out
    assert _result(run_dir) == _result(whole)
    aside = run_dir / f"{name}.edited"
    assert aside.exists() == (edit is not None)
    assert edit is None or aside.read_bytes() == edit(content)


@pytest.mark.cover(1)
@pytest.mark.parametrize("name", ["metrics.jsonl", "certificate.jsonl"])
@pytest.mark.parametrize("left", [0, 1, 0.3, 0.99])
def test_a_file_that_was_cut_is_made_whole(name, left, whole, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 11)
    content = (run_dir / name).read_bytes()
    (run_dir / name).write_bytes(content[: round(left * len(content))])
    if left == 1:
        (run_dir / name).write_bytes(content + b'{"step": 99')
    assert _run(run_dir) == 0
    assert not list(run_dir.glob("*.edited"))
    assert _result(run_dir) == _result(whole)


def _wider(config):
    made = recipe(config)
    layer = serial(conv1=Conv(4, 3), flatten=flatten, head=Dense(3))
    loss_fn, metrics = classification(layer, _prepare)
    return made._replace(layer=layer, loss_fn=loss_fn, example_metrics=metrics)


def test_a_run_of_another_model_is_refused_and_untouched(
    whole, tmp_path, monkeypatch, capsys
):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 11)
    before = _content(run_dir)
    assert _run(run_dir, make_recipe=_wider) == 2
    error = capsys.readouterr().err
    assert "0000000015 is of another model:" in error and "--begin-anew" in error
    assert "params/norm1" in error or "model_state/norm1" in error
    assert _content(run_dir) == before
    assert _run(run_dir) == 0
    assert _result(run_dir) == _result(whole)


def test_a_run_that_cannot_be_read_now_goes_on_later(
    whole, tmp_path, monkeypatch, capsys
):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 11)
    before = _content(run_dir)

    def fail(*arguments, **options):
        raise OSError(errno.ESTALE, "Stale file handle", "content")

    with monkeypatch.context() as patch:
        patch.setattr("tensorstore.open", fail)
        assert _run(run_dir) == 2
    assert "cannot be read now: Stale file handle" in capsys.readouterr().err
    assert _content(run_dir) == before
    assert _run(run_dir) == 0
    assert _result(run_dir) == _result(whole)


def test_a_finished_run_says_so_and_nothing_changes(whole, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    before = _times(run_dir)
    assert _run(run_dir) == 0
    assert "finished" in capsys.readouterr().out
    assert _times(run_dir) == before


def _times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_comes_after_the_last_step_is_made_up_for(whole, tmp_path):
    """Killed between the last checkpoint and the last line."""
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    lines = (run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    (run_dir / "params.safetensors").unlink()
    assert _run(run_dir) == 0
    assert _result(run_dir) == _result(whole)


# What is refused


def _content(run_dir):
    return {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}


def test_changed_options_are_refused_one_by_one(whole, capsys):
    before = _content(whole)
    assert _run(whole, "--seed", 3, "--dropout", 0.5, "--marks", 1, 3) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[1:] == [
        "  --dropout: 0.2 -> 0.5",
        "  --marks: [1, 2] -> [1, 3]",
        "  --seed: 0 -> 3",
    ]
    assert str(error).startswith("error: --run-dir: ")
    assert _content(whole) == before


def test_another_experiment_is_refused(whole, capsys):
    record = json.loads((whole / "config.json").read_text())
    other = json.dumps(record | {"experiment": "experiments.mnist"})
    try:
        (whole / "config.json").write_text(other)
        assert _run(whole) == 2
    finally:
        (whole / "config.json").write_text(json.dumps(record))
    assert "experiment: experiments.mnist -> " in capsys.readouterr().err


def test_options_that_change_no_bytes_may_change(whole, tmp_path, monkeypatch):
    _killed(tmp_path / "run", monkeypatch, 8)
    assert _run(tmp_path / "run", "--keep-checkpoints", 1) == 0
    assert _result(tmp_path / "run") == _result(whole)


def test_other_data_are_refused_by_name(tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 5)
    before = _content(run_dir)
    assert _run(run_dir, make_recipe=partial(recipe, shift=1)) == 2
    error = capsys.readouterr().err
    assert "train/image: uint8[85, 8, 8, 1]" in error and "label" not in error
    assert _content(run_dir) == before


@pytest.mark.parametrize("content", ["old", "[]", '{"config": {}}', '{"config": 3}'])
def test_a_folder_of_something_else_is_refused(content, tmp_path, capsys):
    (tmp_path / "config.json").write_text(content)
    assert _run(tmp_path) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_start_that_was_killed_is_no_obstacle(whole, tmp_path):
    for name in (".lock", "environment.json", "source.json", ".config.json.123"):
        (tmp_path / name).write_text("half")
    assert _run(tmp_path) == 0
    assert _result(tmp_path) == _result(whole)


def test_the_second_process_on_a_folder_is_refused_at_once(tmp_path, capsys):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys; file = open(sys.argv[1], 'w')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "file.write(str(os.getpid())); file.flush(); print(); sys.stdin.read()",
            str(tmp_path / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        assert _run(tmp_path) == 2
        error = capsys.readouterr().err
        assert f"process {holder.pid} is working on {tmp_path}" in error
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        # The kernel lets go of it for a process that is killed.
        holder.kill()
        holder.communicate()
        with lock(tmp_path):
            assert int((tmp_path / ".lock").read_text()) == os.getpid()
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_ends_with_its_block(tmp_path):
    for _ in range(2):
        with lock(tmp_path):
            with pytest.raises(Locked), lock(tmp_path):
                pass
    with open(tmp_path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# What a run goes on with


def test_another_environment_is_told_and_written(tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 8)
    assert not (run_dir / "resumed.jsonl").exists()
    environment = json.loads((run_dir / "environment.json").read_text())
    environment["distributions"]["jax"] = "0.0.1"
    environment["device"]["count"] = 99
    (run_dir / "environment.json").write_text(json.dumps(environment))
    assert _run(run_dir) == 0
    count = jax.device_count()
    assert read_lines(run_dir / "resumed.jsonl") == [
        {
            "step": 10,
            "differences": {
                "device.count": [99, count],
                "distributions.jax": ["0.0.1", jax.__version__],
            },
        }
    ]
    assert f"device.count: 99 -> {count}" in capsys.readouterr().err


# Files that cannot be written


def test_a_full_disk_is_told_and_the_run_can_go_on(
    whole, tmp_path, monkeypatch, capsys
):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:

        def fail(*arguments, **options):
            raise OSError(28, "No space left on device", "somewhere")

        def fill():
            patch.setattr("orbax.checkpoint.AsyncCheckpointer.save", fail)

        _at_call(patch, 7, fill)
        assert _run(run_dir) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run_dir / 'checkpoints' / '0000000015'} could")
    assert "No space left" in error and error.count("\n") == 1
    assert _run(run_dir) == 0
    assert _result(run_dir) == _result(whole)


def test_a_file_that_cannot_grow_is_named(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    journal = Journal(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        journal.append({"step": 1})
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    assert _run_fails(tmp_path, "metrics.jsonl")


def _run_fails(run_dir, name):
    with pytest.raises(OSError, match=name):
        Journal(run_dir / name).append({"step": 1})
    return True


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    _killed(run_dir, monkeypatch, 5)

    def refuse(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("jcnn.runs.lock.os.open", refuse)
    assert _run(run_dir) == 2
    assert f"Permission denied: '{run_dir / '.lock'}'" in capsys.readouterr().err


def test_a_checkpoint_error_is_an_os_error():
    assert issubclass(CheckpointError, OSError)


# Journals


def test_a_journal_goes_back_to_what_it_was(tmp_path, capsys):
    journal = Journal(tmp_path / "a.jsonl")
    assert journal.content() == b""
    journal.append({"a": 1})
    content = journal.content()
    assert content == b'{"a": 1}\n'
    journal.append({"b": math.nan})
    assert read_lines(journal.path) == [{"a": 1}, {"b": None}]
    journal.restore(content)
    assert read_lines(journal.path) == [{"a": 1}]
    journal.path.unlink()
    journal.restore(content)
    assert journal.content() == content and capsys.readouterr().err == ""
    for number in ("", "-2"):
        journal.path.write_bytes(b'{"a": 2}\n')
        journal.restore(content)
        assert journal.content() == content
        aside = tmp_path / f"a.jsonl.edited{number}"
        assert aside.read_bytes() == b'{"a": 2}\n'
        assert f"was edited; it is now {aside.name}" in capsys.readouterr().err
    journal.restore(b"")
    assert journal.content() == b""


@pytest.mark.parametrize("line", ["3", "no JSON", "", '{"a": 1} {"b": 2}'])
def test_a_line_that_is_no_object_is_named(line, tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(ValueError, match="a.jsonl, line 2"):
        read_lines(tmp_path / "a.jsonl")


# A real program


def test_a_program_that_is_killed_goes_on(whole, tmp_path):
    """This file is the program, see below; when it is killed is left to chaos.py."""
    run_dir = tmp_path / "run"

    def start(**variables):
        return subprocess.Popen(
            [sys.executable, __file__, "--run-dir", run_dir],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": "."} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    program = start(SLEEPS="1")
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.exists() and len(read_lines(metrics)) == 8):
        assert program.poll() is None, program.communicate()[0]
        time.sleep(0.01)
    program.kill()
    program.communicate()
    program = start()
    assert "going on after " in program.communicate()[0]
    assert program.returncode == 0
    assert _result(run_dir) == _result(whole)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        _set_up(patch)
        if "SLEEPS" in os.environ:
            _at_call(patch, 9, partial(time.sleep, 600))
        sys.exit(main(Config, recipe, fit=_fit()))
