"""Depthwise convolution as a sum over taps: the image moved by each, times its weight.

One channel a group leaves products element by element, which XLA fuses into one pass
over memory.
"""

from functools import reduce
from math import prod
from operator import add

import jax
import jax.numpy as jnp
from jax import lax

from ..._dtypes import wide
from ..._im2col import window_taps
from ..algorithm import Algorithm
from ..blocks import Blocks, blocks_of
from ..padding import pad
from ..problem import Problem
from ..sharding import vary_alike
from ..sums import total
from ..transposed import transposed

BLOCK_BYTES = 2 << 20  # of y: what stays in the cache while all taps see it
MOST_UNROLLED = 27  # operations; more are a loop over the rows of the kernel


def unsupported_reason(problem: Problem) -> str | None:
    if problem.groups != problem.in_channels:
        return (
            "it needs as many groups as channels, "
            f"not {problem.groups} for {problem.in_channels} channels"
        )
    if problem.op == "input_gradient" and any(s != 1 for s in problem.strides):
        return f"its gradient to the input needs strides 1, not {problem.strides}"
    return None


def forward(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    x = lax.optimization_barrier(pad(_repeated(problem, x), problem.padding))
    return _tap_sum(problem, x, kernel)


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    """Return the tap sum of y and the flipped kernel, then summed by channel."""
    as_forward = transposed(problem)
    y = lax.optimization_barrier(pad(y, as_forward.padding))
    x = _tap_sum(as_forward, y, lax.rev(kernel, range(problem.rank)))
    multiplier = problem.out_channels // problem.in_channels
    if multiplier == 1:
        return x
    return x.reshape(*x.shape[:-1], problem.in_channels, multiplier).sum(-1)


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    blocks, axes = _blocks(problem), tuple(range(problem.rank + 1))

    def block(x, y):
        x, y = lax.optimization_barrier((x, _wide(y)))

        def sums(row):
            taps = _taps_of_row(problem, x, row)
            return jnp.concatenate([total(_wide(tap) * y, axes) for tap in taps])

        rows = problem.kernel_size[0]
        if _unrolled(problem):
            return jnp.stack([sums(row) for row in range(rows)])
        return lax.map(sums, jnp.arange(rows, dtype=jnp.int32))

    kernel = blocks.sum(block, _repeated(problem, x), y)
    return kernel.reshape(problem.shape("kernel"))


def _tap_sum(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the sum of each tap's view of a padded image times its weight."""

    def row_sum(row):
        kernel_row = lax.dynamic_index_in_dim(kernel, row, keepdims=False)
        weights = kernel_row.reshape(-1, *[1] * (x.ndim - 1), kernel.shape[-1])
        taps = _taps_of_row(problem, x, row)
        products = (_wide(tap) * _wide(v) for tap, v in zip(taps, weights))
        return reduce(add, products)

    if _unrolled(problem):
        return reduce(add, map(row_sum, range(problem.kernel_size[0])))
    zero = jnp.zeros_like(jax.eval_shape(row_sum, jnp.int32(0)))
    return lax.fori_loop(
        0, problem.kernel_size[0], lambda i, t: t + row_sum(i), vary_alike(zero, x)[0]
    )


def _taps_of_row(problem: Problem, x: jax.Array, row) -> list[jax.Array]:
    """Return the view of each tap of one kernel row, at all positions."""
    positions = (x.shape[1] - problem.window[0]) // problem.strides[0] + 1
    seen = (positions - 1) * problem.strides[0] + 1
    x = lax.dynamic_slice_in_dim(x, row * problem.dilation[0], seen, axis=1)
    return window_taps(
        x, (1, *problem.kernel_size[1:]), problem.strides, problem.dilation
    )


def _unrolled(problem: Problem) -> bool:
    """Return whether every tap is an operation of its own: XLA fuses them."""
    return _of_taps(problem) <= MOST_UNROLLED


def _of_taps(problem: Problem) -> int:
    """Return the operations, if all are unrolled: a sum over positions is three."""
    return prod(problem.kernel_size) * (3 if problem.op == "kernel_gradient" else 1)


def _operations(problem: Problem) -> int:
    operations = _of_taps(problem)
    return operations if _unrolled(problem) else operations // problem.kernel_size[0]


def _temporary_bytes(problem: Problem) -> int:
    if problem.op == "kernel_gradient":
        blocks = _blocks(problem)
    else:
        problem = transposed(problem) if problem.op == "input_gradient" else problem
        blocks = Blocks(problem, problem.batch, problem.output_size[0])
    return blocks.bytes * (problem.out_channels // problem.in_channels or 1)


def _blocks(problem: Problem) -> Blocks:
    position = problem.out_channels * jnp.dtype(problem.dtype).itemsize
    return blocks_of(problem, max(BLOCK_BYTES // position, 1))


def _repeated(problem: Problem, x):
    """Return each channel once for every feature that sees it."""
    multiplier = problem.out_channels // problem.in_channels
    return x if multiplier == 1 else jnp.repeat(x, multiplier, axis=-1)


def _wide(a):
    return a.astype(wide(a.dtype))


DEPTHWISE = Algorithm(
    "depthwise",
    unsupported_reason,
    forward,
    input_gradient,
    kernel_gradient,
    operations=_operations,
    temporary_bytes=_temporary_bytes,
    joins_models=True,
)
