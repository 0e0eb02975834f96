"""What happens to a run between two starts, beside being killed.

Each function says what it has done; None if the run cannot have that now; or begins
with "failure" if the run was wrong about it.
"""

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jcnn.runs import read_metrics

from .comparison import changes, contents
from .runs import PATIENCE, SOURCES, Run


def damage(run: Run, rng: random.Random) -> str | None:
    """Cut or change a file.

    It is `metrics.jsonl`, cut in the middle of a line, or any file of the newest
    checkpoint, cut or with another bit.
    """
    cut = rng.random() < 2 / 3
    if cut and rng.random() < 1 / 2:
        files = [run.folder / "metrics.jsonl"]
    else:
        # With an older one left: else the run is refused until it is put back.
        saved = _checkpoints(run)
        files = sorted(saved[-1].rglob("*")) if len(saved) > 1 else []
    files = [file for file in files if file.is_file() and file.stat().st_size]
    if not files:
        return None
    file = rng.choice(files)
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content))
    if cut:
        # Never between two lines.
        while place and content[place - 1] == ord("\n"):
            place -= 1
        del content[place:]
    else:
        content[place] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    name = file.relative_to(run.folder).as_posix()
    return f"damage: {name} {'cut at' if cut else 'changed in'} byte {place}"


def make_unreadable(run: Run, rng: random.Random) -> str | None:
    """A start while the newest checkpoint cannot be read, which is put right then.

    By its permissions, as where a job runs as another user, or a network file system
    has forgotten who asks: the system says so to Python and to TensorStore's C++ alike.
    Other ways are less like that. A limit of open files is met first where the next
    checkpoint is written, a link or something mounted is no file that a run has
    written, and what is put into Python's `open` is not seen by TensorStore.
    """
    saved = [] if _is_finished(run) else _checkpoints(run)
    if not saved:
        return None
    inside = sorted(saved[-1].rglob("*"))
    files = [path for path in inside if path.is_file()]
    folders = [saved[-1], *(path for path in inside if path.is_dir())]
    forbidden = rng.choice([files, [rng.choice(folders)]])
    with _changed(run) as changed, _forbidden(forbidden):
        status, told = _start(run, privileged=False)
    name = forbidden[0].relative_to(run.folder).as_posix()
    event = f"unreadable: {name}{' and others' * (len(forbidden) > 1)}"
    good = "cannot be read" in told and "damaged" not in told
    return _judged(event, status, changed, good)


def change_model(run: Run, rng: random.Random) -> str | None:
    """A start with another model's code, which the user accepts: it does not fit."""
    if _is_finished(run) or not _checkpoints(run):
        return None  # it may begin with any model, or is not looked at
    with _changed(run) as changed:
        status, told = _start(run, "--accept-source", source="other model")
    return _judged("other model", status, changed, "is of another model" in told)


def change_source(run: Run, rng: random.Random) -> str | None:
    """A start with a line of the experiment changed, which nobody has accepted."""
    if _is_finished(run) or not (run.folder / "config.json").exists():
        return None
    with _changed(run) as changed:
        status, told = _start(run, source="other source")
    assert (change := SOURCES["other source"])
    shown = all(part in told for part in change)
    return _judged("other source", status, changed, shown)


def move_data(run: Run, rng: random.Random) -> str:
    """From the next start on, the data set is elsewhere."""
    run.move_data()
    return f"moved data: {run.data_dir.name}"


# How often each is tried; three need what a run has not always, such as a checkpoint.
MISHAPS = {
    damage: 3,
    make_unreadable: 3,
    change_model: 3,
    change_source: 1,
    move_data: 1,
}


def _judged(event: str, status: int | None, changed: list[str], good: bool) -> str:
    """What is told of a start that has to be refused, and to change nothing."""
    if status != 2:
        return f"failure: {event}: status {status}, not 2"
    if changed:
        return f"failure: {event}: refused, but {', '.join(changed)} changed"
    return event if good else f"failure: {event}: refused for another reason"


def _start(
    run: Run, *options: str, source: str = "source", privileged: bool = True
) -> tuple[int | None, str]:
    """Start a run; its exit status, None if it hangs, and what it has printed."""
    size = run.log.stat().st_size
    job = run.start(*options, source=source, privileged=privileged)
    try:
        status = job.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        job.kill()
    return status, run.log.read_bytes()[size:].decode(errors="replace")


@contextmanager
def _changed(run: Run) -> Iterator[list[str]]:
    """A list of what has changed in the run's folder in the meantime, afterwards."""
    changed: list[str] = []
    before = contents(run.folder)
    yield changed
    changed += changes(before, contents(run.folder))


@contextmanager
def _forbidden(paths: list[Path]) -> Iterator[None]:
    """Nobody may read these files or folders."""
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0)
    try:
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            if path.exists():  # else something has removed it, and is to be told of
                path.chmod(mode)


def _is_finished(run: Run) -> bool:
    """Whether it has written its last line: then a start has nothing to do."""
    try:
        lines = read_metrics(run.folder)
    except FileNotFoundError:
        return False
    return bool(lines) and lines[-1].get("interrupted") is False


def _checkpoints(run: Run) -> list[Path]:
    """Those that are complete, oldest first."""
    return sorted((run.folder / "checkpoints").glob("[0-9]" * 10))
