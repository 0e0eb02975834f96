"""Time competing functions in turn, so that noise affects all alike."""

import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

PAUSE = 0.003  # seconds


class Times(NamedTuple):
    """Milliseconds of many calls."""

    minimum: float
    median: float


def interleaved(
    functions: dict[str, Callable[[], object]], *, seconds: float, least: int = 5
) -> dict[str, Times]:
    """Call every function in turn for `seconds` in all, at least `least` rounds.

    Idle threads of other libraries spin and slow down the next function. So each
    function is called twice after a pause and the second call is counted, and the
    order differs from round to round.
    """
    shuffle = random.Random(0).shuffle
    names = list(functions)
    samples: dict[str, list[float]] = {name: [] for name in functions}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < least or time.perf_counter() < end:
        rounds += 1
        shuffle(names)
        for name in names:
            function = functions[name]
            time.sleep(PAUSE)
            function()
            start = time.perf_counter()
            function()
            samples[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: Times(min(values), statistics.median(values))
        for name, values in samples.items()
    }
