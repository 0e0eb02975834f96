"""The dense layer of arrays, and what leads up to it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ._shapes import floating, to_rank


def dense(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """x @ kernel + bias.

    Args:
      x: [..., C], floating point.
      kernel: [C, O], of x's dtype.
      bias: [O] or None.
      precision, preferred_element_type: as for `jax.numpy.dot`.

    Returns:
      [..., O].

    Raises:
      ValueError: if the shapes do not fit one another.
      TypeError: if x is not floating point, or the dtypes differ.

    >>> dense(jnp.array([1.0, 2.0]), jnp.array([[3.0], [4.0]]), jnp.array([0.5]))
    Array([11.5], dtype=float32)
    """
    x, kernel = floating("x", x), jnp.asarray(kernel)
    if x.ndim < 1 or kernel.ndim != 2 or kernel.shape[0] != x.shape[-1]:
        raise ValueError(
            f"kernel must be [C, O] with the last axis of x {x.shape} as C, "
            f"got shape {kernel.shape}"
        )
    if kernel.dtype != x.dtype:
        raise TypeError(f"kernel must be of x's dtype {x.dtype}, got {kernel.dtype}")
    check_bias(bias, kernel.shape[-1])
    y = jnp.dot(
        x, kernel, precision=precision, preferred_element_type=preferred_element_type
    )
    return add_bias(y, bias)


def check_bias(bias: ArrayLike | None, features: int) -> None:
    """Raises unless bias is [features] or None."""
    if bias is not None and np.shape(bias) != (features,):
        raise ValueError(f"bias must be of shape {(features,)}, got {np.shape(bias)}")


def add_bias(y: jax.Array, bias: ArrayLike | None) -> jax.Array:
    """y [..., O] plus bias [O], which None leaves away."""
    if bias is None:
        return y
    return y + to_rank(y.ndim, jnp.asarray(bias).astype(y.dtype))


def flatten(x: ArrayLike) -> jax.Array:
    """[N, *anything] to [N, features], in row-major order.

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
