"""The input gradient of a strided convolution, phase by phase of the stride.

Pixels of x with the same rest of their index by the stride see the same taps. Each such
phase is a convolution of y with those taps, without strides and zeros between. The
phases are interleaved.
"""

from dataclasses import replace
from itertools import product
from math import gcd, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._shapes import dilated
from ..algorithm import Algorithm
from ..padding import pad
from ..primitive import convolve
from ..problem import Problem
from ..transposed import transposed_kernel
from ..xla_faults import split_padding


def unsupported_reason(problem: Problem) -> str | None:
    if all(s == 1 for s in problem.strides):
        return "it needs a stride greater than 1"
    return None


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    kernel = transposed_kernel(kernel, problem.groups)
    phases = [
        [_phase(problem, axis, rest) for rest in range(stride)]
        for axis, stride in enumerate(problem.strides)
    ]
    parts = [_convolved(problem, choice, kernel, y) for choice in product(*phases)]
    return _interleaved(problem, parts)


class _Phase(NamedTuple):
    """The taps of one axis that meet pixels s*q + rest, in flipped order."""

    taps: slice
    count: int
    dilation: int
    offset: int  # y[q + offset] meets the first of them


def _phase(problem: Problem, axis: int, rest: int) -> _Phase:
    s, d = problem.strides[axis], problem.dilation[axis]
    k, low = problem.kernel_size[axis], problem.padding[axis][0]
    taps = [tap for tap in range(k) if (rest + low - tap * d) % s == 0]
    step = s // gcd(d, s)
    if not taps:
        return _Phase(slice(0, 0), 0, 1, 0)
    first = k - 1 - taps[-1]  # in the flipped kernel
    offset = (rest + low - taps[-1] * d) // s
    return _Phase(slice(first, None, step), len(taps), d // gcd(d, s), offset)


def _convolved(problem: Problem, phases: tuple[_Phase, ...], kernel, y):
    """x at the pixels of one phase in each axis: [N, *ceil(size / stride), C]."""
    size = [-(-n // s) for n, s in zip(problem.input_size, problem.strides)]
    if not all(phase.count for phase in phases):
        return jnp.zeros((problem.batch, *size, problem.in_channels), y.dtype)
    window = dilated([p.count for p in phases], [p.dilation for p in phases])
    pads = tuple(
        (-p.offset, n + p.offset + k - 1 - o)
        for p, n, k, o in zip(phases, size, window, problem.output_size)
    )
    now, left = split_padding(pads, window)
    y = pad(y, now)
    impl = "auto" if problem.impl == "polyphase" else problem.impl
    if 1 < problem.groups == problem.in_channels == problem.out_channels:
        impl = "depthwise"
    part = replace(
        problem,
        op="forward",
        input_size=y.shape[1:-1],
        output_size=tuple(size),
        kernel_size=tuple(p.count for p in phases),
        in_channels=problem.out_channels,
        out_channels=problem.in_channels,
        strides=(1,) * problem.rank,
        padding=left,
        dilation=tuple(p.dilation for p in phases),
        dtype=y.dtype,
        output_dtype=problem.dtype,
        # XLA makes one pass of element-wise phases and their interleaving.
        impl=impl,
    )
    return convolve(part, y, kernel[tuple(p.taps for p in phases)])


def _interleaved(problem: Problem, parts: list[jax.Array]) -> jax.Array:
    """Put pixel q of phase r at s*q + r, in every axis."""
    rank, strides = problem.rank, problem.strides
    x = jnp.stack(parts, axis=-2)
    x = x.reshape(*x.shape[: rank + 1], *strides, x.shape[-1])
    order = [0]
    for axis in range(rank):
        order += [1 + axis, 1 + rank + axis]
    x = x.transpose(*order, 1 + 2 * rank)
    sizes = [x.shape[1 + 2 * i] * s for i, s in enumerate(strides)]
    x = x.reshape(x.shape[0], *sizes, x.shape[-1])
    return x[(slice(None), *map(slice, problem.input_size))]


POLYPHASE = Algorithm(
    "polyphase",
    unsupported_reason,
    input_gradient=input_gradient,
    operations=lambda problem: 4 * prod(problem.strides),
)
