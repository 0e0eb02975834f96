"""The input gradient as the forward convolution of y, dilated by the strides."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax

from .._shapes import dilated
from .problem import Problem


def transposed(problem: Problem) -> Problem:
    """Return the forward convolution of the dilated y and a `transposed_kernel`."""
    y_size = dilated(problem.output_size, problem.strides)
    before = [k - 1 - low for k, (low, _) in zip(problem.window, problem.padding)]
    after = [
        n - 1 + k - size - low
        for n, k, size, low in zip(problem.input_size, problem.window, y_size, before)
    ]
    return replace(
        problem,
        op="forward",
        input_size=y_size,
        output_size=problem.input_size,
        in_channels=problem.out_channels,
        out_channels=problem.in_channels,
        strides=(1,) * problem.rank,
        padding=tuple(zip(before, after)),
        dtype=problem.output_dtype,
        output_dtype=problem.dtype,
    )


def transposed_kernel(kernel: jax.Array, groups: int) -> jax.Array:
    """Flip the kernel in space and exchange its inputs and outputs by group."""
    *size, inputs, outputs = kernel.shape
    kernel = kernel.reshape(*size, inputs, groups, outputs // groups)
    kernel = jnp.moveaxis(kernel, (-3, -2, -1), (-1, -2, -3))
    kernel = kernel.reshape(*size, outputs // groups, groups * inputs)
    return lax.rev(kernel, range(len(size)))
