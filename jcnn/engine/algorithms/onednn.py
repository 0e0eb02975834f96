"""oneDNN's direct convolution: forward, and both gradients as forward convolutions.

The gradient to the input is the convolution of y with the kernel turned round. The
gradient to the kernel sums over images, as a convolution sums over its channels: so
images become the channels of x, and y is the kernel. The channels of x are laid along
one more spatial axis, over which the window does not move; without that a product would
have as few rows as the kernel has columns.
"""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..._dtypes import wide, widest
from ..._shapes import Pairs
from ...im2col import window_patches
from .. import onednn
from ..algorithm import Algorithm
from ..blocks import Blocks, even
from ..mirror import mirrored, turned
from ..padding import pad_now
from ..problem import Problem

BLOCK_BYTES = 3 << 19  # of x and y: what stays in a core's cache while it is summed
LEAST_TERMS = 64  # bytes, a line of the cache, of what a product sums over
MOST_IMAGES = 4096  # of a block: over them it sums
FULL_ROWS = 8  # of a product's left side: fewer channels are joined by taps


def unsupported_reason(problem: Problem) -> str | None:
    problem = problem.one_model()
    if problem.face == "w":
        if problem.groups > 1 or problem.rank > 2:
            return "it computes gradients to the kernel of 1 group and up to 2 axes"
        blocks = _blocks(problem)
        _, pads = _pads(problem, blocks)
        dtype = widest(problem.dtype, problem.output_dtype)  # what both come in
        return onednn.unsupported_reason(_of_block(problem, blocks, pads, dtype))
    if problem.face == "x" and any(s > 1 for s in problem.strides):
        return "it computes gradients to the input only without strides"
    return onednn.unsupported_reason(
        mirrored(problem) if problem.face == "x" else problem
    )


def forward(problem: Problem, x: jax.Array, w: jax.Array) -> jax.Array:
    return onednn.convolution(problem, x, w)


def input_gradient(problem: Problem, w: jax.Array, y: jax.Array) -> jax.Array:
    return onednn.convolution(mirrored(problem), y, turned(w, problem.groups))


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    blocks, kept = _blocks(problem), _kept(problem)
    now, left = _pads(problem, blocks)
    of_block = _of_block(problem, blocks, left, x.dtype)

    def block(x, y):
        x = pad_now(x, now)
        if kept < problem.rank:
            ones = (1,) * kept
            x = window_patches(
                x,
                ones + problem.kernel_size[kept:],
                ones + problem.strides[kept:],
                ones + problem.dilation[kept:],
            )
        x = jnp.moveaxis(x, 0, -1)[None]
        y = jnp.expand_dims(y, -2)
        return onednn.convolution(of_block, x, y, inputs_first=True)

    return blocks.sum(block, x, y, padded=False).reshape(problem.shape("w"))


def _kept(problem: Problem) -> int:
    """How many spatial axes stay as they are; taps of the others become channels."""
    kept, channels = problem.rank, problem.in_channels
    while kept and (channels < FULL_ROWS or problem.kernel_size[kept - 1] == 1):
        kept -= 1
        channels *= problem.kernel_size[kept]
    return kept


def _pads(problem: Problem, blocks: Blocks) -> tuple[Pairs, Pairs]:
    """What a block is padded with (or cropped by) at once, and what oneDNN pads."""
    kept = _kept(problem)
    pads = list(blocks.pads)
    if blocks.row_blocks > 1:
        pads[0] = (0, 0)
    left = [(low, max(high, 0)) for low, high in pads[:kept]]
    now = [(0, min(high, 0)) for _, high in pads[:kept]]
    return (*now, *pads[kept:]), (*left, *[(0, 0)] * (problem.rank - kept))


def _of_block(
    problem: Problem, blocks: Blocks, pads: Pairs, dtype: DTypeLike
) -> Problem:
    """The forward convolution that gives a block's part of the gradient."""
    kept = _kept(problem)
    ones = (1,) * (problem.rank - kept)
    positions = (blocks.rows, *problem.output_size[1:])
    channels = problem.in_channels * prod(problem.kernel_size[kept:])
    seen = [
        (o - 1) * s + k - sum(pair)
        for o, s, k, pair in zip(positions, problem.strides, problem.window, pads)
    ]
    return replace(
        problem,
        face="y",
        batch=1,
        input_size=(*seen[:kept], *positions[kept:], channels),
        output_size=(*problem.kernel_size[:kept], *ones, channels),
        kernel_size=(*positions, 1),
        in_channels=blocks.images,
        strides=(*problem.dilation[:kept], *ones, 1),
        padding=(*pads, (0, 0)),
        dilation=(*problem.strides[:kept], *ones, 1),
        dtype=dtype,
        output_dtype=wide(dtype),
    )


def _blocks(problem: Problem) -> Blocks:
    """Some images, of as many rows as stay in the cache, if that is a window's."""
    row_bytes = jnp.dtype(problem.dtype).itemsize * prod(problem.output_size[1:])
    x_row = row_bytes * problem.in_channels * prod(problem.strides[1:])
    y_row = row_bytes * problem.out_channels
    image = problem.output_size[0] * (problem.strides[0] * x_row + y_row)
    least = LEAST_TERMS // jnp.dtype(problem.dtype).itemsize
    images = min(max(BLOCK_BYTES // image, least), MOST_IMAGES, problem.batch)
    left = BLOCK_BYTES // images - (problem.window[0] - 1) * x_row
    rows = max(left // (problem.strides[0] * x_row + y_row), problem.window[0])
    height = problem.output_size[0]
    if rows > height // 2:  # what a cut saves of the cache it costs in rows seen twice
        rows = height
    return Blocks(problem, even(problem.batch, images), even(height, rows))


def _operations(problem: Problem) -> int:
    if problem.face != "w":
        return 1
    return prod(problem.kernel_size[_kept(problem) :])


def _temporary_bytes(problem: Problem) -> int:
    if problem.face != "w":
        return 0
    joined = prod(problem.kernel_size[_kept(problem) :])
    return 2 * joined * _blocks(problem).bytes


ONEDNN = Algorithm(
    "onednn",
    unsupported_reason,
    forward,
    input_gradient,
    kernel_gradient,
    operations=_operations,
    temporary_bytes=_temporary_bytes,
    portable=False,
)
