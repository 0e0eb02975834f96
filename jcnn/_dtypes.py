"""Dtypes to compute in, whatever promotion JAX is told to allow."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> jnp.dtype:
    """The dtype that sums are taken in: float32 for shorter floats, else itself."""
    short = jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32 if short else dtype)
