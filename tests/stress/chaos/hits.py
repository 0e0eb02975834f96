"""When a run is hit, and with what."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from .job import Job
from .runs import PATIENCE


class Aim(NamedTuple):
    """When a run is hit, and how.

    Attributes:
        event: Name of what is waited for, see `wait_for`.
        count: How many of these.
        delay: Seconds after that.
        signal: What it gets then.
        process: Which one of its processes.
    """

    event: str
    count: int
    delay: float
    signal: signal.Signals
    process: int = 0


def draw_aim(rng: random.Random, seconds: float, processes: int) -> Aim:
    """Where to hit a run that takes so many seconds, by so many processes."""
    # One in eight is a request to end, which has to be as harmless.
    how = signal.SIGTERM if rng.random() < 1 / 8 else signal.SIGKILL
    event = rng.choice(["begin", "line", "write", "write"])
    count, delay = 1, rng.uniform(0, seconds)
    if event != "begin":  # a write takes about as long as the longest delay
        count, delay = rng.randint(1, 2), rng.uniform(0, 0.05)
    return Aim(event, count, delay, how, rng.randrange(processes))


def hit(job: Job, run_dir: Path, aim: Aim) -> str:
    """Send the signal of `aim`, wait for the end, and say what happened."""
    before = _stamp(run_dir)
    try:
        if wait_for(aim.event, aim.count, job, run_dir):
            time.sleep(aim.delay)
            job.send_signal(aim.signal, aim.process)
        status = job.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "failure: it hangs"
    finally:
        job.kill()
    where = f"{aim.event} {aim.count} + {1000 * aim.delay:.0f} ms"
    where += f" in process {aim.process}" * (aim.process > 0)
    if status == 0:
        return f"end before {where}"
    if aim.signal == signal.SIGTERM and status in (143, -signal.SIGTERM):
        return f"stop: {where}"
    if aim.signal == signal.SIGKILL and status == -signal.SIGKILL:
        inside = _stamp(run_dir) != before and _half_written(run_dir)
        return f"{'kill in a write' if inside else 'kill'}: {where}"
    return f"failure: status {status}"


def wait_for(event: str, count: int, job: Job, run_dir: Path) -> bool:
    """Wait until something has happened so many times.

    Args:
        event: "begin" when it holds the folder; "line" when `metrics.jsonl`
            changes, at an epoch's end or in going back to a checkpoint; "write" when
            the temporary folder of a checkpoint appears.
        count: How many times.
        job: The run, just started.
        run_dir: Its folder.

    Returns:
        Whether it did, before the run ended.
    """
    before = _stamp(run_dir)
    seen = set()
    while len(seen) < count:
        if job.poll() is not None:
            return False
        if event == "begin":
            seen |= {job.pid} & _holder(run_dir)
        elif _stamp(run_dir) != before:
            seen |= _half_written(run_dir) if event == "write" else {_stamp(run_dir)}
        time.sleep(0.001)
    return True


def _holder(run_dir: Path) -> set[int]:
    """The number of the process that works on a folder, or did so last."""
    try:
        return {int((run_dir / ".lock").read_text())}
    except (FileNotFoundError, ValueError):
        return set()


def _stamp(run_dir: Path) -> tuple[int, int] | None:
    """Another one after each change of `metrics.jsonl`.

    A process changes it only after removing what an earlier one was writing.
    """
    try:
        status = (run_dir / "metrics.jsonl").stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _half_written(run_dir: Path) -> set[str]:
    """Names of the temporary folders of checkpoints."""
    try:
        names = os.listdir(run_dir / "checkpoints")
    except FileNotFoundError:
        return set()
    return {name for name in names if "orbax-checkpoint-tmp" in name}
