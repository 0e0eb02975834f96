"""Convolution as a matrix product of patches, in blocks.

The patch matrix is prod(kernel_size) times as large as the image. It is never held
whole when that is much: rows of it are made, multiplied and dropped block by block.
"""

from math import prod

import jax
import jax.numpy as jnp

from ..._dtypes import wide
from ..._im2col import window_patches
from ..algorithm import Algorithm
from ..blocks import Blocks, blocks_of
from ..padding import pad
from ..problem import Problem
from ..transposed import transposed, transposed_kernel

PATCH_BYTES = 4 << 20  # of one block: more does not stay in a core's cache


def forward(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    groups, features = problem.groups, problem.out_channels
    blocks = _blocks(problem, x.dtype)

    def block(x):
        patches = _patches(problem, x)
        if groups == 1:
            y = _dot("pk,ko->po", problem, patches, kernel.reshape(-1, features))
        else:
            matrix = kernel.reshape(-1, kernel.shape[-2], groups, features // groups)
            y = _dot("pkgc,kcgo->pgo", problem, _grouped(problem, patches), matrix)
        return y.reshape(x.shape[0], blocks.rows, *problem.output_size[1:], features)

    return blocks.map(block, x)


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    return forward(
        transposed(problem),
        pad(y, ((0, 0),) * problem.rank, problem.strides),
        transposed_kernel(kernel, problem.groups),
    )


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    groups = problem.groups

    def block(x, y):
        # XLA multiplies short floats slowly where it sums over the first axis.
        x, y = x.astype(wide(x.dtype)), y.astype(wide(y.dtype))
        patches = _patches(problem, x)
        positions = prod(y.shape[:-1])
        if groups == 1:  # y first: the narrow matrix as the one that is walked along
            y = y.reshape(positions, problem.out_channels)
            return _dot("po,pk->ok", problem, y, patches)
        y = y.reshape(positions, groups, problem.out_channels // groups)
        return _dot("pkgc,pgo->kcgo", problem, _grouped(problem, patches), y)

    total = _blocks(problem, x.dtype).sum(block, x, y)
    return (total.T if groups == 1 else total).reshape(problem.shape("kernel"))


def _patches(problem: Problem, x):
    """Return [positions, taps * C], of a block that is padded already."""
    patches = window_patches(x, problem.kernel_size, problem.strides, problem.dilation)
    return patches.reshape(prod(patches.shape[:-1]), patches.shape[-1])


def _grouped(problem: Problem, patches):
    """Return them as [positions, taps, groups, C / groups]."""
    taps, groups = prod(problem.kernel_size), problem.groups
    return patches.reshape(len(patches), taps, groups, problem.in_channels // groups)


def _dot(equation: str, problem: Problem, a, b):
    dtype = wide(a.dtype)  # short floats are summed in float32, as lax does
    return jnp.einsum(
        equation, a, b, precision=problem.precision, preferred_element_type=dtype
    )


def _temporary_bytes(problem: Problem) -> int:
    blocks = _blocks(problem, jnp.dtype(problem.dtype))
    positions = blocks.images * blocks.rows * prod(problem.output_size[1:])
    patch = prod(problem.kernel_size) * problem.in_channels
    return blocks.bytes + positions * patch * jnp.dtype(problem.dtype).itemsize


def _blocks(problem: Problem, dtype) -> Blocks:
    patch = prod(problem.kernel_size) * problem.in_channels * dtype.itemsize
    return blocks_of(problem, PATCH_BYTES // max(patch, 1))


IM2COL = Algorithm(
    "im2col",
    None,
    forward,
    input_gradient,
    kernel_gradient,
    operations=lambda problem: prod(problem.kernel_size),
    temporary_bytes=_temporary_bytes,
)
