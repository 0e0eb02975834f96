"""Trackers of metrics: event files for TensorBoard, and functions of one's own."""

import json
import re
import signal
import struct
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optax
import pytest
from PIL import Image

from jcnn import flatten, serial
from jcnn.data import from_arrays, tfrecord
from jcnn.layers import Conv, Dense
from jcnn.runs import Recipe, RunConfig, fit, main, read_metrics
from jcnn.runs.verify.reproduce import reproduce
from jcnn.train import classification
from tests.helpers.tiny_experiment import InThisProcess, write_experiment

pytest.importorskip("tensorboardX")
quick = partial(fit, steps_per_call=2)


def _recipe(config):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 6, 6, 1)).astype(np.uint8)
    data = from_arrays(images, np.arange(20) % 3, 3)
    layer = serial(conv=Conv(2, 3), flatten=flatten, head=Dense(3))
    losses = classification(layer, lambda images, key: images.astype("float32") / 255)
    return Recipe(layer, optax.adam(0.01), *losses, train=data, test=data)


def _run(run_dir, *options, **how):
    options = ["--epochs", "3", "--batch-size", "4", "--no-report", *options]
    arguments = [*options, "--run-dir", str(run_dir)]
    return main(RunConfig, _recipe, arguments, fit=partial(quick, **how))


def _files(run_dir):
    files = Path(run_dir, "tensorboard").iterdir()
    return [path for path in files if path.stat().st_size]


