"""Dropout of arrays."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._shapes import floating, fraction


def dropout(x: ArrayLike, rate: float, key: jax.Array) -> jax.Array:
    """Sets each value to zero with probability `rate`; divides the rest by 1 - rate.

    Srivastava et al., "Dropout" (2014), section 10, inverted: the mean is kept.

    Args:
      x: any shape, floating point.
      rate: probability of being dropped, from 0 to 1.
      key: of `jax.random.key`.

    Returns:
      y of x's shape and dtype.

    Raises:
      ValueError: if rate is not between 0 and 1.
      TypeError: if x is not floating point.

    >>> dropout(jnp.ones(6), 0.5, jax.random.key(1))
    Array([2., 0., 2., 2., 0., 0.], dtype=float32)
    """
    x = floating("x", x)
    check_rate(rate)
    if rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    scale = 0 if rate == 1 else 1 / (1 - rate)
    return jnp.where(kept, x * scale, 0).astype(x.dtype)


def check_rate(rate: float) -> None:
    """Raises unless `rate` is a probability."""
    fraction("rate", rate)
