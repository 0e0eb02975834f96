"""Convolution as a matrix product of patches, in blocks.

The patch matrix is prod(kernel_size) times as large as the image. It is never held
whole when that is much: rows of it are made, multiplied and dropped block by block.
"""

from math import prod

import jax
import jax.numpy as jnp

from ...im2col import window_taps
from ..blocks import Blocks, blocks_of
from ..mirror import mirrored, spread, turned
from ..problem import Problem

PATCH_BYTES = 4 << 20  # of one block: more does not stay in a core's cache


def forward(problem: Problem, x: jax.Array, w: jax.Array) -> jax.Array:
    matrix = w.reshape(-1, w.shape[-2], problem.groups, w.shape[-1] // problem.groups)

    def block(x):
        y = jnp.einsum(
            "n...kgc,kcgo->n...go",
            _patches(problem, x),
            matrix,
            precision=problem.precision,
            preferred_element_type=_accumulator(x.dtype),
        )
        return y.reshape(*y.shape[:-2], problem.out_channels)

    return _blocks(problem, x.dtype).map(block, x)


def input_gradient(problem: Problem, w: jax.Array, y: jax.Array) -> jax.Array:
    return forward(
        mirrored(problem), spread(y, problem.strides), turned(w, problem.groups)
    )


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    def block(x, y):
        return jnp.einsum(
            "n...kgc,n...go->kcgo",
            _patches(problem, x),
            y.reshape(*y.shape[:-1], problem.groups, -1),
            precision=problem.precision,
            preferred_element_type=_accumulator(x.dtype),
        )

    return _blocks(problem, x.dtype).sum(block, x, y).reshape(problem.shape("w"))


def _patches(problem: Problem, x):
    """[N, *positions, taps, groups, C / groups] of an input that is padded already."""
    taps = window_taps(x, problem.kernel_size, problem.strides, problem.dilation)
    patches = jnp.stack(taps, axis=-2)
    channels = problem.in_channels // problem.groups
    return patches.reshape(*patches.shape[:-1], problem.groups, channels)


def _blocks(problem: Problem, dtype) -> Blocks:
    patch = prod(problem.kernel_size) * problem.in_channels * dtype.itemsize
    return blocks_of(problem, PATCH_BYTES // max(patch, 1))


def _accumulator(dtype):
    """Short floats are summed in float32, as lax does."""
    return jnp.promote_types(dtype, jnp.float32)
