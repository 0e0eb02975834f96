"""A trial of oneDNN's convolution, in a process that may die.

It prints "passed" if drawn convolutions and gradients of a dtype, the first of those in
`tests/stress/onednn.py`, are lax's.
"""

from functools import partial
from itertools import count, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._shapes import num_positions
from ..algorithms.lax import LAX
from ..algorithms.onednn import ONEDNN
from ..problem import Problem

DRAWS = 60
UNITS = 4  # of eps times the largest sum of absolute products


def draw(rng: np.random.Generator) -> Problem:
    """Draw a problem of any kind; oneDNN does not support all of them."""
    depthwise = rng.random() < 0.2
    rank = 2 if depthwise else int(rng.integers(0, 4))
    widths = (1, 1, 1) if rng.random() < 0.1 else (5, 3, 3)
    kernel, strides, dilation = (_sizes(rng, rank, 1, most) for most in widths)
    if depthwise:
        dilation = (1,) * rank
    window = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = tuple(int(rng.integers(1, 9)) + w for w in window)
    op = str(rng.choice(["forward", "forward", "input_gradient", "kernel_gradient"]))
    # Gradients are asked for with padding within the window alone.
    most = 1 if op == "forward" else -1
    widest = 3 if depthwise else 99
    pads: Any = tuple(_sizes(rng, 2, 0, min(w + most, widest)) for w in window)
    groups = int(rng.choice([2, 3, 8, 24] if depthwise else [1, 1, 1, 2, 3, 8]))
    groups = groups if rank else 1
    each = [1] if depthwise else [1, 1, 2, 5, 16, 32]
    inputs, outputs = (groups * int(rng.choice(each)) for _ in range(2))
    dtype = str(rng.choice(["float32", "float32", "bfloat16", "float16"]))
    return Problem(
        op=op,  # pyright: ignore
        batch=int(rng.choice([1, 2, 3, 4, 17, 40])),
        input_size=size,
        output_size=num_positions(size, window, strides, pads),
        kernel_size=kernel,
        in_channels=inputs,
        out_channels=outputs,
        strides=strides,
        padding=pads,
        dilation=dilation,
        groups=groups,
        dtype=dtype,
        output_dtype=str(rng.choice([dtype, "float32"])) if op == "forward" else dtype,
    )


def errors(problems: list[Problem], rng: np.random.Generator) -> list[float]:
    """Return the largest error of each problem, divided by the allowed one."""
    operands = [
        [jnp.asarray(rng.normal(size=p.shape(name)), p.dtype) for name in p.operands]
        for p in problems
    ]

    @partial(jax.jit, static_argnums=0)
    def computed(algorithm, operands):
        pairs = zip(problems, operands, strict=True)
        return [algorithm.compute(p, *pair) for p, pair in pairs]

    found = computed(ONEDNN, operands)
    wide = jax.tree.map(lambda a: a.astype("float32"), operands)
    expected = computed(LAX, wide)
    most = computed(LAX, jax.tree.map(jnp.abs, wide))
    shares = []
    for problem, a, b, m in zip(problems, found, expected, most, strict=True):
        allowed = UNITS * 2.0**-23
        if problem.dtype != "float32":
            allowed += float(jnp.finfo(problem.dtype).eps)
        off = jnp.abs(a.astype("float32") - b).max()
        # Where all windows see padding alone it would be 0 / 0.
        shares.append(float(off / jnp.maximum(m.max() * allowed, 1e-30)))
    return shares


def _sizes(rng: np.random.Generator, count: int, low: int, high: int):
    return tuple(int(n) for n in rng.integers(low, high + 1, count))


def main(dtype: str) -> int:
    drawn = (draw(np.random.default_rng([0, number])) for number in count())
    of_dtype = islice((problem for problem in drawn if problem.dtype == dtype), DRAWS)
    supported = [problem for problem in of_dtype if ONEDNN.supports(problem)]
    if not supported or not max(errors(supported, np.random.default_rng(0))) <= 1:
        return 1
    print("passed")
    return 0
