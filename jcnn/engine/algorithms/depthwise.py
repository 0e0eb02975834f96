"""Depthwise convolution as a sum over taps: the image moved by each, times its weight.

With one channel a group there is no matrix product to be had. What is left are products
element by element, which XLA fuses into one pass over memory.
"""

from functools import reduce
from math import prod
from operator import add

import jax
import jax.numpy as jnp
from jax import lax

from ..._dtypes import wide
from ...im2col import window_taps
from ..blocks import blocks_of
from ..mirror import mirrored
from ..padding import pad_now
from ..problem import Problem

BLOCK_LINES = 28  # rows of all images of a block: what is added up in one pass


def refusal(problem: Problem) -> str | None:
    if problem.groups != problem.in_channels:
        return (
            "it needs as many groups as channels, "
            f"not {problem.groups} for {problem.in_channels} channels"
        )
    if problem.face == "x" and any(s != 1 for s in problem.strides):
        return f"its gradient to the input needs strides 1, not {problem.strides}"
    return None


def forward(problem: Problem, x: jax.Array, w: jax.Array) -> jax.Array:
    x = lax.optimization_barrier(pad_now(_repeated(problem, x), problem.padding))
    taps = window_taps(x, problem.kernel_size, problem.strides, problem.dilation)
    return _weighted_sum(taps, w)


def input_gradient(problem: Problem, w: jax.Array, y: jax.Array) -> jax.Array:
    """The tap sum of y with the turned kernel, feature by feature; then channels."""
    mirror = mirrored(problem)
    y = lax.optimization_barrier(pad_now(y, mirror.padding))
    taps = window_taps(y, problem.kernel_size, mirror.strides, problem.dilation)
    x = _weighted_sum(taps, lax.rev(w, range(problem.rank)))
    multiplier = problem.out_channels // problem.in_channels
    if multiplier == 1:
        return x
    return x.reshape(*x.shape[:-1], problem.in_channels, multiplier).sum(-1)


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    blocks = blocks_of(problem, BLOCK_LINES * prod(problem.output_size[1:]))

    def block(x, y):
        taps = window_taps(x, problem.kernel_size, problem.strides, problem.dilation)
        lines = [divmod(i, blocks.rows) for i in range(blocks.images * blocks.rows)]
        # Written out line by line, so that XLA adds whole lines and not single values.
        return jnp.stack(
            [reduce(add, (_wide(tap[i]) * _wide(y[i]) for i in lines)) for tap in taps]
        )

    total = blocks.sum(block, _repeated(problem, x), y)
    w = total.sum(axis=tuple(range(1, problem.rank)))
    return w.reshape(problem.shape("w"))


def _repeated(problem: Problem, x):
    """Each channel once for every feature that sees it."""
    multiplier = problem.out_channels // problem.in_channels
    return x if multiplier == 1 else jnp.repeat(x, multiplier, axis=-1)


def _weighted_sum(taps: list[jax.Array], w: jax.Array) -> jax.Array:
    weights = w.reshape(len(taps), *[1] * (taps[0].ndim - 1), w.shape[-1])
    products = (_wide(tap) * _wide(weight) for tap, weight in zip(taps, weights))
    return reduce(add, products)


def _wide(a):
    """Short floats are summed in float32."""
    return a.astype(wide(a.dtype))
