"""A batch of images cut into blocks of some images by some rows of the output.

What an algorithm needs beside its operands (patches, transformed tiles) is large; made
block by block it stays in the cache. All blocks are of one size. The last one begins
early if it has to, and overlaps the one before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from .._shapes import Pairs
from .padding import pad
from .problem import Problem
from .sharding import vary_alike


@dataclass(frozen=True)
class Blocks:
    """Blocks of `images` by `rows` output rows that cover a problem's output."""

    problem: Problem
    images: int
    rows: int

    @property
    def batch_blocks(self) -> int:
        return -(-self.problem.batch // self.images)

    @property
    def row_blocks(self) -> int:
        return -(-self.problem.output_size[0] // self.rows)

    @property
    def number(self) -> int:
        return self.batch_blocks * self.row_blocks

    @property
    def pads(self) -> Pairs:
        return self.problem.exact_padding

    @property
    def bytes(self) -> int:
        """The size of a block of x with its padding."""
        p = self.problem
        outputs = (self.rows, *p.output_size[1:])
        axes = zip(outputs, p.strides, p.window)
        pixels = self.images * prod((o - 1) * s + k for o, s, k in axes)
        return pixels * p.in_channels * jnp.dtype(p.dtype).itemsize

    def map(self, compute: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        """Return y [N, *output, O] of x [N, *input, C], block by block.

        `compute` makes a block of y from the rows of x, with padding, that it needs.
        """
        if self.number == 1:
            return compute(pad(x, self.pads))
        p = self.problem

        def write(index, y):
            image, row = self._start(index)
            block = compute(self._input_block(x, index))
            return lax.dynamic_update_slice(y, block, _corner(y, image, row))

        block = jax.eval_shape(lambda: compute(self._input_block(x, jnp.int32(0))))
        y = jnp.zeros((p.batch, p.output_size[0], *block.shape[2:]), block.dtype)
        return lax.fori_loop(0, self.number, write, vary_alike(y, x)[0])

    def sum(
        self,
        compute: Callable[[jax.Array, jax.Array], jax.Array],
        x: jax.Array,
        y: jax.Array,
        *,
        padded: bool = True,
    ) -> jax.Array:
        """Return the sum of `compute(x_block, y_block)` over all blocks.

        Without `padded` only rows that are cut come with their padding.
        """
        if self.number == 1:
            return compute(pad(x, self.pads) if padded else x, y)

        def part(index):
            x_block = self._input_block(x, index, padded)
            return compute(x_block, self._output_block(y, index))

        shape = jax.eval_shape(part, jnp.int32(0))
        zero, _, _ = vary_alike(jnp.zeros(shape.shape, shape.dtype), x, y)
        return lax.fori_loop(0, self.number, lambda i, t: t + part(i), zero)

    def _start(self, index):
        """Return the first image and output row of a block.

        It must be plain: XLA computes it for every element that it reads.
        """
        index = lax.convert_element_type(index, jnp.int32)
        image = index // self.row_blocks if self.row_blocks > 1 else index
        row = index % self.row_blocks if self.row_blocks > 1 else jnp.int32(0)
        return (
            _within(image, self.images, self.problem.batch),
            _within(row, self.rows, self.problem.output_size[0]),
        )

    def _output_block(self, y, index):
        """Return a block of y, zero where the block before has been already."""
        dtype, y = y.dtype, bits(y)
        image, row = self._start(index)
        size = (self.images, self.rows, *y.shape[2:])
        block = lax.dynamic_slice(y, _corner(y, image, row), size)
        for axis, start, length, number, total in (
            (0, image, self.images, index // self.row_blocks, y.shape[0]),
            (1, row, self.rows, index % self.row_blocks, y.shape[1]),
        ):
            if total % length:
                place = start + lax.broadcasted_iota(jnp.int32, block.shape, axis)
                block = jnp.where(place >= number * length, block, 0)
        return of_bits(block, dtype)

    def _input_block(self, x, index, padded: bool = True):
        """Return a padded block of x: what the windows of a block of y see."""
        dtype, x = x.dtype, bits(x)
        image, row = self._start(index)
        if self.row_blocks == 1:
            x = lax.dynamic_slice_in_dim(x, image, self.images, axis=0)
            return of_bits(pad(x, self.pads) if padded else x, dtype)
        p = self.problem
        (low, high), *others = self.pads
        needed = (self.rows - 1) * p.strides[0] + p.window[0]
        length = min(needed, p.input_size[0])
        # Rows from inside x, padded for the case that they lie at its edge, then cut.
        top = jnp.clip(row * p.strides[0] - low, 0, p.input_size[0] - length)
        size = (self.images, length, *x.shape[2:])
        rows = lax.dynamic_slice(x, _corner(x, image, top), size)
        rows = pad(rows, [(low, max(high, 0) + needed - length)])
        start = _corner(x, jnp.int32(0), row * p.strides[0] - top)
        rows = lax.dynamic_slice(rows, start, (self.images, needed, *x.shape[2:]))
        return of_bits(pad(rows, [(0, 0), *others]) if padded else rows, dtype)


def bits(a: jax.Array) -> jax.Array:
    """Return short floats as integers, which XLA moves as they are.

    Floats it would take to float32 first, all of them ahead of a loop over blocks.
    """
    if jnp.issubdtype(a.dtype, jnp.floating) and a.dtype.itemsize == 2:
        return lax.bitcast_convert_type(a, jnp.uint16)
    return a


def of_bits(a: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return what `bits` made integers as floats of that dtype."""
    return a if a.dtype == dtype else lax.bitcast_convert_type(a, dtype)


def _within(number, length: int, total: int):
    """Where the block of this number and length begins, the last one not too late."""
    if length == total:
        return jnp.int32(0)
    start = number * length
    return start if total % length == 0 else jnp.minimum(start, total - length)


def _corner(a: jax.Array, image, row) -> tuple:
    """Where a block begins, all indices of one dtype whatever JAX's default is."""
    return (image, row, *[jnp.int32(0)] * (a.ndim - 2))


def blocks_of(problem: Problem, positions: int) -> Blocks:
    """Return blocks of about `positions` outputs, of whole images if they fit."""
    height, columns = problem.output_size[0], prod(problem.output_size[1:])
    if positions >= height * columns:
        images = positions // (height * columns)
        return Blocks(problem, even(problem.batch, images), height)
    return Blocks(problem, 1, even(height, max(positions // columns, 1)))


def even(total: int, most: int, multiple: int = 1) -> int:
    """Return the size of equal parts of `total`, at most `most`: a multiple, or all."""
    most = max(most // multiple, 1) * multiple
    if total <= most:
        return total
    for size in range(most, most * 5 // 8, -multiple):
        if total % size == 0:
            return size
    parts = -(-total // most)
    return -(-total // parts // multiple) * multiple
