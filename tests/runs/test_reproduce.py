"""`jcnn reproduce`: the same bits are seen to be the same, and any others are named."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jcnn.__main__ import main
from jcnn.runs import OptionError
from jcnn.runs.store.journal import read_lines
from jcnn.runs.verify.certificate import Divergence, find_divergence
from jcnn.runs.verify.compare import describe_distance
from jcnn.runs.verify.reproduce import reproduce
from tests.helpers.tiny_experiment import (
    InThisProcess,
    stop_at_step_3,
    write_experiment,
)

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder with an experiment, a finished run of it, of another seed, and one whose
    second step is not finite, since its first one ruined the weights.
    """
    folder = tmp_path_factory.mktemp("first")
    write_experiment(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = ["--seed=5", "--impl=auto", "--run-dir=run"]
        assert InThisProcess(["", "", "tiny", *options]).wait() == 0
        (folder / "rate.txt").write_text("nan")
        assert InThisProcess(["", "", "tiny", "--run-dir=faulty"]).wait() == 1
    (folder / "rate.txt").write_text("0.01")
    return folder


@pytest.fixture
def run_dir(first, tmp_path, monkeypatch):
    """A copy of the run, with the experiment in the current folder."""
    shutil.copytree(first, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("jcnn.runs.verify.restart.Popen", InThisProcess)
    return Path("run")


def _content(run_dir):
    return {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}


def _verdict(capsys, *arguments):
    """Exit status, and what is said of the comparison or the error, without paths."""
    status = main(["reproduce", *map(str, arguments)])
    captured = capsys.readouterr()
    out = captured.out.splitlines()
    verdicts = [
        i for i, text in enumerate(out) if text.startswith(("identical", "they"))
    ]
    return status, out[verdicts[0] :] if verdicts else [], captured.err


def _change_line(path, number, **values):
    lines = read_lines(path)
    lines[number] |= values
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# The same


def test_a_program_reproduces_a_run(first, tmp_path, monkeypatch):
    """Processes of their own, as a user starts them; nothing is written to the run."""
    shutil.copytree(first, tmp_path / "here")
    before = _content(tmp_path / "here")
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "jcnn", "reproduce", "run"],
        cwd=tmp_path / "here",
        env=os.environ
        | {"PYTHONPATH": str(_ROOT), "TMPDIR": str(tmp_path / "tmp")}
        | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    verdict, *lines = done.stdout.splitlines()
    assert (done.returncode, verdict) == (0, "identical to the bit: 6 steps")
    # This process has JAX configured for tests.
    assert all(line.startswith("  environment: ") for line in lines)
    named, command = done.stderr.splitlines()[:2]
    here = tmp_path / "here"
    assert named == f"running tiny in {here}; this executes its code:"
    assert " -m tiny --as-recorded " in command
    assert _content(tmp_path / "here") == before
    assert not list((tmp_path / "tmp").iterdir())


def test_a_run_in_bfloat16_is_reproduced_and_goes_on_in_it(run_dir, capsys):
    def start(*options):
        return InThisProcess(["", "", "tiny", *options]).wait()

    with pytest.MonkeyPatch.context() as patch:
        stop_at_step_3(patch)
        assert start("--dtype=bfloat16", "--seed=5", "--run-dir=short") == 143
    record = json.loads(Path("short/config.json").read_text())
    assert record["config"]["dtype"] == "bfloat16"
    capsys.readouterr()
    assert start("--seed=5", "--run-dir=short") == 2
    assert "--dtype: bfloat16 -> float32" in capsys.readouterr().err
    assert start("--as-recorded", "--run-dir=short") == 0
    assert main(["reproduce", "short"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "identical to the bit: 6 steps"
    certificates = [Path(d, "certificate.jsonl").read_bytes() for d in ("run", "short")]
    assert certificates[0] != certificates[1]
    # As if it had not been interrupted; and weights of either kind begin the other.
    assert start("--dtype=bfloat16", "--seed=5", "--run-dir=whole") == 0
    assert Path("whole/certificate.jsonl").read_bytes() == certificates[1]
    assert start("--dtype=bfloat16", "--init-from=run", "--run-dir=more") == 0
    assert start("--init-from=short", "--run-dir=others") == 0


def test_a_run_from_before_there_was_a_dtype_is_one_in_float32(run_dir, capsys):
    _change_json(run_dir / "config.json", lambda record: record["config"].pop("dtype"))
    assert InThisProcess(["", "", "tiny", "--seed=5", "--run-dir=run"]).wait() == 0
    assert "this run is finished" in capsys.readouterr().out
    assert main(["reproduce", str(run_dir)]) == 0
    options = ["--seed=5", "--dtype=bfloat16", "--run-dir=run"]
    assert InThisProcess(["", "", "tiny", *options]).wait() == 2
    assert "--dtype: float32 -> bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "words", "epochs"),
    [
        (":", "6 steps", [1, 2, 3]),
        ("0:99", "6 steps", [1, 2, 3]),
        (":4", "4 steps", [1, 2]),
        ("2:", "4 steps after step 2", [2, 3]),
        ("2:4", "2 steps after step 2", [2]),
        ("3:5", "2 steps after step 2", [2]),  # the last checkpoint before
    ],
)
def test_a_window_of_steps_is_reproduced(steps, words, epochs, run_dir, capsys):
    before = _content(run_dir)
    assert main(["reproduce", str(run_dir), "--steps", steps]) == 0
    *told, verdict = capsys.readouterr().out.splitlines()
    assert verdict == f"identical to the bit: {words}"
    done = [line for line in told if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in done] == [f"epoch {i}/3" for i in epochs]
    assert _content(run_dir) == before


def test_only_what_is_in_the_window_is_compared(run_dir, capsys):
    _change_line(run_dir / "certificate.jsonl", 3, params="0" * 64)
    assert _verdict(capsys, run_dir, "--steps", "2:5")[0] == 0
    status, lines, _ = _verdict(capsys, run_dir, "--steps", "2:6")
    assert (status, lines[0]) == (1, "they differ from step 6 on: params")


@pytest.mark.parametrize("kind", ["arrays/d", "content"])
def test_a_flipped_bit_in_a_checkpoint_is_named(kind, run_dir, rng, capsys):
    """There is none before it to go on from; the first step needs none."""
    checkpoint = run_dir / "checkpoints" / "0000000002"
    files = [path for path in (checkpoint / kind).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    largest.write_bytes(content)
    status, lines, error = _verdict(capsys, run_dir, "--steps", "2:")
    assert (status, lines) == (2, [])
    assert "all checkpoints are damaged:" in error and "0000000002: " in error
    status, lines, _ = _verdict(capsys, run_dir)
    assert (status, lines) == (0, ["identical to the bit: 6 steps"])


def test_an_interrupted_run_is_repeated_as_far_as_it_went(run_dir, monkeypatch, capsys):
    command = ["", "", "tiny", "--run-dir=stopped", "--keep-checkpoints=9"]
    with monkeypatch.context() as patch:
        stop_at_step_3(patch)
        assert InThisProcess(command).wait() == 143
    status, lines, _ = _verdict(capsys, "stopped")
    assert (status, lines) == (
        0,
        ["identical to the bit, as far as the run went: 3 steps"],
    )
    # A process that is killed leaves less.
    shutil.copytree("stopped", "killed")
    certificate = Path("killed", "certificate.jsonl")
    lines = certificate.read_bytes().splitlines(keepends=True)
    certificate.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    status, lines, _ = _verdict(capsys, "killed")
    assert lines == ["identical to the bit, as far as the run went: 2 steps"]
    # Where it went on, from the middle of an epoch.
    assert InThisProcess(command).wait() == 0
    status, lines, _ = _verdict(capsys, "stopped", "--steps", "3:4")
    assert (status, lines) == (0, ["identical to the bit: 1 step after step 3"])


@pytest.fixture
def faulty(run_dir):
    Path("rate.txt").write_text("nan")
    return Path("faulty")


def test_a_run_that_stopped_at_a_fault_stops_there_again(faulty, capsys):
    status, lines, error = _verdict(capsys, faulty)
    assert (status, lines[0]) == (
        0,
        "identical to the bit: 1 step, and both end there:",
    )
    assert lines[1].startswith("  step 1 is not finite: loss (NaN); gradients/conv")
    assert len(lines) == 2
    assert error.splitlines()[-1].startswith("error: step 1 is not finite: loss (NaN)")


@pytest.mark.parametrize("which", ["recorded", "new"])
def test_a_run_that_stops_at_a_fault_only_once_parts(which, faulty, capsys):
    run_dir = {"recorded": faulty, "new": "run"}[which]
    Path("rate.txt").write_text({"recorded": "0.01", "new": "nan"}[which])
    status, lines, _ = _verdict(capsys, run_dir)
    assert (status, lines[0].partition(":")[0]) == (1, "they differ from step 1 on")
    assert lines[1].startswith(f"  the {which} run ends: step 1 is not finite: loss")
    assert not any("run ends" in line for line in lines[2:])


def test_another_fault_at_the_same_step_parts(faulty, capsys):
    _change_line(faulty / "certificate.jsonl", 1, not_finite="it was \x1b[2Jtired")
    status, lines, _ = _verdict(capsys, faulty)
    assert (status, lines[0]) == (1, "they differ from step 1 on: not_finite")
    assert lines[1] == "  the recorded run ends: it was \\x1b[2Jtired"
    assert lines[2].startswith("  the new run ends: step 1 is not finite: loss")


# Not the same


@pytest.mark.parametrize(
    ("part", "options"), [("params", []), ("opt_state", ["--steps", "2:"])]
)
def test_a_changed_digest_is_found(part, options, run_dir, capsys):
    lines = read_lines(run_dir / "certificate.jsonl")
    digest = f"{int(lines[3][part][0], 16) ^ 1:x}{lines[3][part][1:]}"
    _change_line(run_dir / "certificate.jsonl", 3, **{part: digest})
    assert _verdict(capsys, run_dir, *options)[:2] == (
        1,
        [
            f"they differ from step 6 on: {part}",
            "  the metrics of step 6 are the same",
            "  params.safetensors are the same",
            "  environment.json says the same",
        ],
    )


def test_a_changed_digest_before_the_checkpoint_is_found(run_dir, capsys):
    _change_line(run_dir / "certificate.jsonl", 1, model_state="0" * 64)
    status, lines, _ = _verdict(capsys, run_dir, "--steps", "2:")
    assert (status, lines[0]) == (1, "they differ from step 2 on: model_state")


def test_more_than_the_run_computes_is_found(run_dir, capsys):
    with open(run_dir / "certificate.jsonl", "a") as file:
        file.write('{"step": 8}\n')
    status, lines, _ = _verdict(capsys, run_dir)
    assert (status, lines[0]) == (1, "they differ from step 8 on: end")


def test_a_changed_version_is_named_also_where_all_is_identical(run_dir, capsys):
    def change(values):
        values["distributions"]["optax"] = "0.0.1"

    _change_json(run_dir / "environment.json", change)
    version = importlib.metadata.version("optax")
    status, lines, error = _verdict(capsys, run_dir)
    assert (status, lines) == (
        0,
        [
            "identical to the bit: 6 steps",
            f"  environment: distributions.optax: 0.0.1 -> {version}",
        ],
    )
    assert f"distributions.optax: 0.0.1 -> {version}" in error


def test_a_changed_version_is_named(run_dir, capsys):
    def change(values):
        values["distributions"]["jax"] = "0.0.1"
        values["device"]["kind"] = "abacus\x1b[2J"

    _change_json(run_dir / "environment.json", change)
    _change_line(run_dir / "certificate.jsonl", 2, params="0" * 64)
    status, lines, _ = _verdict(capsys, run_dir)
    assert (status, lines[0]) == (1, "they differ from step 4 on: params")
    assert "  environment: device.kind: abacus\\x1b[2J -> cpu" in lines
    assert sum(line.startswith("  environment: ") for line in lines) == 2
    assert any(
        line.startswith("  environment: distributions.jax: 0.0.1 -> ") for line in lines
    )


@pytest.mark.parametrize("content", ["[]", "[" * 200_000], ids=["list", "deep"])
def test_an_environment_that_is_not_known_is_told(content, run_dir, capsys):
    (run_dir / "environment.json").write_text(content)
    _change_line(run_dir / "certificate.jsonl", 2, params="0" * 64)
    status, lines, _ = _verdict(capsys, run_dir)
    assert status == 1
    assert lines[-1] == "  environment.json is missing or not that of a run"


def test_changed_code_is_measured(run_dir, capsys):
    Path("rate.txt").write_text("0.02")
    assert InThisProcess(["", "", "tiny", "--seed=5", "--run-dir=other"]).wait() == 0
    old, new = (load_file(f"{name}/params.safetensors") for name in ("run", "other"))
    distance = max(np.abs(new[k].astype(float) - old[k]).max() for k in old)
    status, lines, _ = _verdict(capsys, run_dir)
    assert (status, lines[0]) == (1, "they differ from step 2 on: params, opt_state")
    assert any(line.startswith("  loss of step 6: ") for line in lines)
    words = f"  largest difference of params.safetensors: {distance:.3g} in "
    assert distance > 1e-3 and any(line.startswith(words) for line in lines)


# What cannot be run


def test_other_data_are_named(run_dir, capsys):
    pixels = np.load("pixels.npy")
    pixels[3, 2, 1, 0] ^= 1
    np.save("pixels.npy", pixels)
    before = _content(run_dir)
    status, lines, error = _verdict(capsys, run_dir)
    assert (status, lines) == (2, [])
    assert "train/image: uint8[20, 6, 6, 1]" in error and "label" not in error
    assert error.endswith("error: tiny could not be run: it ended with status 2\n")
    assert _content(run_dir) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "there is no missing.py and no missing/__main__.py"),
        ("tiny.missing", "there is no tiny/missing.py and no"),
        ("scripts/train.py", "scripts/train.py is not in"),
        ("<interactive>", "the experiment was typed"),
        ("timeit", "timeit is not in"),  # it is installed, but not here
        ("../tiny", "not the name of a module"),
        ("..tiny", "not the name of a module"),
        ("tiny --help", "not the name of a module"),
        ("-c", "not the name of a module"),
        ("", "not the name of a module"),
        ("tiny\x1b[2J", "not the name of a module"),
        ("/etc/passwd", "not the name of a module"),
    ],
)
def test_a_module_that_is_none_is_refused(name, words, run_dir, monkeypatch, capsys):
    _refuse_to_run(monkeypatch)
    _change_json(run_dir / "config.json", lambda v: v.update(experiment=name))
    status, lines, error = _verdict(capsys, run_dir)
    assert (status, lines) == (2, [])
    assert error.startswith("error: config.json: ") and words in error


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", None, "run is not the folder of a run"),
        ("config.json", "[]", "not that of a run"),
        ("certificate.jsonl", None, "run has no certificate.jsonl to compare with"),
        ("certificate.jsonl", "", "not the certificate of at least one step"),
        ("certificate.jsonl", '{"format": 1}\n', "not the certificate of"),
        ("certificate.jsonl", '{"format": 1}\n{"step": "1"}\n', "not the certificate"),
        ("certificate.jsonl", "PK\n", "certificate.jsonl, line 1"),
        pytest.param("config.json", "[" * 200_000, "not that of a run", id="deep"),
    ],
)
def test_a_bad_folder_is_refused(file, content, words, run_dir, monkeypatch, capsys):
    _refuse_to_run(monkeypatch)
    if content is None:
        (run_dir / file).unlink()
    else:
        (run_dir / file).write_text(content)
    status, lines, error = _verdict(capsys, run_dir)
    assert (status, lines) == (2, [])
    assert words in error and error.count("\n") == 1


