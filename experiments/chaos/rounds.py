"""Kills runs of the digits experiment at random moments and starts them again.

Each round is a run that is killed one to three times, wherever that hurts most, and
whose files are damaged now and then; it must end with the bytes of one left alone.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import tyro

from jcnn.experiment import Count, read_metrics, refuses

PATIENCE = 120.0  # seconds after which a run hangs


@dataclass(frozen=True)
class Config:
    rounds: Count = 100
    """How many runs are killed."""
    epochs: Count = 4
    """Epochs of each."""
    seed: int = 0
    """Decides where they are killed and what is damaged, but for the machine's part."""
    jobs: Count = 1
    """Rounds at the same time."""


class Aim(NamedTuple):
    """When a run is hit, and how.

    Attributes:
        event: Name of what is waited for, see `wait_for`.
        count: How many of these.
        delay: Seconds after that.
        signal: What it gets then.
    """

    event: str
    count: int
    delay: float
    signal: signal.Signals


class Outcome(NamedTuple):
    """How a round went.

    Attributes:
        events: What was done to the run, in order.
        wrong: What is wrong with its end; empty if nothing is.
    """

    events: list[str]
    wrong: list[str]


def main(config: Config) -> int:
    if refuses(config):
        return 2
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    start = partial(start_run, folder, config.epochs)
    seconds = measure_whole(start, folder)
    do = partial(do_round, start, folder, seconds, config.seed)
    totals, failed = Counter(), []
    with ThreadPoolExecutor(config.jobs) as pool:
        for number, outcome in enumerate(pool.map(do, range(config.rounds))):
            totals.update(event.partition(":")[0] for event in outcome.events)
            told = "; ".join(outcome.wrong) or "identical"
            print(f"round {number}: {', '.join(outcome.events)}: {told}", flush=True)
            if outcome.wrong:
                failed.append(folder / f"round-{number}")
    print(
        f"{config.rounds - len(failed)} of {config.rounds} identical; "
        f"{totals['kill'] + totals['kill in a write']} kills, of which "
        f"{totals['kill in a write']} inside a checkpoint write; "
        f"{totals['stop']} stops by SIGTERM; {totals['damage']} damaged files"
    )
    if failed:
        print(f"compare {folder / 'whole'} with:", *failed)
        return 1
    shutil.rmtree(folder)
    return 0


def start_run(folder: Path, epochs: int, run_dir: Path) -> subprocess.Popen[bytes]:
    """Start a run of digits, or go on with one; it logs beside its folder."""
    # Compiled programs and byte code are kept: so a start takes two seconds, not ten.
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "TMPDIR": str(folder),  # what killed processes leave there goes with it
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    options = ["--epochs", str(epochs), "--run-dir", str(run_dir)]
    with open(run_dir.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.digits", *options],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def measure_whole(
    start: Callable[[Path], subprocess.Popen[bytes]], folder: Path
) -> float:
    """Two runs that nobody kills, `whole` and `again`.

    Returns:
        Seconds that the second one works on its folder.

    Raises:
        RuntimeError: If they fail or differ: then there is nothing to compare with.
    """
    began = 0.0
    for run_dir in (folder / "whole", folder / "again"):
        process = start(run_dir)
        wait_for("begin", 1, process, run_dir)
        began = time.monotonic()
        wrong = _end(process)
        if wrong:
            raise RuntimeError(f"{wrong}, see {run_dir.with_suffix('.log')}")
    seconds = time.monotonic() - began
    wrong = differences(folder / "whole", folder / "again")
    if wrong:
        raise RuntimeError(f"two whole runs differ in {wrong}, see {folder}")
    return seconds


def do_round(
    start: Callable[[Path], subprocess.Popen[bytes]],
    folder: Path,
    seconds: float,
    seed: int,
    number: int,
) -> Outcome:
    """Kill a new run a few times, let it end, and compare it with the whole one.

    Args:
        start: Starts the run of a folder.
        folder: Has the whole run; what differs from it stays there.
        seconds: Time that a run takes, beside its start.
        seed: Decides what is done, together with the next one.
        number: That of the round.
    """
    rng = random.Random(f"{seed}, {number}")
    run_dir = folder / f"round-{number}"
    events = []
    for aim in [draw_aim(rng, seconds) for _ in range(rng.randint(1, 3))]:
        event = hit(start(run_dir), run_dir, aim)
        events.append(event)
        if event.startswith(("end", "failure")):
            break
        if rng.random() < 0.3 and (damaged := damage(run_dir, rng)):
            events.append(f"damage: {damaged}")
    if events[-1].startswith("failure"):
        wrong = [events.pop()]
    elif wrong := _end(start(run_dir)):
        wrong = [wrong]
    else:
        wrong = differences(folder / "whole", run_dir)
    if not wrong:
        shutil.rmtree(run_dir)
        run_dir.with_suffix(".log").unlink()
    return Outcome(events, wrong)


