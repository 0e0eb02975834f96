"""A report on convolutions on this machine with this jaxlib, and settings to make.

`python -m jcnn doctor` prints it. What may die or hang is asked in processes of its
own, and this one starts no backend of JAX.
"""

import json
import os
import platform
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
from jaxlib.version import __version__ as JAXLIB

from .. import __version__
from ..engine.children import Ended, run
from ..engine.onednn.support import unavailable_reason
from ..engine.processor import instructions, model
from ..runs.output import printable
from ..runs.threads import usable_cores, xla_threads
from .faults import FAULTS, Fault, program, verdict
from .speed import KERNEL, X

_SECONDS = 26  # for all questions, of which the first get not more than
_FIRST = 15
_DTYPES = ("float32", "bfloat16", "float16")
# What convolutions are written for, on x86-64 and on ARM.
_INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"),
    *("asimd", "bf16", "sve", "sme"),
)
_ENVIRONMENT = ("DNNL_", "GLIBC_", "JAX_", "LD_PRELOAD", "NPROC", "ONEDNN_", "XLA_")
_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def diagnose() -> Iterator[str]:
    """The lines of the report, each as soon as it is known, all within 30 seconds.

    >>> next(diagnose()).startswith("jcnn ")
    True
    """
    yield (
        f"jcnn {__version__}, jax {jax.__version__}, jaxlib {JAXLIB}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    yield from _table(_machine())
    end = time.monotonic() + _SECONDS
    programs = [program(number) for number in range(len(FAULTS))]
    programs.append("from jcnn.doctor.report import print_reasons; print_reasons()")
    *ended, reasons = run(programs, _FIRST)
    faults = list(zip(FAULTS, map(verdict, ended)))
    yield "\nconvolutions on the CPU (on GPUs and TPUs they are lax's)"
    yield from _table([*_onednn(reasons), ("jcnn's own", "yes, for every dtype")])
    yield f"\nknown faults of jaxlib {JAXLIB} on the CPU"
    yield from _table(_row(*fault) for fault in faults)
    left = end - time.monotonic()
    (speed,) = run(["from jcnn.doctor.speed import print_times; print_times()"], left)
    yield f"\nmilliseconds, float32, {_by(X)} by {_by(KERNEL)}"
    yield from _table(_speeds(speed))
    yield "\nwhat to set before Python starts"
    advice = [f"  {setting}\n    {why}" for setting, why in _advice(faults)]
    yield from advice or ["  nothing"]


def print_reasons() -> None:
    """Print as JSON why oneDNN's convolution is not there, by dtype; null if it is."""
    print(json.dumps({dtype: unavailable_reason(dtype) for dtype in _DTYPES}))


# --- what the system tells ---


def _huge_pages() -> str | None:
    """Who is given huge pages: "always", "madvise" (who asks for them) or "never"."""
    with suppress(OSError):
        if found := re.search(r"\[(\w+)\]", Path(_HUGE_PAGES).read_text()):
            return found[1]
    return None


def _asks() -> bool:
    """Whether glibc's malloc asks for huge pages."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return bool(re.search(r"\bmalloc\.hugetlb=[12]", tunables))


def _glibc_can_ask() -> bool:
    """Since 2.35."""
    name, version = platform.libc_ver()
    numbers = re.findall(r"\d+", version)
    return name == "glibc" and [int(n) for n in numbers[:2]] >= [2, 35]


# --- lines of the report ---


def _machine() -> Iterator[tuple[str, ...]]:
    yield "processor", printable(model())
    known = [name for name in _INSTRUCTIONS if name in instructions()]
    yield "instructions", ", ".join(known) or "not known"
    threads = f"{xla_threads()} threads of XLA"
    yield "cores", f"{usable_cores()} of {os.cpu_count()}, {threads}"
    asked = ", and malloc asks for them" if _asks() else ""
    yield "huge pages", f"{_huge_pages() or 'not known'}{asked}"
    for name in sorted(os.environ):
        if name.startswith(_ENVIRONMENT):
            yield "environment", f"{name}={printable(os.environ[name])}"


def _printed(ended: Ended) -> dict[str, Any] | None:
    """The JSON that a program has printed last, if it has come so far."""
    try:
        return json.loads(ended.output.strip().rpartition("\n")[2])
    except ValueError:
        return None


def _onednn(ended: Ended) -> Iterator[tuple[str, ...]]:
    reasons = _printed(ended)
    for dtype in _DTYPES:
        if reasons is None:
            answer = f"not known: {ended.reason}"
        else:
            answer = f"no: {reasons[dtype]}" if reasons[dtype] else "yes"
        yield f"oneDNN, {dtype}", answer


def _row(fault: Fault, there: str) -> tuple[str, ...]:
    return fault.what, there, fault.issue, "jcnn avoids it" if fault.avoided else ""


def _speeds(ended: Ended) -> Iterator[tuple[str, ...]]:
    times = _printed(ended)
    if times is None:
        yield (f"not measured: {ended.reason}",)
        return
    yield "", "   lax", "  jcnn"
    for what, (theirs, ours) in times.items():
        gain = f"{theirs / ours:.1f} times as fast"
        yield what, f"{theirs:6.2f}", f"{ours:6.2f}", gain


def _advice(faults: Sequence[tuple[Fault, str]]) -> Iterator[tuple[str, str]]:
    """What is to be set before Python starts, and what for."""
    if _huge_pages() == "never":
        yield f"echo madvise > {_HUGE_PAGES}", "as root, for what comes next"
    if _huge_pages() in ("madvise", "never") and _glibc_can_ask() and not _asks():
        setting = _added("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", ":")
        yield setting, "huge pages for large arrays: train steps take 10 to 30 % less"
    remedies: dict[str, list[str]] = {}
    for fault, there in faults:
        if fault.remedy and there.startswith("yes"):
            remedies.setdefault(fault.remedy, []).append(fault.issue)
    for remedy, issues in remedies.items():
        ends = f"ends {' and '.join(issues)} in what plain jax.jit compiles"
        yield _added("XLA_FLAGS", remedy, " "), ends
    for name in ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"):
        if name in os.environ:
            yield f"unset {name}", "jcnn does without oneDNN while it is set"
    cores = usable_cores()
    if cores and xla_threads() > cores:
        yield f"NPROC={cores}", "more threads than cores wait for each other"


def _added(name: str, value: str, separator: str) -> str:
    """A variable with one value more, as a shell takes it."""
    values = [v for v in (os.environ.get(name), value) if v]
    return f"{name}={shlex.quote(printable(separator.join(values)))}"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A line for each row, further in, the columns below each other."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths))
        yield f"  {'  '.join(cells)}".rstrip()
