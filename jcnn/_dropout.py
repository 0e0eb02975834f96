"""Dropout of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._dtypes import floating, wide
from ._shapes import number


def dropout(x: ArrayLike, rate: ArrayLike, key: jax.Array) -> jax.Array:
    """Set each value to zero with probability `rate`; divide the rest by 1 - rate.

    Srivastava et al., "Dropout" (2014), section 10, inverted: the mean is kept.

    Args:
        x: Any shape, floating point.
        rate: Probability of being dropped, from 0 to 1. It may be traced, as in a
            schedule; then nobody checks it.
        key: Of `jax.random.key`.

    Returns:
        Y of x's shape and dtype.

    Raises:
        ValueError: If rate is not between 0 and 1.
        TypeError: If x is not floating point, rate no number or key no key.

    >>> dropout(jnp.ones(6), 0.5, jax.random.key(1))
    Array([2., 0., 2., 2., 0., 0.], dtype=float32)
    """
    x = floating("x", x)
    rate = check_rate(rate)
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key must be a key of jax.random.key, got {key!r}")
    if isinstance(rate, float):
        if rate in (0, 1):
            return x if rate == 0 else jnp.zeros_like(x)
        keep, scale = 1 - rate, 1 / (1 - rate)
    else:
        keep = 1 - jnp.asarray(rate, jnp.float32)
        scale = 1 / jnp.maximum(keep, jnp.finfo(jnp.float32).tiny)  # rate 1 drops all
    # The probability is float32 always: the mask does not depend on rate's dtype.
    kept = jax.random.bernoulli(key, jnp.asarray(keep, jnp.float32), x.shape)
    scaled = x.astype(wide(x.dtype)) * jnp.asarray(scale, wide(x.dtype))
    return jnp.where(kept, scaled, 0).astype(x.dtype)


def check_rate(rate: ArrayLike) -> float | jax.Array:
    """Return `rate`, which must be a probability."""
    return number("rate", rate, 0, 1)
