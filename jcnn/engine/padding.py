"""Padding that a convolution can take, and the rest, which is done beforehand.

XLA's float32 convolution on CPUs reads outside its buffer where low padding is negative
(openxla/xla issue 48713), and padding beyond the window makes it negative in the
gradient. Both are rare: they are cropped or padded by an operation of their own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .._shapes import Pairs


def split(pads: Pairs, window: Sequence[int]) -> tuple[Pairs, Pairs]:
    """What is to be padded (or cropped) now, and what the convolution takes.

    The latter lies between 0 and the window less one.
    """
    left = tuple(
        (min(max(low, 0), k - 1), min(max(high, 0), k - 1))
        for (low, high), k in zip(pads, window)
    )
    now = tuple((a - c, b - d) for (a, b), (c, d) in zip(pads, left))
    return now, left


def pad_now(
    x: jax.Array,
    now: Sequence[tuple[int, int]],
    dilation: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> jax.Array:
    """x padded, after spreading it by `dilation`.

    By default in the axes behind the first, as many as `now` has pairs.
    """
    dilation = [1] * len(now) if dilation is None else dilation
    axes = range(1, x.ndim - 1) if axes is None else axes
    if all(pair == (0, 0) for pair in now) and all(d == 1 for d in dilation):
        return x
    around = [(0, 0, 0)] * x.ndim
    for axis, (low, high), d in zip(axes, now, dilation):
        around[axis] = (low, high, d - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), around)
