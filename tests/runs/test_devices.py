"""Runs on several devices: the losses of one, and honest records."""

import json
import re

import jax
import numpy as np
import pytest

from jcnn.runs import (
    OptionError,
    loop,
    main,
    read_metrics,
    read_weights,
    start,
    training,
)
from jcnn.runs.devices import choose_devices
from jcnn.runs.store.journal import read_lines
from tests.runs.test_resume import Config, recipe

STEPS = ("--max-steps", "7", "--certify-every", "1")


def run(folder, *options):
    return main(Config, recipe, [*STEPS, "--run-dir", str(folder), *options])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    assert run(folder, "--no-report") == 0
    return folder


def _losses(folder):
    return [line["loss"] for line in read_metrics(folder)[:-1]]


def _close(a, b):
    # Sums of 16 images in another order, in a few steps of Adam.
    np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [["2"], ["all", "--shard-parameters", "20", "--profile"]]
)
def test_a_run_on_two_devices_has_the_losses_of_one(options, one, tmp_path, capsys):
    assert run(tmp_path / "two", "--devices", *options) == 0
    assert len(_losses(one)) == 7
    _close(_losses(tmp_path / "two"), _losses(one))
    assert (tmp_path / "two" / "report.html").exists()
    config = json.loads((tmp_path / "two" / "config.json").read_text())["config"]
    assert config["devices"] == 2
    assert "not measured" not in capsys.readouterr().out
    params, _ = read_weights(tmp_path / "two" / "params.safetensors")
    of_one, _ = read_weights(one / "params.safetensors")
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, of_one)


def test_two_devices_give_the_same_bits_each_time(tmp_path):
    for name in "ab":
        assert run(tmp_path / name, "--devices", "2", "--no-report") == 0
    a, b = ((tmp_path / name / "certificate.jsonl").read_bytes() for name in "ab")
    assert a == b


@pytest.mark.parametrize("before, after", [("2", "1"), ("1", "2")])
def test_a_run_goes_on_with_other_devices_and_says_so(
    before, after, one, tmp_path, capsys
):
    folder = tmp_path / "run"
    assert run(folder, "--devices", before, "--no-report", "--max-steps", "4") == 0
    capsys.readouterr()
    assert run(folder, "--devices", after, "--no-report") == 0
    assert "device.divided" in capsys.readouterr().err
    (line,) = read_lines(folder / "resumed.jsonl")
    assert line["step"] == 4 and "device.divided" in line["differences"]
    _close(_losses(folder), _losses(one))


@pytest.mark.parametrize(
    "options, text",
    [
        (["--devices", "3"], "--devices must be at most 2, .* got 3"),
        (["--batch-size", "15"], "--batch-size must be divisible among 2 .* got 15"),
        (["--accumulate", "16"], r"among 2 devices, in 16 parts .* got 16"),
    ],
)
def test_bad_divisions_are_errors_before_anything_is_written(
    options, text, tmp_path, capsys
):
    assert run(tmp_path / "run", "--devices", "2", *options) == 2
    assert not (tmp_path / "run").exists()
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(OptionError, match=text):
        raise OptionError(line)


def test_one_device_has_no_mesh():
    assert choose_devices(1, batch_size=7).mesh is None
    assert choose_devices("all", batch_size=8).count == jax.device_count() == 2


@pytest.mark.parametrize(
    "other, text",
    [
        (lambda data, there: (data | {"train": "0" * 64}, there), "have the same data"),
        (lambda data, there: (data, False), "must see the run's folder, .*run"),
    ],
)
def test_what_another_process_lacks_is_an_error(
    other, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "are_several", lambda: True)
    monkeypatch.setattr(loop, "gather", lambda mine: [mine, other(*mine)])
    how = ("--devices", "2", "--shard-parameters", "20")
    assert run(tmp_path / "run", *how) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(text, line)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "where, other, text",
    [
        (
            start,
            lambda mine: mine | {"jaxlib": "0.1"} if "jaxlib" in mine else mine,
            "have the same source and libraries, but other ones have another jaxlib",
        ),
        (
            training,
            lambda mine: "0" * 64 if isinstance(mine, str) else mine,
            "the processes of a run have other states after step 1: ",
        ),
    ],
)
def test_code_or_states_that_differ_are_an_error(
    where, other, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(start, "are_several", lambda: True)
    monkeypatch.setattr(where, "gather", lambda mine: [mine, other(mine)])
    assert run(tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
