"""`lax.conv_general_dilated`; of a dense layer lax's product."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ..._dtypes import widest
from ..algorithm import Algorithm
from ..problem import Problem
from ..transposed import transposed, transposed_kernel
from ..xla_faults import conv_general_dilated
from . import matmul


def forward(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if problem.rank == 0:
        return matmul.forward(problem, x, kernel)
    return _convolve(
        problem,
        x,
        kernel,
        window_strides=problem.strides,
        padding=problem.padding,
        rhs_dilation=problem.dilation,
        feature_group_count=problem.groups,
    )


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    if problem.rank == 0:
        return matmul.input_gradient(problem, kernel, y)
    return _convolve(
        problem,
        y,
        transposed_kernel(kernel, problem.groups),
        padding=transposed(problem).padding,
        lhs_dilation=problem.strides,
        rhs_dilation=problem.dilation,
        feature_group_count=problem.groups,
    )


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    """Convolve x with y as its window; batch and channels change places.

    XLA-FAULT layouts in loops: the arrays are transposed here, into layouts that XLA
    computes as they are.
    """
    if problem.rank == 0:
        return matmul.kernel_gradient(problem, x, y)
    x, y = jnp.swapaxes(x, 0, -1), jnp.moveaxis(y, 0, -2)
    return jnp.moveaxis(_kernel_gradient(problem, x, y), 0, -2)


def kernel_gradient_elsewhere(
    problem: Problem, x: jax.Array, y: jax.Array
) -> jax.Array:
    """Compute it for GPUs and TPUs, whose compilers choose layouts themselves."""
    if problem.rank == 0:
        return matmul.kernel_gradient(problem, x, y)
    return _kernel_gradient(problem, x, y, layouts=("C*N", "I*O", "*NC"))


def _kernel_gradient(problem: Problem, x, y, **layouts):
    return _convolve(
        problem,
        x,
        y,
        window_strides=problem.dilation,
        padding=problem.exact_padding,
        rhs_dilation=problem.strides,
        batch_group_count=problem.groups,
        **layouts,
    )


def _convolve(
    problem: Problem,
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    layouts: tuple[str, str, str] = ("N*C", "*IO", "N*C"),
    **settings: Any,
) -> jax.Array:
    """Call lax; in layouts the star stands for the spatial axes."""
    spatial, ones = "DHW"[-problem.rank :], (1,) * problem.rank
    settings = {"window_strides": ones, "lhs_dilation": ones} | settings
    return conv_general_dilated(
        lhs,
        rhs,
        **settings,
        dimension_numbers=tuple(a.replace("*", spatial) for a in layouts),
        precision=problem.precision,
        # The result's where that is wider: sums are not rounded to the operands'.
        preferred_element_type=widest(lhs.dtype, problem.dtype_of(problem.result)),
    )


LAX = Algorithm("lax", None, forward, input_gradient, kernel_gradient)
ELSEWHERE = replace(LAX, kernel_gradient=kernel_gradient_elsewhere)
