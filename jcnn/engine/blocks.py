"""A batch of images cut into blocks of some images by some rows of the output.

What an algorithm needs beside its operands (patches, transformed tiles) is large; made
block by block it stays in the cache. All blocks are of one size, cut as evenly as can
be. Where that leaves a rest the last one begins early and overlaps the one before, so
that a batch of 97 costs hardly more than one of 96 and nothing is copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from .meshes import vary_alike
from .problem import Problem


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
    def whole(self) -> bool:
        return self.batch_blocks * self.row_blocks == 1

    def map(self, compute: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        """y [N, *output, O] of x [N, *input, C], of which `compute` gives a block.

        `compute` gets a block of x with its padding, as many rows as it needs.
        """
        if self.whole:
            return compute(self._pad(x))
        p, x = self.problem, self._pad_rows(x)

        def write(y, index):
            image, row = self._start(index)
            block = compute(self._input_block(x, image, row))
            return lax.dynamic_update_slice(y, block, _corner(y, image, row)), None

        block = jax.eval_shape(
            lambda: compute(self._input_block(x, jnp.int32(0), jnp.int32(0)))
        )
        y = jnp.zeros((p.batch, p.output_size[0], *block.shape[2:]), block.dtype)
        y, _ = lax.scan(write, vary_alike(y, x)[0], self._indices())
        return y

    def sum(
        self,
        compute: Callable[[jax.Array, jax.Array], jax.Array],
        x: jax.Array,
        y: jax.Array,
    ) -> jax.Array:
        """The sum of `compute(x_block, y_block)` over all blocks."""
        if self.whole:
            return compute(self._pad(x), y)
        x = self._pad_rows(x)

        def part(index):
            image, row = self._start(index)
            return compute(
                self._input_block(x, image, row), self._output_block(y, index)
            )

        shape = jax.eval_shape(part, jnp.int32(0))
        zero, _, _ = vary_alike(jnp.zeros(shape.shape, shape.dtype), x, y)
        total, _ = lax.scan(lambda t, i: (t + part(i), None), zero, self._indices())
        return total

    def _indices(self) -> jax.Array:
        return jnp.arange(self.batch_blocks * self.row_blocks, dtype=jnp.int32)

    def _start(self, index):
        """The first image and output row of a block."""
        image = index // self.row_blocks * self.images
        row = index % self.row_blocks * self.rows
        return (
            jnp.minimum(image, self.problem.batch - self.images),
            jnp.minimum(row, self.problem.output_size[0] - self.rows),
        )

    def _output_block(self, y, index):
        """A block of y, zero where the block before has been already."""
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
        return block

    def _input_block(self, x, image, row):
        p = self.problem
        if self.row_blocks == 1:
            return self._pad(lax.dynamic_slice_in_dim(x, image, self.images, axis=0))
        rows = (self.rows - 1) * p.strides[0] + p.window[0]
        start = _corner(x, image, row * p.strides[0])
        return lax.dynamic_slice(x, start, (self.images, rows, *x.shape[2:]))

    def _pad_rows(self, x):
        """Rows reach over blocks, so their padding cannot wait for the blocks."""
        return x if self.row_blocks == 1 else self._pad(x)

    def _pad(self, x):
        """x with its padding, less the rest behind the last window."""
        p = self.problem
        around = []
        for n, o, s, k, (low, _) in zip(
            p.input_size, p.output_size, p.strides, p.window, p.padding
        ):
            around.append((low, (o - 1) * s + k - low - n, 0))
        return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *around, (0, 0, 0)))


def _corner(a: jax.Array, image, row) -> tuple:
    """Where a block begins, all indices of one dtype whatever JAX's default is."""
    return (image, row, *[jnp.int32(0)] * (a.ndim - 2))


def blocks_of(problem: Problem, positions: int) -> Blocks:
    """Blocks of about `positions` output positions: whole images as far as they fit."""
    height, columns = problem.output_size[0], prod(problem.output_size[1:])
    if positions >= height * columns:
        images = positions // (height * columns)
        return Blocks(problem, _even(problem.batch, images), height)
    return Blocks(problem, 1, _even(height, max(positions // columns, 1)))


def _even(total: int, most: int) -> int:
    """The size of the parts when `total` is cut into as few as `most` allows."""
    parts = -(-total // most)
    return -(-total // parts)
