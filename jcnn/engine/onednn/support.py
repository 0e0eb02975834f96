"""Whether oneDNN's convolution can be called in this process, and why not.

Wheels of jaxlib for Linux on x86-64 hold it, and a call that it rejects ends the
process. A jaxlib or kind of processor that is not in `TRIED` is tried once, in a
process of its own, and the user's cache keeps the answer.
"""

import os
import platform
import sys
from functools import cache
from typing import Any

import jax
from jaxlib.version import __version__ as JAXLIB

from ..._files import user_cache, write_file
from ..children import run
from ..processor import instructions, signature

# The dtypes of which thousands of configurations were drawn (tests/stress/onednn.py),
# by jaxlib's version and the widest instructions of the processor.
TRIED = {
    ("0.10.2", "avx2"): {"float32"},
    ("0.10.2", "amx_bf16"): {"float32", "bfloat16", "float16"},
}
_IN_TRIAL = "JCNN_ONEDNN_TRIAL"  # set in the process that tries it
PATIENCE = 120  # seconds that a trial may take
# A verbose oneDNN names what it computes by.
_TRIAL = f"""
import os, sys
os.environ |= {{"XLA_FLAGS": "", "ONEDNN_VERBOSE": "1", "{_IN_TRIAL}": "1"}}
from jcnn.engine.onednn.trial import main
sys.exit(main("%s"))
"""
# What its compiled convolutions need. Others may wait for ever or end the process.
_INSTRUCTIONS = {
    "float32": {"avx2"},
    "bfloat16": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
    "float16": {"avx512_fp16"},
}


@cache
def unavailable_reason(dtype: str) -> str | None:
    """Return why there is no convolution of this dtype; None if there is one."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "jaxlib has oneDNN's convolution on Linux and x86-64 only"
    if dtype not in _INSTRUCTIONS:
        return f"oneDNN's convolution is not for {dtype}"
    missing = _INSTRUCTIONS[dtype] - instructions()
    if missing:
        return f"oneDNN takes {dtype} only with {', '.join(sorted(missing))}"
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if name in os.environ:
            return f"{name} may leave oneDNN without what it needs"
    if is_tried(dtype) or _IN_TRIAL in os.environ or _passed(dtype):
        return None
    return f"a trial of {dtype} failed with jaxlib {JAXLIB} on this processor"


def keeps_programs() -> bool:
    """Return whether JAX writes compiled programs to a persistent cache.

    It must not write one with a call of oneDNN: that fails (std::bad_alloc), or ends
    the process (jaxlib 0.10.2, 0.12.0.1).
    """
    config: Any = jax.config
    enabled = config.jax_enable_compilation_cache
    return bool(enabled and config.jax_compilation_cache_dir)


def is_default() -> bool:
    """Return whether oneDNN may compute what JAX's default device does."""
    if jax.default_backend() != "cpu" or keeps_programs():
        return False
    return unavailable_reason("float32") is None


def is_tried(dtype: str) -> bool:
    """Return whether this jaxlib was tried on this kind of processor."""
    widest = ("amx_bf16", "avx512f", "avx2")
    kind = next((name for name in widest if name in instructions()), "none")
    return dtype in TRIED.get((JAXLIB, kind), ())


def _passed(dtype: str) -> bool:
    """Return whether a trial passed, now or earlier with this jaxlib."""
    path = user_cache() / "onednn" / f"{JAXLIB}-{dtype}-{signature()}"
    try:
        return path.read_text() == "passed"
    except OSError:
        passed = _try(dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, b"passed" if passed else b"failed")
    except OSError:
        pass  # it is tried again next time
    return passed


def _try(dtype: str) -> bool:
    (ended,) = run([_TRIAL % dtype], PATIENCE)
    named = ended.output.splitlines()
    waits = any(",gemm:" in line or ":gemm:" in line for line in named)
    return ended.status == 0 and named[-1:] == ["passed"] and not waits
