"""Runs that are killed at random moments; `tests/stress/chaos` does a hundred."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jcnn.data import load
from tests.stress.chaos import mishaps
from tests.stress.chaos.comparison import changes, contents, differences
from tests.stress.chaos.data_set import FORMATS, write_data_set
from tests.stress.chaos.hits import Aim, draw_aim, hit
from tests.stress.chaos.job import Job
from tests.stress.chaos.mishaps import damage
from tests.stress.chaos.rounds import Config, main
from tests.stress.chaos.runs import PATIENCE, SOURCES, Run, write_place

LINES = [
    {"step": 1, "loss": 0.5, "images_per_second": 3.0},
    {"step": 1, "interrupted": False, "seconds": 2.0},
]


@pytest.mark.stress
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_runs_end_with_the_same_bytes(processes, tmp_path, monkeypatch, capsys):
    """The real thing, in small: about a minute."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = Config(rounds=2, epochs=2, jobs=2, processes=processes)
    assert main(config) == 0
    *rounds, summary = capsys.readouterr().out.splitlines()
    assert [line.endswith(": identical") for line in rounds] == [True, True]
    assert summary.startswith("2 of 2 identical (")
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


def _run(folder):
    return Run(folder.parent, folder.name, 2, folder.parent / "data")


def test_damage_is_to_the_metrics_or_the_newest_checkpoint(whole, tmp_path):
    damaged, rng = set(), random.Random(0)
    for number in range(60):
        copy = shutil.copytree(whole, tmp_path / str(number))
        assert damage(_run(copy), rng).startswith("damage: ")
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
    assert {damage(_run(tmp_path), rng) for _ in range(20)} == {None}


def test_aims_are_of_all_kinds_and_repeatable():
    aims, again = ([draw_aim(r, 2, 2) for r in _randoms(200)] for _ in range(2))
    assert aims == again
    assert {(aim.event, aim.signal, aim.process) for aim in aims} == {
        (event, number, process)
        for event in ("begin", "line", "write")
        for number in (signal.SIGKILL, signal.SIGTERM)
        for process in (0, 1)
    }


def _randoms(number):
    return [random.Random(seed) for seed in range(number)]


NEWEST = "checkpoints/0000000022"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda copy: (copy / ".lock").write_text("7"), set()),
        (lambda copy: (copy / "metrics.jsonl").write_bytes(b""), {"metrics.jsonl"}),
        (lambda copy: (copy / "resumed.jsonl").touch(), {"resumed.jsonl"}),
        (lambda copy: (copy / "new").mkdir(), {"new"}),
        (lambda copy: (copy / NEWEST / "empty").unlink(), {f"{NEWEST}/empty"}),
        (
            lambda copy: (copy / NEWEST).rename(copy / f"{NEWEST}.damaged"),
            {
                f"{NEWEST}{ending}{name}"
                for ending in ("", ".damaged")
                for name in ("", "/arrays", "/arrays/d", "/empty")
            },
        ),
    ],
)
def test_any_change_of_a_folder_is_seen(change, expected, copy):
    before = contents(copy)
    change(copy)
    assert set(changes(before, contents(copy))) == expected


@pytest.fixture
def run(copy):
    """A run that is not finished, of programs that are not there yet."""
    _write(copy, [LINES[0], LINES[1] | {"interrupted": True}])
    (copy / "config.json").touch()
    run = _run(copy)
    run.log.touch()
    return run


def _program(run, does):
    """What is started instead of an experiment."""
    text = f"""
import pathlib, sys
run_dir = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
def refuse(text):
    print(text, file=sys.stderr)
    sys.exit(2)
def try_to_read():
    try:
        for path in (run_dir / {NEWEST!r}).rglob("*"):
            path.is_dir() or path.read_bytes()
        list((run_dir / {NEWEST!r} / "arrays").iterdir())
    except PermissionError:
        refuse("it cannot be read now")
{does}
"""
    for source in SOURCES:
        folder = run.place / source / "experiments"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "lenet.py").write_text(text)


