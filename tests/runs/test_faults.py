"""Faults that are real: a disk that is full, a folder that is read-only, damaged files.

Each ends a run with one line that says which file, and leaves the last good checkpoint;
when it is over the same command ends with the bytes of a run that had no fault.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runs import test_resume as runs


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch):
    runs._set_up(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run; twelve calls, four epochs of 5 steps."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        runs._set_up(patch)
        assert runs._run(run_dir) == 0
    return run_dir


def _goes_on(capsys, run_dir, whole, done):
    """Without the fault, after the last good checkpoint."""
    capsys.readouterr()
    assert runs._run(run_dir) == 0
    _went_on(run_dir, whole, done, *capsys.readouterr())


def _went_on(run_dir, whole, done, out, err):
    assert not done or re.search(f"going on after ({done}) of 20 steps", out), err
    assert "is damaged" not in err
    assert runs._result(run_dir) == runs._result(whole)


@pytest.fixture
def program():
    """Runs this file as a program, with a fault before a call to the device or none."""

    def run(run_dir, *fault):
        return subprocess.run(
            [sys.executable, __file__, run_dir, *map(str, fault)],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": "."},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def fails(program):
    def run(run_dir, *fault):
        done = program(run_dir, *fault)
        assert done.returncode in (1, 2), done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (
            done.stderr
        )
        assert str(run_dir) in done.stderr
        return done.stderr

    return run


def _limit(most):
    """No file of this process may become larger: that works anywhere."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))


def _fill(folder):
    """Take all of the room that a disk has left."""
    with open(Path(folder, "filler"), "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == 28, error


def _protect(folder):
    """What Linux does to a disk after an error."""
    assert _mount("--bind", folder, folder)
    for _ in range(100):  # refused while a file of it is open for writing
        if _mount("-o", "remount,bind,ro", folder):
            return
        time.sleep(0.1)
    raise AssertionError("the folder is busy")


def _mount(*arguments):
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _umount(folder):
    done = subprocess.run(["umount", "--lazy", folder], capture_output=True)
    return done.returncode == 0


_FAULTS = {"limit": _limit, "fill": _fill, "protect": _protect}


# A disk that is full


def test_files_that_cannot_grow(whole, fails, program, tmp_path):
    """The checkpoint is larger than that."""
    error = fails(tmp_path / "run", 8, "limit", 1000)
    assert "checkpoints" in error and "File too large" in error
    done = program(tmp_path / "run")
    _went_on(tmp_path / "run", whole, "5|10", done.stdout, done.stderr)


def test_files_that_cannot_grow_from_the_start(whole, tmp_path, capsys):
    run_dir = tmp_path / "run"
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        status = runs._run(run_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    error = f"error: [Errno 27] File too large: '{run_dir / 'source.json'}'\n"
    assert (status, capsys.readouterr().err) == (2, error)
    _goes_on(capsys, run_dir, whole, None)


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)):
        pytest.skip("no file system can be mounted here")
    yield folder
    while _umount(folder):  # once more if a test has protected it
        pass


@pytest.mark.stress
def test_a_full_disk(whole, disk, fails, program):
    error = fails(disk / "run", 11, "fill", disk)
    assert "No space left on device" in error
    (disk / "filler").unlink()
    done = program(disk / "run")
    _went_on(disk / "run", whole, "10|15", done.stdout, done.stderr)


def test_a_disk_that_is_full_from_the_start(whole, disk, capsys):
    _fill(disk)
    assert runs._run(disk / "run") == 2
    error = capsys.readouterr().err
    assert str(disk / "run") in error and "No space left on device" in error
    (disk / "filler").unlink()
    _goes_on(capsys, disk / "run", whole, None)


# A folder that is read-only


@pytest.mark.stress
def test_a_disk_that_becomes_read_only(whole, disk, fails, program):
    run_dir = disk / "run"
    assert "Read-only file system" in fails(run_dir, 8, "protect", disk)
    before = runs._content(run_dir)
    for folder, words in ((run_dir, "Read-only"), (disk / "new", "no permission")):
        done = program(folder)
        assert done.returncode == 2
        error = done.stderr
        assert words in error and str(folder) in error and error.count("\n") == 1
    assert runs._content(run_dir) == before
    assert _umount(disk)
    done = program(run_dir)
    _went_on(run_dir, whole, "5|10", done.stdout, done.stderr)


def test_a_folder_without_permission(whole, fails, tmp_path, monkeypatch, capsys):
    """As root, who may do everything, this is tried as another user."""
    run_dir = tmp_path / "run"
    runs._killed(run_dir, monkeypatch, 8)
    before = runs._content(run_dir)
    capsys.readouterr()
    with _not_permitted(run_dir):
        assert runs._run(run_dir) == 2
    error = capsys.readouterr().err
    assert f"Permission denied: '{run_dir / '.lock'}'" in error
    assert error.count("\n") == 1
    assert runs._content(run_dir) == before
    _goes_on(capsys, run_dir, whole, 10)


@contextmanager
def _not_permitted(folder):
    if os.geteuid():
        (folder / ".lock").chmod(0o444)
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        (folder / ".lock").chmod(0o644)
        return
    opened = [path for path in folder.parents if not path.stat().st_mode & 1]
    for path in opened:
        path.chmod(path.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path in opened:
            path.chmod(path.stat().st_mode & ~0o055)


# Damaged files


def test_every_file_of_the_newest_checkpoint(whole, tmp_path, monkeypatch, rng, capsys):
    """A bit is another one, or the end is gone: at most an epoch is computed again."""
    killed = tmp_path / "killed"
    runs._killed(killed, monkeypatch, 11)
    newest = Path("checkpoints", "0000000015")
    files = sorted(p for p in (killed / newest).rglob("*") if p.is_file())
    assert len(files) > 5
    for number, path in enumerate(files):
        run_dir = tmp_path / str(number)
        shutil.copytree(killed, run_dir)
        content = bytearray(path.read_bytes())
        place = int(rng.integers(len(content)))
        if number % 2:
            del content[place:]
        else:
            content[place] ^= 1 << int(rng.integers(8))
        (run_dir / path.relative_to(killed)).write_bytes(content)
        assert runs._run(run_dir) == 0
        captured = capsys.readouterr()
        done = 10 if f"{newest} is damaged" in captured.err else 15
        assert f"going on after {done} of 20" in captured.out
        assert runs._result(run_dir) == runs._result(whole)


if __name__ == "__main__":
    run_dir, *given = sys.argv[1:]
    with pytest.MonkeyPatch.context() as patch:
        runs._set_up(patch)
        if given:
            number, fault, argument = given
            runs._at_call(patch, int(number), lambda: _FAULTS[fault](argument))
        sys.exit(runs._run(run_dir))