def draw_aim(rng: random.Random, seconds: float) -> Aim:
    """Where to hit a run that takes so many seconds."""
    # One in eight is a request to end, which has to be as harmless.
    how = signal.SIGTERM if rng.random() < 1 / 8 else signal.SIGKILL
    event = rng.choice(["begin", "line", "write", "write"])
    if event == "begin":
        return Aim(event, 1, rng.uniform(0, seconds), how)
    # A write takes about as long as the longest delay.
    return Aim(event, rng.randint(1, 2), rng.uniform(0, 0.05), how)


def hit(process: subprocess.Popen[bytes], run_dir: Path, aim: Aim) -> str:
    """Send the signal of `aim`, wait for the end, and say what happened."""
    before = _stamp(run_dir)
    try:
        if wait_for(aim.event, aim.count, process, run_dir):
            time.sleep(aim.delay)
            process.send_signal(aim.signal)
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "failure: it hangs"
    finally:
        process.kill()
        process.wait()
    where = f"{aim.event} {aim.count} + {1000 * aim.delay:.0f} ms"
    if status == 0:
        return f"end before {where}"
    if aim.signal == signal.SIGTERM and status in (143, -signal.SIGTERM):
        return f"stop: {where}"
    if aim.signal == signal.SIGKILL and status == -signal.SIGKILL:
        inside = _stamp(run_dir) != before and _half_written(run_dir)
        return f"{'kill in a write' if inside else 'kill'}: {where}"
    return f"failure: status {status}"


def wait_for(
    event: str, count: int, process: subprocess.Popen[bytes], run_dir: Path
) -> bool:
    """Wait until something has happened so many times.

    Args:
        event: "begin" when the process holds the folder; "line" when `metrics.jsonl`
            changes, at an epoch's end or in going back to a checkpoint; "write" when
            the temporary folder of a checkpoint appears.
        count: How many times.
        process: The run, just started.
        run_dir: Its folder.

    Returns:
        Whether it did, before the process ended.
    """
    before = _stamp(run_dir)
    seen = set()
    while len(seen) < count:
        if process.poll() is not None:
            return False
        if event == "begin":
            seen |= {process.pid} & _holder(run_dir)
        elif _stamp(run_dir) != before:
            seen |= _half_written(run_dir) if event == "write" else {_stamp(run_dir)}
        time.sleep(0.001)
    return True


def damage(run_dir: Path, rng: random.Random) -> str | None:
    """Cut or change a file of a run that was killed; says which, None if it has none.

    It is `metrics.jsonl`, cut in the middle of a line, or any file of the newest
    checkpoint, cut or with another bit.
    """
    cut = rng.random() < 2 / 3
    if cut and rng.random() < 1 / 2:
        files = [run_dir / "metrics.jsonl"]
    else:
        # With an older one left: else the run is refused until it is put back.
        saved = sorted((run_dir / "checkpoints").glob("[0-9]" * 10))
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
    name = file.relative_to(run_dir).as_posix()
    return f"{name} {'cut at' if cut else 'changed in'} byte {place}"


def differences(whole: Path, run_dir: Path) -> list[str]:
    """Names of the files of two runs that differ, measured times apart."""
    names = ("certificate.jsonl", "params.safetensors")
    found = [n for n in names if (whole / n).read_bytes() != _content(run_dir / n)]
    if _timeless(whole) != _timeless(run_dir):
        found.append("metrics.jsonl")
    return found


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _timeless(run_dir: Path) -> list[dict[str, object]]:
    times = ("images_per_second", "seconds")
    return [
        {name: value for name, value in line.items() if name not in times}
        for line in read_metrics(run_dir)
    ]


def _end(process: subprocess.Popen[bytes]) -> str | None:
    """Wait for a run that nobody kills, and say what goes wrong."""
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "it hangs"
    finally:
        process.kill()
        process.wait()
    return f"status {status}" if status else None


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


if __name__ == "__main__":
    program = "python -m experiments.chaos"
    sys.exit(main(tyro.cli(Config, prog=program, description=__doc__)))
