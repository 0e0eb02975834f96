"""How many threads XLA's computations share on CPUs: the order of sums depends on it.

Long sums and products are divided among the threads, and float32 sums depend on how. It
is the number of threads that counts, not that of the cores they run on: a run of 8
threads has the same bits on 1 core, only later.
"""

import math
import os
from pathlib import Path

from jax._src import xla_bridge

from .config import OptionError


def use_threads(count: int | None) -> int:
    """Let the computations on CPUs share so many threads.

    Call it before the first computation: XLA makes its threads once.

    Args:
        count: Number of threads; None for what NPROC says, or one for each core that
            this process may use, see `usable_cores`.

    Returns:
        The number.

    Raises:
        OptionError: If this process computes with another number already.

    >>> use_threads(None) >= 1
    True
    """
    current = xla_threads()
    begun = xla_bridge.backends_are_initialized()
    if count is None:
        count = current if begun or _asked() else usable_cores() or current
    if count == current:
        return current
    if begun:
        raise OptionError(
            f"--threads must be {current}, with which this process computes already, "
            f"got {count}"
        )
    os.environ["NPROC"] = str(count)  # which XLA asks for before it counts the cores
    return count


def xla_threads() -> int:
    """As many as XLA takes: what NPROC says, else all cores that it may run on.

    >>> xla_threads() >= 1
    True
    """
    return _asked() or _seen_cores() or 1


def usable_cores() -> int | None:
    """How many cores this process may use, where the system tells.

    These are the ones that it may run on, or fewer if a container's quota gives it the
    time of fewer: more threads than that would only be halted by turns.

    >>> usable_cores() != 0
    True
    """
    seen, quota = _seen_cores(), cpu_quota()
    if seen is None or quota is None:
        return seen
    return min(seen, max(1, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many cores' time Linux's control groups give this process, if they limit it.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        The least quota of the process's group and those above it; None without any.

    >>> cpu_quota(Path("nowhere"))
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return None
    top = root / "sys/fs/cgroup"
    quotas = []
    for line in lines:  # as 0::/group of version 2, 4:cpu,cpuacct:/group of version 1
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = top / "cpu" if controllers else top
        # A container may see its own group as the top, or under its name outside.
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            quotas += _quota(folder)
            if folder == mount:
                break
    return min(quotas, default=None)


def _quota(group: Path) -> list[float]:
    """What one group says; [] if it has no quota or is not there."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        found = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # ValueError: no quota is "max"
        return []
    return [found] if found > 0 else []  # or -1


def _asked() -> int | None:
    asked = os.environ.get("NPROC", "")
    return int(asked) or None if asked.isdecimal() else None


def _seen_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
