"""A batch of images cut into blocks of some images by some rows of the output.

What an algorithm needs beside its operands (patches, transformed tiles) is large; made
block by block it stays in the cache. Blocks are of one size: the batch is cut as evenly
as can be and filled up with zeros, so a batch of 97 costs little more than one of 96.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from .problem import Problem
from .varying import vary_alike


@dataclass(frozen=True)
class Blocks:
    """`batch_blocks * row_blocks` blocks, each of `images` by `rows` output rows."""

    problem: Problem
    images: int
    rows: int
    batch_blocks: int
    row_blocks: int

    @property
    def input_rows(self) -> int:
        """The input rows that a block of output rows sees."""
        return (self.rows - 1) * self.problem.strides[0] + self.problem.window[0]

    def map(self, compute: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        """y [N, *output, O] from x [N, *input, C], `compute` giving one block of it.

        `compute` gets [images, input_rows, *padded, C] without padding left to do.
        """
        x = self._fill_input(x)
        if self.batch_blocks * self.row_blocks == 1:
            return compute(x)
        y = lax.map(lambda i: compute(self._input_block(x, i)), self._indices())
        shape = (self.batch_blocks, self.row_blocks, *y.shape[1:])
        y = jnp.swapaxes(y.reshape(shape), 1, 2)
        y = y.reshape(
            self.batch_blocks * self.images, self.row_blocks * self.rows, *y.shape[4:]
        )
        return y[: self.problem.batch, : self.problem.output_size[0]]

    def sum(
        self,
        compute: Callable[[jax.Array, jax.Array], jax.Array],
        x: jax.Array,
        y: jax.Array,
    ) -> jax.Array:
        """The sum of `compute(x_block, y_block)` over all blocks."""
        x, y = self._fill_input(x), self._fill_output(y)
        if self.batch_blocks * self.row_blocks == 1:
            return compute(x, y)

        def part(i):
            return compute(self._input_block(x, i), self._output_block(y, i))

        shape = jax.eval_shape(part, jnp.int32(0))
        zero, _, _ = vary_alike(jnp.zeros(shape.shape, shape.dtype), x, y)
        total, _ = lax.scan(lambda t, i: (t + part(i), None), zero, self._indices())
        return total

    def _indices(self):
        return jnp.arange(self.batch_blocks * self.row_blocks)

    def _fill_input(self, x):
        """x padded and filled up to the last block; a rest no window sees is cut."""
        p = self.problem
        fill = [(0, self.batch_blocks * self.images - p.batch, 0)]
        for axis, (low, _) in enumerate(p.padding):
            outputs = self.row_blocks * self.rows if axis == 0 else p.output_size[axis]
            seen = (outputs - 1) * p.strides[axis] + p.window[axis]
            fill.append((low, seen - low - p.input_size[axis], 0))
        return lax.pad(x, jnp.zeros((), x.dtype), (*fill, (0, 0, 0)))

    def _fill_output(self, y):
        fill = [(0, self.batch_blocks * self.images - y.shape[0], 0)]
        fill.append((0, self.row_blocks * self.rows - y.shape[1], 0))
        return lax.pad(y, jnp.zeros((), y.dtype), (*fill, *[(0, 0, 0)] * (y.ndim - 2)))

    def _input_block(self, x, index):
        row = index % self.row_blocks * (self.rows * self.problem.strides[0])
        return self._slice(x, index, row, self.input_rows)

    def _output_block(self, y, index):
        return self._slice(y, index, index % self.row_blocks * self.rows, self.rows)

    def _slice(self, a, index, row, rows):
        start = (index // self.row_blocks * self.images, row, *[0] * (a.ndim - 2))
        return lax.dynamic_slice(a, start, (self.images, rows, *a.shape[2:]))


def blocks_of(problem: Problem, positions: int) -> Blocks:
    """Blocks of about `positions` output positions, whole images as far as they fit."""
    columns = 1
    for size in problem.output_size[1:]:
        columns *= size
    height = max(problem.output_size[0], 1)
    images = max(min(positions // max(height * columns, 1), problem.batch), 1)
    rows = height
    if positions < height * columns:
        rows = max(positions // max(columns, 1), 1)
    batch_blocks = -(-max(problem.batch, 1) // images)
    row_blocks = -(-height // rows)
    return Blocks(
        problem,
        images=-(-max(problem.batch, 1) // batch_blocks),
        rows=-(-height // row_blocks),
        batch_blocks=batch_blocks,
        row_blocks=row_blocks,
    )
