"""The kernel gradient by oneDNN's forward convolution, which way its sizes ask for."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._dtypes import wide, widest
from ..._im2col import window_patches, window_taps
from ..blocks import Blocks, blocks_of, even
from ..onednn import calls
from ..padding import pad
from ..problem import Problem
from . import matmul

BLOCK_BYTES = 3 << 19  # of x and y: what stays in a core's cache while it is summed
LEAST_TERMS = 64  # bytes, a line of the cache, of what a product sums over
PAIR_BYTES = 4  # oneDNN multiplies short floats by pairs of images
MOST_IMAGES = 4096  # of a block: over them it sums
FULL_ROWS = 8  # of a product's left side: fewer channels are joined by taps


class Way(NamedTuple):
    """A way to compute it.

    Attributes:
        called: The forward convolution that oneDNN computes; None for a product.
        compute: The gradient, of x and y.
        operations, temporary_bytes: As of an `Algorithm`.
    """

    called: Problem | None
    compute: Callable[[jax.Array, jax.Array], jax.Array]
    operations: int
    temporary_bytes: int


def way_of(problem: Problem) -> Way:
    """Return the way to compute a kernel gradient of one group."""
    if calls.product_unsupported_reason(_dtype(problem)) is None:
        if matmul.unsupported_reason(problem) is None:
            product = partial(
                matmul.kernel_gradient,
                problem,
                transposed_product=calls.transposed_product,
            )
            return Way(None, product, 1, matmul.temporary_bytes(problem))
    if problem.rank == 0:
        return _features(problem)
    if problem.rank == 3:
        return _plane_by_plane(problem)
    return _taps(problem) if problem.in_channels == 1 else _images(problem)


def _features(problem: Problem) -> Way:
    """Multiply by a 1x1 convolution, whose pixels are the features of a dense layer."""
    called = _product(problem, problem.batch)
    transposed_bytes = problem.batch * problem.in_channels * _itemsize(problem)

    def compute(x, y):
        return calls.convolution(called, x.T[None], y[None])[0]

    return Way(called, compute, 1, transposed_bytes)


def _taps(problem: Problem) -> Way:
    """Do so for images of one channel: a pixel is the image as one tap sees it."""
    taps = prod(problem.kernel_size)
    blocks = blocks_of(problem, BLOCK_BYTES // (taps * _itemsize(problem)))
    positions = blocks.images * blocks.rows * prod(problem.output_size[1:])
    called = _product(problem, positions)
    window = problem.kernel_size, problem.strides, problem.dilation

    def block(x, y):
        rows = [tap.reshape(-1) for tap in window_taps(x, *window)]
        y = y.reshape(called.shape("kernel"))
        return calls.convolution(called, jnp.stack(rows)[None], y)

    def compute(x, y):
        return blocks.sum(block, x, y).reshape(problem.shape("kernel"))

    return Way(called, compute, taps, taps * blocks.bytes)


def _plane_by_plane(problem: Problem) -> Way:
    """Sum over images and depth, for each plane of a kernel of three dimensions."""
    (taps, *_), (stride, *_), (dilation, *_) = (
        problem.kernel_size,
        problem.strides,
        problem.dilation,
    )
    (low, _), reach = problem.padding[0], problem.window[0] - stride
    high = problem.output_size[0] * stride + reach - low - problem.input_size[0]
    planes = replace(
        problem,
        batch=problem.batch * problem.output_size[0],
        input_size=problem.input_size[1:],
        output_size=problem.output_size[1:],
        kernel_size=problem.kernel_size[1:],
        strides=problem.strides[1:],
        padding=problem.padding[1:],
        dilation=problem.dilation[1:],
    )
    way = way_of(planes)

    def compute(x, y):
        x = pad(x, [(low, high)])
        seen = window_taps(x, (taps, 1, 1), (stride, 1, 1), (dilation, 1, 1))
        y = y.reshape(planes.shape("y"))
        return jnp.stack([way.compute(a.reshape(planes.shape("x")), y) for a in seen])

    copied = prod(planes.shape("x")) * _itemsize(problem)
    operations = taps * way.operations
    return Way(way.called, compute, operations, copied + way.temporary_bytes)


def _images(problem: Problem) -> Way:
    """Sum over images as a convolution sums over its channels, with y as the kernel.

    The channels of x are laid along one more spatial axis, over which the window does
    not move: without that a product would have as few rows as the kernel has columns.
    Where there are few channels, so are the taps of the last axes.
    """
    kept, channels = problem.rank, problem.in_channels  # kept: spatial axes
    while kept and (channels < FULL_ROWS or problem.kernel_size[kept - 1] == 1):
        kept -= 1
        channels *= problem.kernel_size[kept]
    blocks, joined = _blocks(problem), prod(problem.kernel_size[kept:])
    pads = list(blocks.pads)
    if blocks.row_blocks > 1:
        pads[0] = (0, 0)
    left = [(low, max(high, 0)) for low, high in pads[:kept]]
    now = [(0, min(high, 0)) for _, high in pads[:kept]] + pads[kept:]
    positions = (blocks.rows, *problem.output_size[1:])
    axes = zip(positions, problem.strides, problem.window, left)
    seen = [(o - 1) * s + k - sum(pair) for o, s, k, pair in axes]
    kernel = zip(problem.dilation[:kept], problem.kernel_size)
    before, ones = (1,) * kept, (1,) * (problem.rank - kept)
    called = replace(
        problem,
        op="forward",
        batch=1,
        input_size=(*seen, *positions[kept:], channels),
        output_size=(*problem.kernel_size[:kept], *ones, channels),
        kernel_size=(*positions, 1),
        in_channels=blocks.images,
        strides=(*(d if k > 1 else 1 for d, k in kernel), *ones, 1),
        padding=(*left, *[(0, 0)] * len(ones), (0, 0)),
        dilation=(*problem.strides[:kept], *ones, 1),
        dtype=_dtype(problem),
        output_dtype=wide(_dtype(problem)),
    )

    def block(x, y):
        x = pad(x, now)
        if ones:
            x = window_patches(
                x,
                before + problem.kernel_size[kept:],
                before + problem.strides[kept:],
                before + problem.dilation[kept:],
            )
        x, y = jnp.moveaxis(x, 0, -1)[None], jnp.expand_dims(y, -2)
        return calls.convolution(called, x, y, inputs_first=True)

    def compute(x, y):
        kernel = blocks.sum(block, x, y, padded=False)
        return kernel.reshape(problem.shape("kernel"))

    return Way(called, compute, joined, 2 * joined * blocks.bytes)


def _blocks(problem: Problem) -> Blocks:
    """Return blocks of some images and of rows that stay in the cache."""
    row_bytes = _itemsize(problem) * prod(problem.output_size[1:])
    x_row = row_bytes * problem.in_channels * prod(problem.strides[1:])
    y_row = row_bytes * problem.out_channels
    image = problem.output_size[0] * (problem.strides[0] * x_row + y_row)
    least = LEAST_TERMS // _itemsize(problem)
    images = min(max(BLOCK_BYTES // image, least), MOST_IMAGES, problem.batch)
    left = BLOCK_BYTES // images - (problem.window[0] - 1) * x_row
    rows = max(left // (problem.strides[0] * x_row + y_row), problem.window[0])
    height = problem.output_size[0]
    if rows > height // 6:  # what a cut saves of the cache it costs in rows seen twice
        rows = height
    pair = max(PAIR_BYTES // _itemsize(problem), 1)
    return Blocks(problem, even(problem.batch, images, pair), even(height, rows))


def _product(problem: Problem, terms: int) -> Problem:
    """Return a 1x1 convolution: a pixel for each row, a channel for each term."""
    row = problem.row(prod(problem.kernel_size) * problem.in_channels, terms)
    return replace(row, dtype=_dtype(problem), output_dtype=wide(_dtype(problem)))


def _dtype(problem: Problem) -> jnp.dtype:
    """Return the dtype in which x and y come."""
    return widest(problem.dtype, problem.output_dtype)


def _itemsize(problem: Problem) -> int:
    return jnp.dtype(problem.dtype).itemsize
