"""Trackers of metrics: event files for TensorBoard, and functions of one's own."""

import json
import struct
import sys
from functools import partial
from pathlib import Path

import numpy as np
import optax
import pytest

from jcnn import flatten, serial
from jcnn.data import from_arrays
from jcnn.layers import Conv, Dense
from jcnn.runs import Recipe, RunConfig, fit, main, read_metrics
from jcnn.train import classification

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
    options = ["--epochs", "3", "--batch-size", "4", *options]
    how.setdefault("report", False)
    arguments = [*options, "--run-dir", str(run_dir)]
    return main(RunConfig, _recipe, arguments, fit=partial(quick, **how))


def _events(run_dir):
    """The events in the order of the files, as TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event

    kept = []
    paths = Path(run_dir, "tensorboard").glob("events.out.tfevents.*")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            if event.HasField("session_log") and event.session_log.status == 1:
                kept = [one for one in kept if one.step < event.step]
            kept.append(event)
            at += length + 16
    return kept


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
        "images_per_second": "run/images_per_second",
        "seconds": "run/seconds",
    }
    return [
        (line["step"], names[key], pytest.approx(value, rel=1e-6))
        for line in read_metrics(Path(run_dir))
        for key, value in line.items()
        if key in names
    ]


def test_event_files_hold_the_metrics_pictures_and_options(tmp_path):
    assert _run(tmp_path / "a", "--tensorboard", report=True) == 0
    found = _scalars(tmp_path / "a")
    assert found == _expected(tmp_path / "a") and len(found) > 20
    values = [v for event in _events(tmp_path / "a") for v in event.summary.value]
    images = {v.tag: v.image for v in values if v.HasField("image")}
    assert images.keys() == {"curves", "filters"} and images["curves"].width > 300
    plugins = {v.metadata.plugin_data.plugin_name for v in values}
    hparams = [v for v in values if v.metadata.plugin_data.plugin_name == "hparams"]
    experiment = str(hparams[0].metadata.plugin_data.content)
    assert "loss/test" in experiment and "accuracy/test" in experiment
    assert "hparams" in plugins and len(hparams) == 3
    started = str(hparams[1].metadata.plugin_data.content)
    assert "batch_size" in started and "run_dir" not in started


def test_killed_and_resumed_no_line_is_there_twice(tmp_path):
    class Killed(BaseException):
        pass

    def kill(line):
        if line["step"] >= 9:  # after its line, before its checkpoint
            raise Killed

    run = tmp_path / "a"
    with pytest.raises(Killed):
        _run(run, "--tensorboard", on_metrics=kill)
    assert _run(run, "--tensorboard") == 0
    assert len(list((run / "tensorboard").iterdir())) == 2
    assert _scalars(run) == _expected(run)


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


def test_without_tensorboardX_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert _run(tmp_path / "a", "--tensorboard") == 2
    error = capsys.readouterr().err
    assert "--tensorboard: there is no tensorboardX" in error and "pip install" in error
    assert not (tmp_path / "a").exists()


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
