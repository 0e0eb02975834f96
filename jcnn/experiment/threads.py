"""How many threads XLA's computations share on CPUs: the order of sums depends on it.

Long sums and products are divided among the threads, and float32 sums depend on how. It
is the number of threads that counts, not that of the cores they run on: a run of 8
threads has the same bits on 1 core, only later.
"""

import os

from jax._src import xla_bridge

from .config import OptionError


def use_threads(count: int | None) -> int:
    """Let the computations on CPUs share so many threads.

    Call it before the first computation: XLA makes its threads once.

    Args:
        count: Number of threads; None for as many as XLA takes by itself.

    Returns:
        The number.

    Raises:
        OptionError: If this process computes with another number already.

    >>> use_threads(None) >= 1
    True
    """
    current = _threads()
    if count is None or count == current:
        return current
    if xla_bridge.backends_are_initialized():
        raise OptionError(
            f"--threads: {count} is not allowed in a process that has begun to compute "
            f"with {current}"
        )
    os.environ["NPROC"] = str(count)  # which XLA asks for before it counts the cores
    return count


def usable_cores() -> int | None:
    """How many cores this process may use, where the system tells.

    >>> usable_cores() != 0
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _threads() -> int:
    """As many as XLA takes: what NPROC says, else the cores this process may use."""
    asked = os.environ.get("NPROC", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return usable_cores() or 1
