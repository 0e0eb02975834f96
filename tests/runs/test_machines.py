"""Machines as they are: file systems, outputs, signals, git and containers."""

import errno
import fcntl
import io
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jcnn._files import MOST_JSON, expand_home, sync, sync_folder, write_file
from jcnn.finite import Count, Fault, describe
from jcnn.runs.interrupt import catch_interrupt
from jcnn.runs.lock import Locked, lock
from jcnn.runs.pictures import draw_curves, draw_filters, try_picture, write_picture
from jcnn.runs.progress import (
    describe_metrics,
    open_console,
    progress_bar,
    say,
)
from jcnn.runs.store.journal import Journal, read_lines
from jcnn.runs.threads import cpu_quota, use_threads
from jcnn.runs.verify.environment import describe_environment, hide_from_git
from tests.helpers.stress import few_of

NOT_THERE = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL]


def _failing(number):
    def function(*args):
        raise OSError(number, os.strerror(number))

    return function


# File systems


@pytest.mark.parametrize("number", NOT_THERE)
def test_a_folder_that_cannot_be_locked_is_worked_on(
    number, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(fcntl, "flock", _failing(number))
    with lock(tmp_path):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line and os.strerror(number) in line


def test_what_else_is_wrong_with_a_lock_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", _failing(errno.EIO))
    with pytest.raises(OSError, match=str(tmp_path / ".lock")):
        with lock(tmp_path):
            raise AssertionError("not reached")
    monkeypatch.undo()
    with lock(tmp_path), pytest.raises(Locked, match=f"process {os.getpid()} is"):
        with lock(tmp_path):
            raise AssertionError("not reached")


@pytest.mark.parametrize("number", NOT_THERE)
def test_files_are_written_where_nothing_can_be_synchronized(
    number, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "fsync", _failing(number))
    write_file(tmp_path / "a", b"whole")
    sync_folder(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_disk_that_fails_to_synchronize_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync(0)
    with pytest.raises(OSError, match=f"{tmp_path / 'a'}"):
        write_file(tmp_path / "a", b"whole")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_be_written_but_not_listed_will_do(tmp_path, monkeypatch):
    usual = os.open

    def refusing(path, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return usual(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    write_file(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_the_home_is_where_home_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(Path("~/runs/x")) == tmp_path / "runs" / "x"
    assert expand_home(Path("a/~/x")) == Path("a/~/x")
    with pytest.raises(FileNotFoundError, match="~nobody-of-this-name/x: there is no"):
        expand_home(Path("~nobody-of-this-name/x"))


_NO_HOME = """
import pwd
def missing(*args): raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = missing
from pathlib import Path
from jcnn._files import expand_home
from jcnn.runs.compiled import keep_programs
print(keep_programs())
try: expand_home(Path("~/x"))
except FileNotFoundError as error: print(error)
"""


def test_without_a_home_no_programs_are_kept():
    variables = {"HOME", "XDG_CACHE_HOME"}
    environment = {k: v for k, v in os.environ.items() if k not in variables}
    text = _python(_NO_HOME, env=environment).stdout
    assert text.splitlines()[-1] == "~/x: there is no such home folder"


# What is written can be read


def test_a_journal_reads_what_it_writes_and_writes_what_it_reads(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    frame = len(json.dumps({"text": ""})) + 1  # with the end of the line
    longest = {"text": "x" * (MOST_JSON - frame)}
    journal.append(longest)
    with pytest.raises(ValueError, match=f"bytes, got {MOST_JSON + 1}"):
        journal.append({"text": longest["text"] + "x"})
    journal.append({"step": 2})
    assert read_lines(journal.path) == [longest, {"step": 2}]


def test_numbers_that_json_lacks_are_null_at_any_depth(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    journal.append({"f1": [0.5, math.nan], "by": {"class": (math.inf, 1)}})
    assert read_lines(journal.path) == [{"f1": [0.5, None], "by": {"class": [None, 1]}}]


@pytest.mark.parametrize("size", [1, 32, 33, 200_000])
def test_the_examples_of_a_batch_are_told_in_few_words(size):
    examples = [*range(10**9, 10**9 + size)]
    text = describe(Fault(3, examples, {"loss": Count(1, 0, 1)}))
    assert len(text) < 1000
    assert "1000000000" in text
    if size <= 32:
        assert text.endswith(f"its batch is examples {examples}")
    else:
        assert text.endswith(f", 1000000031, ...], {size} in all")


# Output


_PRINTS = """
import sys
from jcnn.runs.output import lasting_output
@lasting_output()
def main():
    for number in range(5000):
        print("line", number, flush=number == 3)
    print("and é \\udce9", file=sys.stderr)
    return 7
sys.exit(main())
"""


def _python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, **options
    )


def _without_capture(**options):
    return subprocess.run(
        [sys.executable, "-c", _PRINTS], text=True, timeout=60, **options
    )


def test_the_end_of_a_reader_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    done = _without_capture(stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 7
    first, second = done.stderr.splitlines()
    assert first.startswith(f"standard output has ended ({os.strerror(errno.EPIPE)})")
    assert second == "and é \\udce9"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("which", ["stdout", "stderr", "both"])
def test_an_output_that_is_full_ends_nothing(which):
    with open("/dev/full", "w") as full:
        ends = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ends |= dict.fromkeys([which] if which != "both" else ends, full)
        done = _without_capture(**ends)
    assert done.returncode == 7
    reason = os.strerror(errno.ENOSPC)
    if which == "stdout":
        assert done.stderr.startswith(f"standard output has ended ({reason})")
    if which == "stderr":
        assert done.stdout.splitlines()[4999] == "line 4999"
        assert f"standard error has ended ({reason})" in done.stdout


def test_a_program_without_any_output_runs():
    command = f'exec "{sys.executable}" -c "$0" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, _PRINTS]).returncode == 7


def test_a_logger_that_is_made_in_the_block_does_not_close_the_output():
    code = """
import sys
from jcnn.runs.output import lasting_output
with lasting_output():
    kept = sys.stderr
kept.close()
print("more", file=sys.stderr)
"""
    assert _python(code).stderr == "more\n"


@pytest.mark.parametrize("encoding", few_of(["ascii", "utf-8", "latin-1", "cp1252"], 2))
def test_all_characters_can_be_printed_in_all_encodings(encoding):
    code = """
from jcnn.runs.output import lasting_output
with lasting_output(): print("é 日 \\udce9")
"""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True
    )
    expected = "é 日 \udce9".encode(encoding, "backslashreplace")
    assert done.stdout.rstrip(b"\r\n") == expected


@pytest.mark.parametrize(
    "variables",
    few_of(
        [
            {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "TERM": "xterm"},
            {"FORCE_COLOR": "3", "COLUMNS": "40", "PYTHONIOENCODING": "ascii"},
            {"FORCE_COLOR": "1"},
            {"TTY_COMPATIBLE": "1"},
        ],
        2,
    ),
)
def test_a_pipe_gets_no_control_codes(variables):
    code = """
from jcnn.runs.progress import open_console, progress_bar, say
from jcnn.inspect.summary import Row
from jcnn.inspect.table import model_table
console = open_console()
console.print(model_table([Row("conv1", (8, 8, 16), 160, 9216, (3, 3))], 40))
with progress_bar(console, 10) as show:
    show(5, "half")
    say(console, "[red]" + "a long line " * 10)
"""
    text = _python(code, env=os.environ | variables, check=True).stdout
    assert "\x1b" not in text and "\r" not in text
    assert text.splitlines()[-1] == "[red]" + "a long line " * 10


def test_a_console_is_a_terminal_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name in ("TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert open_console().is_terminal
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    assert not open_console().is_terminal


def test_a_line_tells_the_metrics_that_there_are():
    assert describe_metrics({"epoch": 1, "loss": -2.5}, 3) == "epoch 1/3  loss -2.5000"
    line = {"epoch": 1, "loss": 1, "test_loss": 0.5, "images_per_second": 2000}
    assert describe_metrics(line, 3).split("  ")[-2:] == [
        "loss 1.0000",
        "2,000 images/s",
    ]
    assert describe_metrics(line, 3, watch="loss").split("  ")[-2:] == [
        "test 0.5000",
        "2,000 images/s",
    ]


def test_a_name_gives_the_terminal_no_commands():
    file = io.StringIO()
    say(Console(file=file, width=20), "done: runs/a\nb\x1b[2J\x07\udce9 é")
    assert file.getvalue() == "done: runs/a\\nb\\x1b[2J\\x07\\udce9 é\n"


def test_a_bar_shows_any_text_in_40_columns():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=40)
    with progress_bar(console, 10) as show:
        show(5, "[/red] of a long line that goes on and on and on")
        say(console, "[/red]")
    assert "[/red]" in file.getvalue()


# Signals


def test_sigusr1_asks_to_save_and_to_go_on():
    with catch_interrupt() as interrupted:
        assert not interrupted.save_asked()
        for _ in range(2):
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            assert interrupted() is None
            assert interrupted.save_asked() and not interrupted.save_asked()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_terminal_that_goes_sends_as_many_sighups_as_it_likes():
    with catch_interrupt() as interrupted:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert interrupted() == signal.SIGHUP
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_have_a_meaning_keep_it(number):
    came = []
    for handler in (signal.SIG_IGN, lambda *args: came.append(number)):
        usual = signal.signal(number, handler)
        try:
            with catch_interrupt() as interrupted:
                signal.raise_signal(number)
                assert interrupted() is None and not interrupted.save_asked()
            assert signal.getsignal(number) == handler
        finally:
            signal.signal(number, usual)
    assert came == [number]


# Git and what is installed


def _git(folder, *arguments):
    names = ("-c", "user.name=n", "-c", "user.email=e")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(folder), *names, *arguments],
            check=True,
            capture_output=True,
            env=environment,
        )
    except FileNotFoundError:
        pytest.skip("git is not installed")
    return done.stdout.decode().strip()


def _repository(folder):
    folder.mkdir()
    (folder / "script.py").write_text("1")
    _git(folder, "init", "-q")
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", folder.name)
    return _git(folder, "rev-parse", "HEAD")


def test_variables_of_another_repository_do_not_count(tmp_path, monkeypatch):
    own, other = _repository(tmp_path / "own"), _repository(tmp_path / "other")
    assert own != other
    (tmp_path / "other" / "script.py").write_text("2")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    values = describe_environment(tmp_path / "own")
    assert (values["commit"], values["dirty"]) == (own, False)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
@pytest.mark.parametrize("quoted", ["true", "false"])
def test_names_that_are_no_text_make_a_repository_dirty(quoted, tmp_path):
    commit = _repository(tmp_path / "own")
    _git(tmp_path / "own", "config", "core.quotepath", quoted)
    Path(os.fsdecode(os.fsencode(tmp_path / "own") + b"/caf\xe9")).write_text("")
    values = describe_environment(tmp_path / "own")
    assert (values["commit"], values["dirty"]) == (commit, True)


def test_a_hidden_folder_makes_no_repository_dirty(tmp_path):
    _repository(tmp_path / "own")
    run_dir = tmp_path / "own" / "some" / "where"
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text("")
    assert describe_environment(tmp_path / "own")["dirty"] is True
    hide_from_git(run_dir)
    assert describe_environment(tmp_path / "own")["dirty"] is False
    (run_dir / ".gitignore").write_text("my own")
    hide_from_git(run_dir)
    assert (run_dir / ".gitignore").read_text() == "my own"


def test_broken_installations_are_left_out(tmp_path, monkeypatch):
    contents = {
        "whole": b"Metadata-Version: 2.1\nName: Whole-Thing\nVersion: 1.5\n",
        "empty": b"",
        "latin": b"Name: Latin\nAuthor: caf\xe9\nVersion: 1\n",
        "nameless": b"Version: 2\n",
        "missing": None,
    }
    for name, content in contents.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        if content is not None:
            (folder / "METADATA").write_bytes(content)
    (tmp_path / "folder-1.dist-info" / "METADATA").mkdir(parents=True)
    found = [*metadata.distributions(path=[str(tmp_path)])]
    assert len(found) == 6
    monkeypatch.setattr(
        "jcnn.runs.verify.environment.distributions", lambda: [None, *found]
    )
    values = describe_environment(tmp_path)
    assert values["distributions"] == {"whole-thing": "1.5"}


def test_where_programs_are_kept_is_no_part_of_the_environment(tmp_path):
    from jax import config

    before = describe_environment(tmp_path)["jax_config"]
    usual = config.jax_compilation_cache_dir
    try:
        config.update("jax_compilation_cache_dir", str(tmp_path))
        kept = describe_environment(tmp_path)
        assert kept["jax_config"] == before
        assert not kept["onednn"]  # its programs cannot be kept
    finally:
        config.update("jax_compilation_cache_dir", usual)
    assert "jax_enable_x64" in before


# Containers


GROUPS = {  # files of a system, and how many cores' time they allow
    "none": ({}, None),
    "2, unlimited": ({"proc": "0::/\n", "cpu.max": "max 100000\n"}, None),
    "2, container": ({"proc": "0::/\n", "cpu.max": "150000 100000\n"}, 1.5),
    "2, nested": (
        {
            "proc": "0::/a/b\n",
            "a/cpu.max": "200000 100000\n",
            "a/b/cpu.max": "max 100000\n",
            "other/cpu.max": "1000 100000\n",
        },
        2.0,
    ),
    "2, its name outside": ({"proc": "0::/x/y\n", "cpu.max": "50000 100000\n"}, 0.5),
    "1": (
        {
            "proc": "9:memory:/m\n4:cpuacct,cpu:/a\n",
            "cpu/a/cpu.cfs_quota_us": "300000\n",
            "cpu/a/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "1, unlimited": (
        {
            "proc": "4:cpu:/\n1:name=systemd:/\n0::/\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "1, its name outside": (
        {
            "proc": "4:cpu,cpuacct:/docker/ab:c\n",
            "cpu/cpu.cfs_quota_us": "400000\n",
            "cpu/cpu.cfs_period_us": "200000\n",
        },
        2.0,
    ),
    "nonsense": ({"proc": "\n::\nx\n", "cpu.max": "\n"}, None),
}


@pytest.mark.parametrize(("files", "expected"), GROUPS.values(), ids=list(GROUPS))
def test_quotas_of_containers_are_found(files, expected, tmp_path):
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        if name == "proc":
            path = tmp_path / "proc" / "self" / "cgroup"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cpu_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "nproc", "expected"), [(1.5, None, 2), (0.1, None, 1), (1.5, "7", 7)]
)
def test_xla_gets_as_many_threads_as_a_container_may_use(quota, nproc, expected):
    code = f"""
import os
os.sched_getaffinity = lambda pid: set(range(16))
from jcnn.runs import threads
threads.cpu_quota = lambda: {quota}
print(threads.use_threads(None), os.environ["NPROC"])
"""
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    if nproc is not None:
        environment["NPROC"] = nproc
    text = _python(code, env=environment, check=True).stdout
    assert text.split() == [str(expected), str(expected)]


def test_a_process_that_computes_keeps_its_threads(monkeypatch):
    import jax

    jax.devices()
    now = use_threads(None)
    monkeypatch.setattr("jcnn.runs.threads.cpu_quota", lambda: 0.5)
    assert use_threads(None) == now


# Pictures


NAMES = ["lr$1^2^3$", "$\\frac", "50%_of_{it}", "a\nb\x1b[2J", "caf\udce9", "日本", ""]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_stands_above_a_picture(name, tmp_path):
    line = {"epoch": 1, "loss": 0.5, "accuracy": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_picture(tmp_path / "a.png", draw_curves([line], title=name))
        kernel = np.ones((3, 3, 1, 2), np.float32)
        write_picture(tmp_path / "b.png", draw_filters(kernel, title=name))
    for file in ("a.png", "b.png"):
        with Image.open(tmp_path / file) as image:
            assert image.format == "PNG"


def test_losses_are_logarithmic_only_if_they_can_be():
    for losses, scale in {
        (2.0, 0.5): "log",
        (2.0, -0.5): "linear",
        (1.0, 0.0): "linear",
        (-3.0, -4.0): "linear",
        (None, 1.0): "log",
        (): "log",
    }.items():
        lines = [{"epoch": i, "loss": loss} for i, loss in enumerate(losses)]
        axes = draw_curves(lines).axes[0]
        assert axes.get_yscale() == scale
        drawn = [y for line in axes.get_lines() for y in line.get_ydata()]
        assert drawn == [loss for loss in losses if loss is not None]


@pytest.mark.parametrize(
    "values",
    [
        (3e38, 1e-38, 1.0),
        (-3e38, 3e38, -1e-38),
        (1e-45, 1e-45, 1e-45),
        (0.0, 0.0, 0.0),
        (None, None, None),
        (None, -1.0, None),
    ],
)
def test_curves_of_any_numbers_are_drawn(values):
    lines = [
        {"epoch": i, "loss": a, "test_loss": b, "accuracy": c, "test_accuracy": c}
        for i, (a, b, c) in enumerate(zip(values, values[1:], values[2:]))
    ] + [{"epoch": 1, "loss": value} for value in values]
    draw_curves(lines).savefig(io.BytesIO(), format="png")


def test_of_very_many_filters_the_first_are_drawn(rng):
    kernel = rng.normal(size=(2, 2, 1, 5000)).astype("float32")
    images = [axes.images[0] for axes in draw_filters(kernel).axes if axes.images]
    assert len(images) == 64
    np.testing.assert_array_equal(images[-1].get_array(), kernel[:, :, 0, 63])


def test_filters_in_bfloat16_are_drawn(tmp_path):
    import ml_dtypes

    kernel = np.ones((3, 3, 3, 4), ml_dtypes.bfloat16)
    write_picture(tmp_path / "a.png", draw_filters(kernel))


def test_a_picture_that_cannot_be_drawn_ends_nothing(tmp_path, capsys):
    path = tmp_path / "curves.png"
    try_picture(path, lambda: draw_curves([{"loss": 1.0}]))
    assert f"{path} could not be drawn" in capsys.readouterr().err
    assert not path.exists()
    with pytest.raises(OSError, match="nowhere"):
        try_picture(tmp_path / "nowhere" / "a.png", lambda: draw_curves([]))
