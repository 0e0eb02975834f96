"""Runs that are killed at random moments; `experiments/chaos.py` does a hundred."""

import json
import random
import shutil
import signal
import subprocess
import sys

import pytest

from experiments.chaos import Aim, Config, damage, differences, draw_aim, hit, main

LINES = [
    {"step": 1, "loss": 0.5, "images_per_second": 3.0},
    {"step": 1, "interrupted": False, "seconds": 2.0},
]


def test_killed_runs_end_with_the_same_bytes(tmp_path, monkeypatch, capsys):
    """The real thing, in small: about half a minute."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(Config(rounds=2, epochs=2, jobs=2)) == 0
    *rounds, summary = capsys.readouterr().out.splitlines()
    assert [line.endswith(": identical") for line in rounds] == [True, True]
    assert summary.startswith("2 of 2 identical; ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def whole(tmp_path):
    """What a comparison looks at, and a checkpoint."""
    folder = tmp_path / "whole"
    checkpoint = folder / "checkpoints" / "0000000022"
    (checkpoint / "arrays").mkdir(parents=True)
    (checkpoint / "arrays" / "d").write_bytes(bytes(range(50)))
    (checkpoint / "empty").write_bytes(b"")
    shutil.copytree(checkpoint, checkpoint.with_name("0000000011"))
    for name in ("certificate.jsonl", "params.safetensors"):
        (folder / name).write_bytes(name.encode())
    _write(folder, LINES)
    return folder


def _write(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def test_measured_times_may_differ(whole, copy):
    assert differences(whole, copy) == []
    _write(copy, [LINES[0] | {"images_per_second": 4.0}, LINES[1] | {"seconds": 5.0}])
    assert differences(whole, copy) == []


@pytest.mark.parametrize("name", ["certificate.jsonl", "params.safetensors"])
def test_a_byte_that_differs_is_seen(name, whole, copy):
    (copy / name).write_bytes((copy / name).read_bytes()[:-1] + b"?")
    assert differences(whole, copy) == [name]
    (copy / name).unlink()
    assert differences(whole, copy) == [name]


@pytest.mark.parametrize("lines", [LINES[:1], [LINES[0] | {"loss": 0.6}, LINES[1]]])
def test_a_metric_that_differs_is_seen(lines, whole, copy):
    _write(copy, lines)
    assert differences(whole, copy) == ["metrics.jsonl"]


def test_damage_is_to_the_metrics_or_the_newest_checkpoint(whole, tmp_path):
    damaged, rng = set(), random.Random(0)
    for number in range(60):
        copy = shutil.copytree(whole, tmp_path / str(number))
        assert damage(copy, rng)
        paths = [path for path in whole.rglob("*") if path.is_file()]
        names = [path.relative_to(whole) for path in paths]
        (name,) = (n for n in names if _bytes(whole, n) != _bytes(copy, n))
        before, after = _bytes(whole, name), _bytes(copy, name)
        damaged.add((name.as_posix(), len(after) < len(before)))
        if len(after) == len(before):
            bits = zip(before, after, strict=True)
            assert sum((old ^ new).bit_count() for old, new in bits) == 1
        else:
            assert before.startswith(after) and not after.endswith(b"\n")
    assert damaged == {
        ("metrics.jsonl", True),
        ("checkpoints/0000000022/arrays/d", True),
        ("checkpoints/0000000022/arrays/d", False),
    }


def _bytes(folder, name):
    return (folder / name).read_bytes()


def test_a_folder_without_files_cannot_be_damaged(tmp_path):
    rng = random.Random(0)
    assert {damage(tmp_path, rng) for _ in range(20)} == {None}


def test_aims_are_of_all_kinds_and_repeatable():
    aims, again = ([draw_aim(r, 2) for r in _randoms(200)] for _ in range(2))
    assert aims == again
    assert {(aim.event, aim.signal) for aim in aims} == {
        (event, number)
        for event in ("begin", "line", "write")
        for number in (signal.SIGKILL, signal.SIGTERM)
    }


def _randoms(number):
    return [random.Random(seed) for seed in range(number)]


@pytest.mark.parametrize(
    ("does", "event", "expected"),
    [
        ("lock(); wait()", "begin", "kill: begin 1 + 1 ms"),
        ("lock(); add(); wait()", "line", "kill: line 1 + 1 ms"),
        ("lock(); add(); save(); wait()", "write", "kill in a write: write 1 + 1 ms"),
        ("lock(); add(); save()", "line", "end before line 9 + 1 ms"),
        ("lock(); sys.exit(1)", "write", "failure: status 1"),
    ],
)
def test_what_happens_to_a_run_is_told(does, event, expected, tmp_path):
    program = f"""
import os, pathlib, sys, time
run_dir = pathlib.Path({str(tmp_path)!r})
def lock(): (run_dir / ".lock").write_text(str(os.getpid()))
def add(): (run_dir / "metrics.jsonl").write_text("{{}}")
def save(): (run_dir / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
def wait(): time.sleep(60)
time.sleep(0.3)
{does}
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    count = 9 if expected.startswith("end") else 1
    aim = Aim(event, count, 0.001, signal.SIGKILL)
    assert hit(process, tmp_path, aim) == expected
