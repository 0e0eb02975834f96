"""Text that all benchmarks print: the machine, its versions, Markdown tables."""

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("jax", "jaxlib", "jcnn", "flax", "equinox", "dm-haiku", "keras", "torch")


def environment() -> str:
    """Return one line with the processors, versions and XLA_FLAGS, if any.

    >>> "processors, Python 3." in environment()
    True
    """
    parts = [f"{processors()} processors", f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"no {package}")
    if flags := os.environ.get("XLA_FLAGS"):
        parts.append(f"XLA_FLAGS={flags}")
    return ", ".join(parts)


def processors() -> int:
    """Return the number of processors that this process may use.

    >>> processors() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(table(["shape", "ms"], [["8x8", "1.5"]]))
    | shape | ms |
    |---|---|
    | 8x8 | 1.5 |
    """
    lines = [header, *rows]
    uneven = [line for line in lines if len(line) != len(header)]
    if uneven:
        raise ValueError(f"rows must have {len(header)} cells, got {uneven[0]}")
    texts = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(header), *texts[1:]])


def ratio(value: float, base: float | None) -> str:
    """Return `value / base` with two decimals; "" without a base.

    >>> ratio(3.0, 2.0), ratio(3.0, None)
    ('1.50', '')
    """
    return "" if base is None else f"{value / base:.2f}"