def test_a_checkpoint_that_is_not_there_is_refused(run_dir, monkeypatch, capsys):
    _refuse_to_run(monkeypatch)
    status, _, error = _verdict(capsys, run_dir, "--steps", "1:")
    assert status == 2
    assert (
        "--steps: run has no checkpoint of step 1 or before; there are: 2, 6" in error
    )
    shutil.rmtree(run_dir / "checkpoints")
    status, _, error = _verdict(capsys, run_dir, "--steps", "2:")
    assert status == 2 and "step 2 or before; there are: none" in error


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("6:", "after step 6;"),
        ("4:5", "after step 4 up to step 5;"),
        (":1", "after step 0 up to step 1;"),
    ],
)
def test_steps_of_which_nothing_is_recorded_are_refused(
    steps, words, run_dir, monkeypatch, capsys
):
    _refuse_to_run(monkeypatch)
    status, _, error = _verdict(capsys, run_dir, "--steps", steps)
    assert (status, error) == (
        2,
        f"error: --steps: nothing is recorded {words} "
        "the certificate's 3 lines are of step 2 to 6\n",
    )


@pytest.mark.parametrize("steps", ["", "3", "3-4", "a:b", "1:2:3", "²:", "4:4", "5:2"])
def test_steps_that_are_no_window_are_refused(steps, capsys):
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "run", "--steps", steps])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "--steps: must be A:B" in error and f"got {steps!r}" in error


