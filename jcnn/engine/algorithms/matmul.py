"""1x1 convolution as what it is: one matrix product over the channels."""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from ..._dtypes import wide
from ..mirror import turned
from ..problem import Problem


def refusal(problem: Problem) -> str | None:
    if prod(problem.kernel_size) != 1:
        return f"it needs a kernel of size 1, not {problem.kernel_size}"
    if problem.groups != 1:
        return f"it needs 1 group, not {problem.groups}"
    return None


def forward(problem: Problem, x: jax.Array, w: jax.Array) -> jax.Array:
    x = _seen(problem, x)
    return _dot(problem, x, w.reshape(w.shape[-2:]), (x.ndim - 1, 0))


def input_gradient(problem: Problem, w: jax.Array, y: jax.Array) -> jax.Array:
    w = turned(w, 1)
    x = _dot(problem, y, w.reshape(w.shape[-2:]), (y.ndim - 1, 0))
    holes = [
        (0, n - ((o - 1) * s + 1), s - 1)
        for n, o, s in zip(problem.input_size, problem.output_size, problem.strides)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *holes, (0, 0, 0)))


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    positions = prod(y.shape[:-1])
    x = _seen(problem, x).reshape(positions, x.shape[-1])
    y = y.reshape(positions, y.shape[-1])
    # The wider matrix comes second: the product walks along its rows.
    w = (
        _dot(problem, x, y, (0, 0))
        if problem.in_channels <= problem.out_channels
        else _dot(problem, y, x, (0, 0)).T
    )
    return w.reshape(problem.shape("w"))


def _seen(problem: Problem, x):
    """The pixels that the strides do not jump over."""
    if all(s == 1 for s in problem.strides):
        return x
    stop = [(o - 1) * s + 1 for o, s in zip(problem.output_size, problem.strides)]
    zeros = [0] * x.ndim
    return lax.slice(
        x, zeros, (x.shape[0], *stop, x.shape[-1]), (1, *problem.strides, 1)
    )


def _dot(problem: Problem, a, b, contracted: tuple[int, int]):
    return lax.dot_general(
        a,
        b,
        (((contracted[0],), (contracted[1],)), ((), ())),
        precision=problem.precision,
        preferred_element_type=wide(a.dtype),
    )
