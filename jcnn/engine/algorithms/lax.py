"""`lax.conv_general_dilated` as it is, each operation written as one call of it.

Without spatial axes, as a dense layer is, it is lax's product.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from ..._dtypes import widest
from ..algorithm import Algorithm
from ..problem import Problem
from ..transposed import transposed, transposed_kernel
from ..xla_faults import conv_general_dilated
from . import matmul


def unsupported_reason(problem: Problem) -> str | None:
    """It serves everything."""
    return None


def forward(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if problem.rank == 0:
        return matmul.forward(problem, x, kernel)
    return conv_general_dilated(
        x,
        kernel,
        window_strides=problem.strides,
        padding=problem.padding,
        lhs_dilation=(1,) * problem.rank,
        rhs_dilation=problem.dilation,
        feature_group_count=problem.groups,
        dimension_numbers=_numbers(problem, "N*C", "*IO", "N*C"),
        precision=problem.precision,
        preferred_element_type=_result_dtype(problem, x),
    )


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    if problem.rank == 0:
        return matmul.input_gradient(problem, kernel, y)
    return conv_general_dilated(
        y,
        transposed_kernel(kernel, problem.groups),
        window_strides=(1,) * problem.rank,
        padding=transposed(problem).padding,
        lhs_dilation=problem.strides,
        rhs_dilation=problem.dilation,
        feature_group_count=problem.groups,
        dimension_numbers=_numbers(problem, "N*C", "*IO", "N*C"),
        precision=problem.precision,
        preferred_element_type=_result_dtype(problem, y),
    )


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    """The convolution of x with y as its window; batch and channels change places.

    XLA-FAULT layouts in loops: the arrays are transposed here, into layouts that XLA
    computes as they are.
    """
    if problem.rank == 0:
        return matmul.kernel_gradient(problem, x, y)
    x, y = jnp.swapaxes(x, 0, -1), jnp.moveaxis(y, 0, -2)
    kernel = _kernel_gradient(problem, x, y, ("N*C", "*IO", "N*C"))
    return jnp.moveaxis(kernel, 0, -2)


def kernel_gradient_elsewhere(
    problem: Problem, x: jax.Array, y: jax.Array
) -> jax.Array:
    """The same for GPUs and TPUs, whose compilers choose layouts themselves."""
    if problem.rank == 0:
        return matmul.kernel_gradient(problem, x, y)
    return _kernel_gradient(problem, x, y, ("C*N", "I*O", "*NC"))


def _kernel_gradient(problem: Problem, x, y, layouts: tuple[str, str, str]):
    padding = []
    for n, o, s, k, (low, _) in zip(
        problem.input_size,
        problem.output_size,
        problem.strides,
        problem.window,
        problem.padding,
    ):
        padding.append((low, (o - 1) * s + k - n - low))
    return conv_general_dilated(
        x,
        y,
        window_strides=problem.dilation,
        padding=tuple(padding),
        lhs_dilation=(1,) * problem.rank,
        rhs_dilation=problem.strides,
        batch_group_count=problem.groups,
        dimension_numbers=_numbers(problem, *layouts),
        precision=problem.precision,
        preferred_element_type=_result_dtype(problem, x),
    )


def _result_dtype(problem: Problem, operand: jax.Array) -> jnp.dtype:
    """The result's where that is wider: sums are not rounded to the operands'."""
    return widest(operand.dtype, problem.dtype_of(problem.result))


def _numbers(problem: Problem, x: str, kernel: str, y: str) -> tuple[str, str, str]:
    """Dimension numbers with the spatial letters in place of the star."""
    spatial = "DHW"[-problem.rank :]
    return (
        x.replace("*", spatial),
        kernel.replace("*", spatial),
        y.replace("*", spatial),
    )


LAX = Algorithm(
    "lax",
    unsupported_reason,
    forward,
    input_gradient,
    kernel_gradient,
)
ELSEWHERE = replace(LAX, kernel_gradient=kernel_gradient_elsewhere)
