"""The number of XLA's CPU threads, which the bits of float32 sums depend on.

The number of cores does not matter: 8 threads give the same bits on 1 core.
"""

import math
import os
from pathlib import Path

from .._jax_internals import backends_are_initialized
from .config import OptionError


def use_threads(count: int | None) -> int:
    """Set the number of threads before the first computation, and return it.

    Args:
        count: Number of threads; None for that of the variable NPROC, or else
            `usable_cores`.

    Raises:
        OptionError: If this process computes with another number already.

    >>> use_threads(None) >= 1
    True
    """
    current = xla_threads()
    begun = backends_are_initialized()
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
    """Return the number of threads that XLA makes by itself."""
    return _asked() or _seen_cores() or 1


def usable_cores() -> int | None:
    """Return how many cores this process may use: its affinity, or a lower quota."""
    seen, quota = _seen_cores(), cpu_quota()
    if seen is None or quota is None:
        return seen
    return min(seen, max(1, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the lowest CPU quota of this process's control groups, in cores.

    Args:
        root: The folder of `proc` and `sys`.

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
    """Return the quota of one group, if it has one."""
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
