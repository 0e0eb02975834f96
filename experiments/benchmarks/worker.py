"""Time one peer's train step in this process; `rounds.py` starts it.

    python -m experiments.benchmarks.worker PEER MODEL SECONDS DTYPE [SETTING ...]

with the settings "accelerated", "keep-memory" and "examples=N" prints a `Sample` as a
line of JSON.
Nothing that a peer imports is imported before.
"""

import json
import statistics
import sys
import time
from importlib import import_module
from typing import NamedTuple

from .peers import PEERS

WARM_UP = 3  # runs before the clock starts, the first included
WATCHED = 10  # runs between the first loss and the last


class Sample(NamedTuple):
    """Measurements of one process."""

    import_s: float
    first_s: float  # the first run, which compiles
    minimum_ms: float
    median_ms: float
    parameters: int
    first_loss: float
    last_loss: float  # WATCHED runs later


def main(name: str, model: str, seconds: str, dtype: str, *settings: str) -> None:
    start = time.perf_counter()
    peer = import_module(f"experiments.benchmarks.peers.{PEERS[name].module}")
    import_s = time.perf_counter() - start
    if "keep-memory" in settings:
        from jcnn.runs import keep_memory

        keep_memory()
    if "accelerated" in settings:
        from jcnn.engine.acceleration import accelerate

        accelerate()
    numbers = [int(s.removeprefix("examples=")) for s in settings if "=" in s]
    step = peer.make(model, *numbers, dtype=dtype)
    start = time.perf_counter()
    losses = [step.run()]
    first_s = time.perf_counter() - start
    losses += [step.run() for _ in range(WARM_UP - 1)]
    times, end = [], time.perf_counter() + float(seconds)
    while len(losses) <= WATCHED or time.perf_counter() < end:
        start = time.perf_counter()
        losses.append(step.run())
        times.append(1e3 * (time.perf_counter() - start) / step.steps)
    sample = Sample(
        import_s,
        first_s,
        min(times),
        statistics.median(times),
        step.parameters,
        losses[0],
        losses[WATCHED],
    )
    print(json.dumps(sample._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