DIFFERENCE = "\n".join(SOURCES["other source"])
REFUSALS = {
    "make_unreadable": ("unreadable", "it cannot be read now"),
    "change_model": ("other model", "it is of another model"),
    "change_source": ("other source", DIFFERENCE),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize(
    ("does", "failure"),
    [
        ("refuse(words)", None),
        ("sys.exit(0)", "status 0, not 2"),
        ("print(words); sys.exit(1)", "status 1, not 2"),
        ("refuse(words[:9])", "refused for another reason"),
        (
            "(run_dir / 'resumed.jsonl').touch(); refuse(words)",
            "refused, but resumed.jsonl changed",
        ),
        (
            f"(run_dir / {NEWEST!r}).rename(run_dir / 'away'); refuse(words)",
            f"changed, {NEWEST}, ",
        ),
    ],
)
def test_a_start_that_is_not_refused_as_it_should_is_told(name, does, failure, run):
    event, words = REFUSALS[name]
    _program(run, f"words = {words!r}; {does}")
    told = getattr(mishaps, name)(run, random.Random(0))
    if failure is None:
        assert told.startswith(event)
    elif failure.startswith("changed"):
        assert told.startswith(f"failure: {event}") and f" {NEWEST}, " in told
    else:
        assert told.startswith(f"failure: {event}") and told.endswith(failure)


def test_an_unreadable_checkpoint_is_so_even_for_root_and_put_right_then(run):
    _program(run, "try_to_read()")
    modes = {path: path.stat().st_mode for path in run.folder.rglob("*")}
    rng = random.Random(0)
    told = {mishaps.make_unreadable(run, rng) for _ in range(12)}
    assert told == {
        f"unreadable: {NEWEST}",
        f"unreadable: {NEWEST}/arrays",
        f"unreadable: {NEWEST}/arrays/d and others",
    }
    assert {path: path.stat().st_mode for path in run.folder.rglob("*")} == modes


def test_an_unreadable_checkpoint_must_not_be_called_damaged(run):
    _program(run, "refuse('damaged: it cannot be read')")
    told = mishaps.make_unreadable(run, random.Random(0))
    assert told.startswith("failure: unreadable")
    assert told.endswith("refused for another reason")


def test_nothing_is_tried_where_a_start_is_right_to_go_on(run):
    """A finished run is left as it is; one without a checkpoint has no model yet."""
    rng = random.Random(0)
    shutil.rmtree(run.folder / "checkpoints")
    assert mishaps.make_unreadable(run, rng) is None
    assert mishaps.change_model(run, rng) is None
    (run.folder / "config.json").unlink()
    assert mishaps.change_source(run, rng) is None


@pytest.mark.parametrize("name", REFUSALS)
def test_a_finished_run_refuses_nothing(name, run):
    _write(run.folder, LINES)
    assert getattr(mishaps, name)(run, random.Random(0)) is None


def test_moved_data_are_where_the_next_start_looks(run):
    run.data_dir.mkdir()
    (run.data_dir / "set").touch()
    _program(
        run,
        """
data_dir = pathlib.Path(sys.argv[sys.argv.index("--data-dir") + 1])
sys.exit(not (data_dir / "set").exists())
""",
    )
    before = run.data_dir
    assert mishaps.move_data(run, random.Random(0)).startswith("moved data: ")
    assert run.start().wait(PATIENCE) == 0
    assert not before.exists()


def test_the_formats_hold_the_same_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for form in FORMATS:
        write_data_set(tmp_path / form, form)
    for split in ("train", "test"):
        one, other = (load("mnist", split, data_dir=tmp_path / f) for f in FORMATS)
        assert one.num_classes == 10 and set(one.label.tolist()) == set(range(10))
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


def test_other_sources_differ_in_a_line(tmp_path, monkeypatch):
    write_place(tmp_path)
    files = [p.relative_to(tmp_path / "source") for p in _files(tmp_path / "source")]
    assert Path("jcnn/runs/command.py") in files
    for name, change in SOURCES.items():
        differing = [
            file
            for file in files
            if _bytes(tmp_path / name, file) != _bytes(tmp_path / "source", file)
        ]
        assert [file.as_posix() for file in differing] == (
            [change[0]] if change else []
        )
    monkeypatch.setitem(
        SOURCES, "other model", ("jcnn/models/plain.py", "Konv", "Conv")
    )
    with pytest.raises(ValueError, match="jcnn/models/plain.py has not one 'Konv'"):
        write_place(tmp_path / "again")


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
    assert hit(Job(process), tmp_path, aim) == expected
