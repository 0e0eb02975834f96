"""Padding, cropping and dilation, as one operation or none."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def pad(
    x: jax.Array,
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    value: float = 0,
) -> jax.Array:
    """x dilated, then padded, or cropped where a pair is negative.

    By default in the axes behind the first, as many as there are pairs.
    """
    dilation = [1] * len(pads) if dilation is None else dilation
    axes = range(1, len(pads) + 1) if axes is None else axes
    if all(pair == (0, 0) for pair in pads) and all(d == 1 for d in dilation):
        return x
    config = [(0, 0, 0)] * x.ndim
    for axis, (low, high), d in zip(axes, pads, dilation):
        config[axis] = (low, high, d - 1)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)
