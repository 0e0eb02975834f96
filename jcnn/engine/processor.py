"""Which processor this is, and what it can do."""

import hashlib
import platform
from functools import cache
from pathlib import Path


@cache
def instructions() -> frozenset[str]:
    """Return the names of its instruction sets on Linux, elsewhere none.

    >>> "avx512f" in instructions() or "avx512f" not in instructions()
    True
    """
    return frozenset(
        word
        for line in _lines()
        if line.startswith(("flags", "Features"))
        for word in line.partition(":")[2].split()
    )


def lanes() -> int:
    """Return how many float32 numbers a vector has.

    >>> lanes() in (4, 8, 16)
    True
    """
    found = instructions()
    return 16 if "avx512f" in found else 8 if "avx2" in found else 4


def model() -> str:
    """Its name.

    >>> len(model()) > 0
    True
    """
    names = (line for line in _lines() if line.startswith("model name"))
    name = next(names, "").partition(":")[2].strip()
    return name or platform.processor() or platform.machine() or "not known"


def signature() -> str:
    """Differs between processors: another one may lack instructions of this one's.

    >>> len(signature())
    12
    """
    text = "\n".join([platform.machine(), platform.processor(), *_lines()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _lines() -> list[str]:
    """Return what Linux says of model and instructions, each line once."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return []
    keys = ("model name", "flags", "Features")
    return sorted({line for line in lines if line.startswith(keys)})
