"""The processor: its name, instructions and vector width."""

import hashlib
import platform
from functools import cache
from pathlib import Path


@cache
def instructions() -> frozenset[str]:
    """Return the names of its instruction sets on Linux, elsewhere none."""
    return frozenset(
        word
        for line in _lines()
        if line.startswith(("flags", "Features"))
        for word in line.partition(":")[2].split()
    )


def lanes() -> int:
    """Return the number of float32 numbers in a vector: 4, 8 or 16."""
    found = instructions()
    return 16 if "avx512f" in found else 8 if "avx2" in found else 4


def model() -> str:
    """Return its name."""
    names = (line for line in _lines() if line.startswith("model name"))
    name = next(names, "").partition(":")[2].strip()
    return name or platform.processor() or platform.machine() or "not known"


def signature() -> str:
    """Return 12 digits that differ between processors with other instructions."""
    text = "\n".join([platform.machine(), platform.processor(), *_lines()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _lines() -> list[str]:
    """Return Linux's lines on model and instructions, each once."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return []
    keys = ("model name", "flags", "Features")
    return sorted({line for line in lines if line.startswith(keys)})
