"""Sample several jobs, each in fresh processes, in turn: A B C, A B C, …"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .peers import PEERS, Name
from .peers.workload import AnyModel, Dtype
from .worker import Sample

# Every process compiles anew.
_ENVIRONMENT = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


class Job(NamedTuple):
    """A train step to measure, with or without `accelerate()` and `keep_memory()`."""

    name: Name
    model: AnyModel
    accelerated: bool = False
    keep_memory: bool = False
    dtype: Dtype = "float32"
    examples: int | None = None  # None: the model's own number


def those_installed(names: Iterable[Name]) -> list[Name]:
    """Return the peers that are installed, and print which are not."""
    for name in names:
        if not PEERS[name].installed:
            print(f"{name} is left out: {PEERS[name].package} is not installed.\n")
    return [name for name in names if PEERS[name].installed]


def sample_in_turn(
    jobs: Iterable[Job], *, rounds: int, seconds: float
) -> dict[Job, Sample]:
    """Measure every job, and combine its rounds by `over_rounds`.

    Args:
      jobs: Jobs in the order of each round. A job that fails is reported and skipped.
      rounds: Processes per job, at least 1.
      seconds: Seconds of steps per process.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    samples: dict[Job, list[Sample]] = {job: [] for job in jobs}
    for i in range(rounds):
        for job in list(samples):
            print(f"round {i + 1} of {rounds}: {job.name} {job.model}", file=sys.stderr)
            try:
                samples[job].append(_sample(job, seconds))
            except subprocess.CalledProcessError as error:
                reason = error.stderr.strip().splitlines()[-1:]
                print(f"{job.name} {job.model} failed: {' '.join(reason)}\n")
                del samples[job]
    return {job: over_rounds(its_samples) for job, its_samples in samples.items()}


def over_rounds(samples: list[Sample]) -> Sample:
    """Return the smallest minimum and the medians of everything else.

    >>> over_rounds([Sample(1, 2, 9, 9, 7, 3, 1), Sample(3, 2, 5, 9, 7, 3, 1)])[:3]
    (2.0, 2.0, 5)
    """
    medians = Sample(*map(statistics.median, zip(*samples)))
    return medians._replace(minimum_ms=min(s.minimum_ms for s in samples))


def _sample(job: Job, seconds: float) -> Sample:
    arguments = [job.name, job.model, str(seconds), job.dtype]
    arguments += ["accelerated"] if job.accelerated else []
    arguments += ["keep-memory"] if job.keep_memory else []
    arguments += [] if job.examples is None else [f"examples={job.examples}"]
    process = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.worker", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | _ENVIRONMENT,
        cwd=Path(__file__).parents[2],
    )
    return Sample(**json.loads(process.stdout.splitlines()[-1]))