def test_a_checkpoint_that_leads_elsewhere_is_refused(run_dir, monkeypatch, capsys):
    _refuse_to_run(monkeypatch)
    (run_dir / "checkpoints" / "0000000002" / "more").symlink_to("/dev/zero")
    status, _, error = _verdict(capsys, run_dir, "--steps", "2:")
    assert status == 2 and "more is neither a file nor a folder" in error


@pytest.mark.parametrize(
    "odd", [{"run-dir": "elsewhere"}, {"marks": ["--run-dir=elsewhere"]}]
)
def test_a_recorded_run_writes_nothing_elsewhere(odd, run_dir, capsys):
    """Not even where its options name another folder in a way of their own."""
    _change_json(run_dir / "config.json", lambda values: values["config"].update(odd))
    assert _verdict(capsys, run_dir)[0] == 2
    assert not Path("elsewhere").exists()


def test_options_that_the_experiment_has_not_are_refused(run_dir, capsys):
    def change(values):
        values["config"]["speed"] = 3

    _change_json(run_dir / "config.json", change)
    status, _, error = _verdict(capsys, run_dir)
    assert status == 2 and "speed" in error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "it ended with status 1"),
        ("import sys; sys.exit(3)", "it ended with status 3"),
        ("", "it left no finished run"),
    ],
)
def test_an_experiment_that_fails_is_told(code, words, first, tmp_path, monkeypatch):
    shutil.copytree(first / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(code)
    with pytest.raises(OptionError, match=f"tiny could not be run: {words}"):
        reproduce(Path("run"))


def test_the_experiment_ends_with_the_command(first, tmp_path):
    """And the temporary folder goes, also when SIGTERM comes."""
    shutil.copytree(first / "run", tmp_path / "run")
    program = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)"
    (tmp_path / "tiny.py").write_text(program)
    (tmp_path / "tmp").mkdir()
    command = subprocess.Popen(
        [sys.executable, "-m", "jcnn", "reproduce", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(_ROOT), "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
    )
    with command:
        try:
            assert command.stderr is not None
            lines = iter(command.stderr.readline, "")
            pid = int(next(line for line in lines if line.strip().isdigit()))
            command.terminate()
            assert command.wait(60) == 128 + signal.SIGTERM
        finally:
            command.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list((tmp_path / "tmp").iterdir())


def _refuse_to_run(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("something is run")

    monkeypatch.setattr("jcnn.runs.verify.restart.Popen", refuse)


# Pieces


def test_certificates_part_at_the_first_line_that_differs():
    data, *steps = [{"format": 1}] + [{"step": i, "params": str(i)} for i in (1, 2, 3)]
    assert find_divergence([data, *steps], [data, *steps]) is None
    assert find_divergence([data, *steps[:1]], [data, *steps]) is None
    assert find_divergence([data, *steps], [data, *steps[:1]]) == Divergence(2, [])
    other = [steps[0], steps[1] | {"params": "x", "new": "y"}, {"step": 3}]
    assert find_divergence([data, *steps], [data, *other]) == Divergence(
        2, ["params", "new"]
    )
    assert find_divergence([data, *steps[1:]], [data, *steps]) == Divergence(
        1, ["step", "params"]
    )


def _ended(folder, arrays, step=4, **metrics):
    folder.mkdir()
    line = {"step": step, "seconds": time.monotonic(), **metrics}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    save_file(arrays, folder / "params.safetensors")
    return folder


def test_the_distance_is_the_largest_one(tmp_path, rng):
    old = {k: rng.normal(size=(3, 4)).astype(np.float32) for k in "abc"}
    new = {k: v + rng.normal(size=(3, 4)).astype(np.float32) for k, v in old.items()}
    old["c"], new["c"] = old["c"] * 1e-3, old["c"] * 1e-3 + np.float32(0.1)
    lines = describe_distance(
        _ended(tmp_path / "old", old, loss=0.5), _ended(tmp_path / "new", new, loss=0.7)
    )
    gaps, parts = {}, {}
    for name in old:
        pairs = list(zip(old[name].ravel().tolist(), new[name].ravel().tolist()))
        gaps[name] = max(abs(a - b) for a, b in pairs)
        parts[name] = gaps[name] / max(abs(a) for a, _ in pairs)
    farthest = max(gaps, key=lambda name: gaps[name])
    assert max(parts, key=lambda name: parts[name]) == "c" != farthest
    assert lines == [
        "loss of step 4: 0.5 -> 0.7",
        f"largest difference of params.safetensors: {gaps[farthest]:.3g} in {farthest}",
        "largest difference relative to the array's largest number: "
        f"{parts['c']:.3g} in c",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([1, np.nan], [1, np.nan], "are the same"),
        ([1, 2], [1, np.nan], ": inf in a"),
        ([1, np.inf], [1, np.inf], "are the same"),
        ([1, np.inf], [1.5, np.inf], ": 0.5 in a"),
        ([0, 0], [0, 0.5], ": 0.5 in a"),
        ([], [], "are the same"),
        ([1], [1, 2], "have other arrays: a"),
    ],
)
def test_the_distance_of_odd_numbers(old, new, expected, tmp_path):
    folders = [
        _ended(tmp_path / name, {"a": np.array(values, np.float32)})
        for name, values in (("old", old), ("new", new))
    ]
    assert expected in describe_distance(*folders)[1]


def test_weights_of_different_steps_are_not_compared(tmp_path):
    arrays = {"a": np.ones(2, np.float32)}
    old, new = (_ended(tmp_path / str(step), arrays, step) for step in (4, 5))
    assert describe_distance(old, new) == ["they have no metrics of a step in common"]
    with open(new / "metrics.jsonl", "a") as file:
        file.write('{"step": 4}\n')
    assert describe_distance(old, new)[1].endswith("are of different steps")


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100])
def test_weights_that_cannot_be_read_are_told(content, tmp_path):
    arrays = {"a": np.ones(2, np.float32)}
    old, new = (_ended(tmp_path / name, arrays) for name in ("old", "new"))
    (old / "params.safetensors").unlink()
    if content is not None:
        (old / "params.safetensors").write_bytes(content)
    assert "cannot be compared" in describe_distance(old, new)[1]


def test_without_the_extra_the_command_says_so(monkeypatch, capsys):
    for name in ("verify.reproduce", "verify.compare", "store.weights"):
        monkeypatch.delitem(sys.modules, f"jcnn.runs.{name}")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert main(["reproduce", "run"]) == 2
    error = capsys.readouterr().err
    assert "no safetensors" in error and "pip install array-record" in error


def test_the_console_script_is_there():
    scripts = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"][
        "scripts"
    ]
    module, _, function = scripts["jcnn"].partition(":")
    assert getattr(import_module(module), function) is main
