"""The kernel gradient by oneDNN's forward convolution.

It sums over images, as a convolution sums over its channels: so images become the
channels of x, and y is the kernel. The channels of x are laid along one more spatial
axis, over which the window does not move; without that a product would have as few rows
as the kernel has columns. Of an image of one channel the rows are the image as each tap
sees it, and of a dense layer its features. Windows that do not overlap make it one
product of matrices as they lie, which oneDNN has for short floats. In three dimensions
the kernel's planes are taken one by one.
"""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..._dtypes import wide, widest
from ..._im2col import window_patches, window_taps
from ..._shapes import Pairs
from ..blocks import Blocks, blocks_of, even
from ..onednn import calls
from ..padding import pad
from ..problem import Problem
from . import matmul

BLOCK_BYTES = 3 << 19  # of x and y: what stays in a core's cache while it is summed
LEAST_TERMS = 64  # bytes, a line of the cache, of what a product sums over
MOST_IMAGES = 4096  # of a block: over them it sums
FULL_ROWS = 8  # of a product's left side: fewer channels are joined by taps


def unsupported_reason(problem: Problem) -> str | None:
    if _is_product(problem):
        return None
    if problem.groups > 1:
        return "it computes gradients to the kernel of 1 group"
    if problem.rank == 3:
        return unsupported_reason(_of_planes(problem))
    dtype = widest(problem.dtype, problem.output_dtype)  # what both come in
    if problem.rank == 0:
        return calls.unsupported_reason(_of_rows(problem, problem.batch, dtype))
    if problem.in_channels == 1:
        positions = _positions(_seen_by_taps(problem))
        return calls.unsupported_reason(_of_rows(problem, positions, dtype))
    blocks = _blocks(problem)
    _, pads = _pads(problem, blocks)
    return calls.unsupported_reason(_of_block(problem, blocks, pads, dtype))


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    if _is_product(problem):
        product = calls.transposed_product
        return matmul.kernel_gradient(problem, x, y, product)
    if problem.rank == 0:
        return calls.convolution(
            _of_rows(problem, len(x), x.dtype), x.T[None], y[None]
        )[0]
    if problem.rank == 3:
        return _plane_by_plane(problem, x, y)
    if problem.in_channels == 1:
        return _of_one_channel(problem, x, y)
    blocks, kept = _blocks(problem), _kept(problem)
    now, left = _pads(problem, blocks)
    of_block = _of_block(problem, blocks, left, x.dtype)

    def block(x, y):
        x = pad(x, now)
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
        return calls.convolution(of_block, x, y, inputs_first=True)

    return blocks.sum(block, x, y, padded=False).reshape(problem.shape("kernel"))


def operations(problem: Problem) -> int:
    if _is_product(problem) or problem.rank == 0:
        return 1
    if problem.rank == 3:
        return problem.kernel_size[0] * operations(_of_planes(problem))
    kept = 0 if problem.in_channels == 1 else _kept(problem)
    return prod(problem.kernel_size[kept:])


def temporary_bytes(problem: Problem) -> int:
    if _is_product(problem):
        return matmul.temporary_bytes(problem)
    if problem.rank == 0:
        return problem.batch * problem.in_channels * jnp.dtype(problem.dtype).itemsize
    if problem.rank == 3:
        planes = _of_planes(problem)
        x = prod(planes.shape("x")) * jnp.dtype(problem.dtype).itemsize
        return x + temporary_bytes(planes)
    if problem.in_channels == 1:
        return prod(problem.kernel_size) * _seen_by_taps(problem).bytes
    joined = prod(problem.kernel_size[_kept(problem) :])
    return 2 * joined * _blocks(problem).bytes


def _is_product(problem: Problem) -> bool:
    """Return whether it is one product, of a dtype of which oneDNN has it."""
    dtype = widest(problem.dtype, problem.output_dtype)
    may_be = calls.product_unsupported_reason(dtype) is None
    return may_be and matmul.unsupported_reason(problem) is None