def _events(run_dir):
    """The events of the only file, in their order; their checksums are right."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = _files(run_dir)
    assert "tfevents" in path.name  # TensorBoard reads no others
    content, at, records = path.read_bytes(), 0, []
    while at < len(content):  # length, its checksum, the event, its checksum
        (length,) = struct.unpack_from("<Q", content, at)
        records.append(content[at + 12 : at + 12 + length])
        at += length + 16
    assert [*tfrecord.read(path, len(records))] == records
    return [Event.FromString(record) for record in records]


def _scalars(run_dir):
    return [
        (event.step, value.tag, value.simple_value)
        for event in _events(run_dir)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def _expected(run_dir):
    names = {
        "loss": "loss/train",
        "accuracy": "accuracy/train",
        "epoch_loss": "loss/train_epoch",
        "epoch_accuracy": "accuracy/train_epoch",
        "test_loss": "loss/test",
        "test_accuracy": "accuracy/test",
        "epoch": "run/epoch",
        "images_per_second": "run/images_per_second",
        "seconds": "run/seconds",
    }
    return [
        (line["step"], names[key], pytest.approx(value, rel=1e-6))
        for line in read_metrics(Path(run_dir))
        for key, value in line.items()
        if key in names
    ]


def test_event_files_hold_the_metrics_and_pictures(tmp_path, rng):
    run = tmp_path / "a"

    def draw(line):  # as a recipe's `draw` does
        for name, shape in (("grey", (5, 9)), ("colour", (4, 3, 3))):
            pixels = rng.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(pixels).save(run / f"{name}.png")

    assert _run(run, "--tensorboard", on_metrics=draw) == 0
    found, events = _scalars(run), _events(run)
    assert found == _expected(run) and len(found) > 20
    assert events[0].file_version == "brain.Event:2"
    images = {v.tag: v.image for e in events for v in e.summary.value if v.image.width}
    assert {name: image.colorspace for name, image in images.items()} == {
        "grey": 1,
        "colour": 3,
    }
    for name, image in images.items():
        content = (run / f"{name}.png").read_bytes()
        assert image.encoded_image_string == content
        assert struct.pack(">2I", image.width, image.height) == content[16:24]


def test_options_are_hyperparameters(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    assert _run(tmp_path / "a", "--tensorboard", "--ema-decay", "0.5") == 0
    found = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in _events(tmp_path / "a")
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    # An Experiment would hide the options of runs of other experiments beside it.
    assert [data.WhichOneof("data") for data in found] == [
        "session_start_info",
        "session_end_info",
    ]
    options = found[0].session_start_info.hparams
    assert options["batch_size"].number_value == 4
    assert options["ema_decay"].number_value == 0.5
    assert options["dtype"].string_value == "float32"
    assert not {"run_dir", "tensorboard", "keep_memory"} & options.keys()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("cut", [0, 30])
def test_killed_and_resumed_no_line_is_there_twice(cut, tmp_path):
    def kill(line):
        if line["step"] >= 9:  # after its line, before its checkpoint
            raise Killed

    run = tmp_path / "a"
    with pytest.raises(Killed):
        _run(run, "--tensorboard", on_metrics=kill)
    before = [(event.step, event.wall_time) for event in _events(run)]
    (path,) = _files(run)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    assert _run(run, "--tensorboard") == 0
    assert _scalars(run) == _expected(run)
    after = [(event.step, event.wall_time) for event in _events(run)]
    times = [time for _, time in after]
    assert times == sorted(times)
    kept = [step for step, _ in {*before} & {*after}]
    assert sorted(kept) == [0, 2, 4, 5] and before[-1][0] == 7
    assert after[0] == before[0]


def test_stopped_and_resumed_the_metrics_of_its_stop_are_gone(tmp_path):
    def stop(line):
        if line["step"] == 7 and "interrupted" not in line:
            signal.raise_signal(signal.SIGTERM)

    run = tmp_path / "a"
    assert _run(run, "--tensorboard", on_metrics=stop) == 143
    assert [step for step, tag, _ in _scalars(run) if tag == "loss/test"] == [7]
    assert _run(run) == 0  # without
    assert _run(run, "--tensorboard", "--epochs", "4") == 0  # made longer
    assert _scalars(run) == _expected(run)
    assert [step for step, tag, _ in _scalars(run) if tag == "loss/test"] == [20]


def test_numbers_that_json_lacks_are_not_finite(tmp_path):
    from jcnn.runs.tensorboard import event_writer

    line = '{"step": 1, "loss": null}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    write = event_writer(tmp_path)
    write(json.loads(line))
    write({"step": 2, "loss": float("inf")})
    found = _scalars(tmp_path)
    assert str(found) == "[(1, 'loss/train', nan), (2, 'loss/train', inf)]"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk")
def test_a_full_disk_ends_no_run(tmp_path, capsys):
    def fill(line):
        if line["step"] == 4:
            (path,) = _files(run)
            path.unlink()
            path.symlink_to("/dev/full")

    run = tmp_path / "a"
    assert _run(run, "--tensorboard", on_metrics=fill) == 0
    assert "the metrics are tracked no more: OSError(28," in capsys.readouterr().err
    assert read_metrics(run)[-1]["interrupted"] is False


def test_it_changes_no_bit_and_is_no_part_of_the_run(tmp_path):
    assert _run(tmp_path / "a") == 0
    assert _run(tmp_path / "b", "--tensorboard", "--max-steps", "7") == 0
    assert _run(tmp_path / "c", "--tensorboard") == 0
    for name in ("params.safetensors", "certificate.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "c" / name
        ).read_bytes()
    assert _run(tmp_path / "a", "--tensorboard") == 0  # finished: nothing to do
    assert not (tmp_path / "a" / "tensorboard").exists()


def _hide_tensorboard(patch):
    for name in [*sys.modules]:
        if name.startswith(("tensorboardX.", "jcnn.runs.tensorboard")):
            patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, "tensorboardX", None)


@pytest.mark.parametrize("sweep", [[], ["sweep", "--seeds=2"]])
def test_without_tensorboardX_nothing_is_written(sweep, tmp_path, monkeypatch, capsys):
    _hide_tensorboard(monkeypatch)
    run = tmp_path / "a"
    options = [*sweep, "--epochs=1", "--tensorboard", f"--run-dir={run}"]
    assert main(RunConfig, _recipe, options) == 2
    error = capsys.readouterr().err
    assert "--tensorboard: there is no tensorboardX" in error and "pip install" in error
    assert not run.exists()


def test_reproducing_a_run_does_not_need_it(tmp_path, monkeypatch, capsys):
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["--max-steps=3", "--tensorboard", "--run-dir=a"]
    assert InThisProcess(["", "", "tiny", *options]).wait() == 0
    assert _files("a")
    _hide_tensorboard(monkeypatch)
    monkeypatch.setattr("jcnn.runs.verify.restart.Popen", InThisProcess)
    assert reproduce(Path("a")) == 0, capsys.readouterr().err


def test_members_of_a_sweep_have_files_each(tmp_path):
    options = ["sweep", "--seeds=2", "--together=always", "--epochs=2"]
    options += [
        "--batch-size=5",
        "--no-report",
        "--tensorboard",
        f"--run-dir={tmp_path / 'a'}",
    ]
    assert main(RunConfig, _recipe, options) == 0
    for seed in (0, 1):
        member = tmp_path / "a" / f"seed={seed}"
        found = _scalars(member)
        assert found == _expected(member) and ("loss/test" in str(found))
    assert main(RunConfig, _recipe, [o for o in options if "tensor" not in o]) == 0


def test_a_tracker_gets_every_line_and_its_failure_harms_nothing(tmp_path, capsys):
    lines, calls = [], []

    def fail(line):
        calls.append(line["step"])
        line.clear()  # a copy
        raise OSError("no\nserver")

    assert _run(tmp_path / "a", on_metrics=lines.append) == 0
    assert lines == read_metrics(tmp_path / "a") and lines[-1]["interrupted"] is False
    capsys.readouterr()
    assert _run(tmp_path / "b", on_metrics=fail) == 0
    assert calls == [2]
    error = capsys.readouterr().err
    assert error.count("tracked no more: OSError('no\\nserver')") == 1
    for name in ("params.safetensors", "certificate.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()
    journal = (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()
    assert len(journal) == len(lines) and "loss" in json.loads(journal[0])


class _Tracker:
    """In the place of a run of W&B or MLflow: notes what it is told."""

    def __init__(self, *, fails=False):
        self.calls, self._fails = [], fails
        self.info = SimpleNamespace(run_id="8f3")

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append((name, args, options))
            if self._fails and name.startswith("log"):
                raise ConnectionError("no server")
            return self

        return call

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.calls.append(("exit", kind))

    def __call__(self, name):
        return [call[1:] for call in self.calls if call[0] == name]


def _example(tracker, name, run, patch):
    """The exit status of an example of docs/training.md, with a made-up module."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (code,) = re.findall(f"```py\n([^`]*import {name}\n.*?)```", text, re.DOTALL)
    patch.setitem(sys.modules, name, tracker)
    patch.setattr(
        sys,
        "argv",
        ["", "--epochs=2", "--batch-size=5", "--no-report", f"--run-dir={run}"],
    )
    with pytest.raises(SystemExit) as end:
        exec(code, {"Config": RunConfig, "recipe": _recipe, "__name__": "example"})
    return end.value.code


def test_the_example_of_wandb(tmp_path, monkeypatch):
    run, tracker = tmp_path / "a", _Tracker()
    assert _example(tracker, "wandb", run, monkeypatch) == 0
    (((), options),) = tracker("init")
    assert options.pop("config")["epochs"] == 2
    assert options == {"project": "digits", "id": "a", "resume": "allow"}
    lines = read_metrics(run)
    assert tracker("log") == [((line,), {"step": line["step"]}) for line in lines]
    assert "test_loss" in lines[-1] and tracker.calls[-1] == ("exit", None)


def test_the_example_of_mlflow(tmp_path, monkeypatch):
    run, tracker = tmp_path / "a", _Tracker()
    assert _example(tracker, "mlflow", run, monkeypatch) == 0
    assert tracker("start_run") == [((), {"run_id": None, "run_name": "a"})]
    (((params,), _),) = tracker("log_params")
    assert params["epochs"] == 2
    lines = read_metrics(run)
    assert lines[-1].pop("interrupted") is False
    logged = [((line,), {"step": line["step"]}) for line in lines]
    assert tracker("log_metrics") == logged and "test_loss" in lines[-1]
    assert tracker("log_artifact") == [((str(run / "params.safetensors"),), {})]
    assert tracker("end_run") == [] and tracker.calls[-1] == ("exit", None)
    (run / "params.safetensors").unlink()  # as if killed before
    assert _example(tracker, "mlflow", run, monkeypatch) == 0
    assert tracker("start_run")[1] == ((), {"run_id": "8f3", "run_name": "a"})


def test_the_example_of_wandb_without_its_server(tmp_path, monkeypatch, capsys):
    run, tracker = tmp_path / "a", _Tracker(fails=True)
    assert _example(tracker, "wandb", run, monkeypatch) == 0
    assert len(tracker("log")) == 1 and read_metrics(run)[-1]["test_loss"]
    assert "ConnectionError('no server')" in capsys.readouterr().err
