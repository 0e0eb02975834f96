"""The dense layer of arrays, the bias of all layers, and flatten."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ._dtypes import beside, floating, result_dtype, same, wide
from ._shapes import to_rank
from .engine.planner import check_impl, check_supported
from .engine.primitive import convolve
from .engine.problem import Problem
from .engine.sharding import sharded_by_type
from .engine.sums import broadcast


def dense(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    impl: str = "auto",
) -> jax.Array:
    """Compute x @ kernel + bias.

    Args:
        x: [..., C], floating point.
        kernel: [C, O], of x's dtype.
        bias: [O] or None.
        precision: As for `jax.numpy.dot`.
        preferred_element_type: Dtype of the result, as wide as x's at least; None is
            x's.
        impl: As for `conv`. By "onednn" the bits were seen to depend neither on the
            number of threads nor on the other rows of x; "auto" takes it where it is
            faster, and every other name means lax's product.

    Returns:
        [..., O].

    Raises:
        ValueError: If the shapes do not fit one another, preferred_element_type is
            narrower than x's dtype or of another kind, or `impl` is unknown or does not
            support it.
        TypeError: If x is not floating point, or the dtypes differ.

    >>> dense(jnp.array([1.0, 2.0]), jnp.array([[3.0], [4.0]]), jnp.array([0.5]))
    Array([11.5], dtype=float32)
    """
    x, kernel = floating("x", x), jnp.asarray(kernel)
    if x.ndim < 1 or kernel.ndim != 2 or kernel.shape[0] != x.shape[-1]:
        raise ValueError(
            f"kernel must be [C, O] with the last axis of x {x.shape} as C, "
            f"got shape {kernel.shape}"
        )
    kernel, bias = same("kernel", kernel, x), check_bias(bias, kernel, x)
    dtype = result_dtype(preferred_element_type, x)
    check_impl(impl)
    y = _product(x, kernel, precision, dtype, impl)
    return add_bias(y, bias)


def _product(x: jax.Array, kernel: jax.Array, precision: Any, dtype, impl) -> jax.Array:
    """Multiply by oneDNN on request, and 16-bit floats, where XLA is slow."""
    by_engine = impl == "onednn" or impl == "auto" and jnp.finfo(x.dtype).bits == 16
    known = all(isinstance(n, int) and n > 0 for n in (*x.shape, *kernel.shape))
    sharded = sharded_by_type(jax.typeof(x), jax.typeof(kernel))
    if not by_engine or not known or sharded:
        return jnp.dot(x, kernel, precision=precision, preferred_element_type=dtype)
    problem = Problem.dense(x, kernel, precision, dtype, impl)
    check_supported(problem)
    y = convolve(problem, x.reshape(-1, x.shape[-1]), kernel)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def check_bias(
    bias: ArrayLike | None, kernel: jax.Array, x: jax.Array
) -> jax.Array | None:
    """Return the bias as an array [O] for a kernel [..., O], or None."""
    if bias is None:
        return None
    if np.shape(bias) != kernel.shape[-1:]:
        raise ValueError(
            f"bias must be of shape {kernel.shape[-1:]}, got {np.shape(bias)}"
        )
    return beside("bias", bias, x)


def add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return y [..., O] plus bias [O], if there is one."""
    if bias is None:
        return y
    wider = wide(y.dtype)  # so is the gradient's sum over y, also over what vmap maps
    shift = broadcast(to_rank(y.ndim, bias.astype(wider)), y.shape)
    return (y.astype(wider) + shift).astype(y.dtype)


def flatten(x: ArrayLike) -> jax.Array:
    """Reshape [N, *anything] to [N, features], in row-major order.

    >>> flatten(jnp.zeros((2, 3, 4))).shape
    (2, 12)
    """
    x = jnp.asarray(x)
    if x.ndim < 1:
        raise ValueError("x must be [N, *anything], got a scalar")
    features = 1
    for size in x.shape[1:]:
        features *= size
    return x.reshape(x.shape[0], features)