# --- in three dimensions ---


def _plane_by_plane(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    """For each plane of the kernel the gradient of what it sees, as of images."""
    planes, ones = _of_planes(problem), (1, 1)
    (low, _), o = problem.padding[0], problem.output_size[0]
    reach = (o - 1) * problem.strides[0] + problem.window[0]
    x = pad(x, [(low, reach - low - problem.input_size[0])])
    seen = window_taps(
        x,
        (problem.kernel_size[0], *ones),
        (problem.strides[0], *ones),
        (problem.dilation[0], *ones),
    )
    y = y.reshape(planes.shape("y"))
    parts = [kernel_gradient(planes, a.reshape(planes.shape("x")), y) for a in seen]
    return jnp.stack(parts)


def _of_planes(problem: Problem) -> Problem:
    return replace(
        problem,
        batch=problem.batch * problem.output_size[0],
        input_size=problem.input_size[1:],
        output_size=problem.output_size[1:],
        kernel_size=problem.kernel_size[1:],
        strides=problem.strides[1:],
        padding=problem.padding[1:],
        dilation=problem.dilation[1:],
    )


# --- of images of one channel, and of what has no axes ---


def _of_one_channel(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    blocks = _seen_by_taps(problem)
    of_block = _of_rows(problem, _positions(blocks), x.dtype)
    window = problem.kernel_size, problem.strides, problem.dilation

    def block(x, y):
        rows = [tap.reshape(-1) for tap in window_taps(x, *window)]
        y = y.reshape(of_block.shape("kernel"))
        return calls.convolution(of_block, jnp.stack(rows)[None], y)

    return blocks.sum(block, x, y).reshape(problem.shape("kernel"))


def _seen_by_taps(problem: Problem) -> Blocks:
    """Return blocks of which what all taps see stays in the cache."""
    itemsize = jnp.dtype(problem.dtype).itemsize
    return blocks_of(problem, BLOCK_BYTES // (prod(problem.kernel_size) * itemsize))


def _positions(blocks: Blocks) -> int:
    return blocks.images * blocks.rows * prod(blocks.problem.output_size[1:])


def _of_rows(problem: Problem, terms: int, dtype: DTypeLike) -> Problem:
    """Return a 1x1 convolution: a pixel for each row, a channel for each term."""
    rows = prod(problem.kernel_size) * problem.in_channels
    row = problem.row(rows, terms)
    return replace(row, dtype=dtype, output_dtype=wide(dtype))


# --- of images of several channels ---


def _kept(problem: Problem) -> int:
    """Return how many spatial axes are kept; taps of the others become channels."""
    kept, channels = problem.rank, problem.in_channels
    while kept and (channels < FULL_ROWS or problem.kernel_size[kept - 1] == 1):
        kept -= 1
        channels *= problem.kernel_size[kept]
    return kept


def _pads(problem: Problem, blocks: Blocks) -> tuple[Pairs, Pairs]:
    """Return a block's padding (or cropping): ours, then oneDNN's."""
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
    """Return the forward convolution that gives a block's part of the gradient."""
    kept = _kept(problem)
    ones = (1,) * (problem.rank - kept)
    kernel = list(zip(problem.dilation, problem.kernel_size))
    positions = (blocks.rows, *problem.output_size[1:])
    channels = problem.in_channels * prod(problem.kernel_size[kept:])
    seen = [
        (o - 1) * s + k - sum(pair)
        for o, s, k, pair in zip(positions, problem.strides, problem.window, pads)
    ]
    return replace(
        problem,
        op="forward",
        batch=1,
        input_size=(*seen[:kept], *positions[kept:], channels),
        output_size=(*problem.kernel_size[:kept], *ones, channels),
        kernel_size=(*positions, 1),
        in_channels=blocks.images,
        strides=(*(d if k > 1 else 1 for d, k in kernel[:kept]), *ones, 1),
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
