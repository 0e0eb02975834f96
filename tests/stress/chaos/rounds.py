"""Rounds of chaos: each is a run that must end as one that was left alone."""

import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jcnn.runs import Count, refuses

from .comparison import differences
from .data_set import FORMATS
from .hits import draw_aim, hit, wait_for
from .job import Job
from .mishaps import MISHAPS
from .runs import PATIENCE, Run, new_run, write_place


@dataclass(frozen=True)
class Config:
    rounds: Count = 100
    """How many runs are killed."""
    epochs: Count = 4
    """Epochs of each."""
    seed: int = 0
    """Decides where they are killed and what is done to them, but for the machine's
    part."""
    jobs: Count = 1
    """Rounds at the same time."""
    processes: Count = 1
    """How many processes train each run, with a device each."""


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
    place = Path(tempfile.mkdtemp(prefix="chaos-"))
    write_place(place)
    new = partial(new_run, place, epochs=config.epochs, processes=config.processes)
    seconds = measure_whole(place, new)
    do = partial(do_round, place, new, seconds, config.seed)
    totals, failed = Counter(), []
    with ThreadPoolExecutor(config.jobs) as pool:
        for number, outcome in enumerate(pool.map(do, range(config.rounds))):
            totals.update(event.partition(":")[0] for event in outcome.events)
            told = "; ".join(outcome.wrong) or "identical"
            print(f"round {number}: {', '.join(outcome.events)}: {told}", flush=True)
            if outcome.wrong:
                failed.append(place / f"round-{number}")
    print(summary(config.rounds, len(failed), totals))
    if failed:
        print(f"compare {place / 'whole'} with:", *failed)
        return 1
    shutil.rmtree(place)
    return 0


def summary(rounds: int, failed: int, totals: Counter[str]) -> str:
    """One line of all that was done.

    >>> summary(2, 1, Counter({"kill": 3, "tfrecord": 1, "other model": 1}))
    '1 of 2 identical (1 from TFRecord files); 3 kills, of which 0 inside a checkpoint
    write; 0 stops by SIGTERM; 0 damaged files; 0 times moved data; refused, and nothing
    changed: 0 starts with unreadable checkpoints, 1 with another model, 0 with other
    source'
    """
    return (
        f"{rounds - failed} of {rounds} identical ({totals['tfrecord']} from TFRecord "
        f"files); {totals['kill'] + totals['kill in a write']} kills, of which "
        f"{totals['kill in a write']} inside a checkpoint write; "
        f"{totals['stop']} stops by SIGTERM; {totals['damage']} damaged files; "
        f"{totals['moved data']} times moved data; refused, and nothing changed: "
        f"{totals['unreadable']} starts with unreadable checkpoints, "
        f"{totals['other model']} with another model, "
        f"{totals['other source']} with other source"
    )


def measure_whole(place: Path, new: Callable[[str, str], Run]) -> float:
    """Two runs that nobody kills, `whole` and `again`, of files in two formats.

    Args:
        place: Where they are.
        new: Returns a run, by its name and format.

    Returns:
        Seconds that the second one works on its folder.

    Raises:
        RuntimeError: If they fail or differ: then there is nothing to compare with.
    """
    began = 0.0
    for name, form in zip(("whole", "again"), FORMATS, strict=True):
        run = new(name, form)
        job = run.start()
        wait_for("begin", 1, job, run.folder)
        began = time.monotonic()
        wrong = _end(job)
        if wrong:
            raise RuntimeError(f"{wrong}, see {run.log}")
    seconds = time.monotonic() - began
    wrong = differences(place / "whole", place / "again")
    if wrong:
        raise RuntimeError(f"two whole runs differ in {wrong}, see {place}")
    return seconds


def do_round(
    place: Path, new: Callable[[str, str], Run], seconds: float, seed: int, number: int
) -> Outcome:
    """Kill a new run a few times, let it end, and compare it with the whole one.

    Args:
        place: Has the whole run; what differs from it stays there.
        new: Returns a run, by its name and format.
        seconds: Time that it takes, beside its start.
        seed: Decides what is done, together with the next one.
        number: That of the round.
    """
    rng = random.Random(f"{seed}, {number}")
    form = rng.choice(FORMATS)
    run = new(f"round-{number}", form)
    events = [form, *_hardships(run, rng, seconds)]
    if events[-1].startswith("failure"):
        wrong = [events.pop()]
    elif wrong := _end(run.start()):
        wrong = [wrong]
    else:
        wrong = differences(place / "whole", run.folder)
    if not wrong:
        run.remove()
    return Outcome(events, wrong)


def _hardships(run: Run, rng: random.Random, seconds: float) -> list[str]:
    """Hit a run one to three times, with mishaps in between; says what happened.

    The last one tells whether it is a failure.
    """
    events = []
    times = rng.randint(1, 3)
    for aim in [draw_aim(rng, seconds, run.processes) for _ in range(times)]:
        events.append(hit(run.start(), run.folder, aim))
        if events[-1].startswith(("end", "failure")):
            return events
        while rng.random() < 3 / 5:
            (mishap,) = rng.choices([*MISHAPS], [*MISHAPS.values()])
            if event := mishap(run, rng):
                events.append(event)
                if event.startswith("failure"):
                    return events
    return events


def _end(job: Job) -> str | None:
    """Wait for a run that nobody kills, and say what goes wrong."""
    try:
        status = job.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "it hangs"
    finally:
        job.kill()
    return f"status {status}" if status else None
