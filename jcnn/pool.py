"""Pooling over windows of arrays, channels last."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._dtypes import real, wide
from ._shapes import Padding, Pairs, flag, image, less, output_size, pad_pairs, sizes
from .engine.eager import at_once
from .engine.pools.maxima import max_windows
from .engine.pools.sums import window_sums
from .engine.pools.windows import Windows


def max_pool(
    x: ArrayLike,
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
) -> jax.Array:
    """Return the maximum of each window.

    Args:
        x: [N, *spatial, C], real floating point.
        window_shape: One int or one per spatial dimension.
        strides: Window strides; by default the window shape.
        padding: "SAME" | "SAME_LOWER" | "VALID" | int | ints or pairs, from 0 to the
            window less one; pixels outside x are ignored.
        ceil_mode: Keep also a last window that covers x only in part, if it starts
            inside x or its low padding, as PyTorch does.

    Returns:
        [N, *out, C], out = floor((n + low + high - window) / stride) + 1, or ceil.

    Raises:
        ValueError: If an argument does not fit x.
        TypeError: If x is not floating point (or complex: `avg_pool` alone takes that).

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    x, windows = _windows(real("x", x), window_shape, strides, padding, ceil_mode)
    return _maxima(x, windows=windows)


def min_pool(
    x: ArrayLike,
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
) -> jax.Array:
    """Return the minimum of each window, with arguments as for `max_pool`.

    >>> min_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
    Array([[ 0.,  2.],
           [ 8., 10.]], dtype=float32)
    """
    return -max_pool(
        -real("x", x),
        window_shape,
        strides=strides,
        padding=padding,
        ceil_mode=ceil_mode,
    )


def avg_pool(
    x: ArrayLike,
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> jax.Array:
    """Return the mean of each window.

    Args:
        x, window_shape, strides, padding, ceil_mode: As for `max_pool`.
        count_include_pad: Count the zeros of the padding as values. What `ceil_mode`
            adds beyond the padding is never counted, as in PyTorch.

    Returns, Raises: as for `max_pool`.

    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> avg_pool(x, 2, padding=1).ravel()
    Array([0. , 1.5, 3. ], dtype=float32)
    >>> avg_pool(x, 2, padding=1, count_include_pad=True).ravel()
    Array([0. , 1.5, 1.5], dtype=float32)
    """
    x, windows = _windows(x, window_shape, strides, padding, ceil_mode)
    include_pad = flag("count_include_pad", count_include_pad)
    return _means(x, windows=windows, include_pad=include_pad)


def global_avg_pool(x: ArrayLike) -> jax.Array:
    """Return the mean over all positions: [N, *spatial, C] to [N, C].

    >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[3., 4.]], dtype=float32)
    """
    x, rank = _non_empty_image(x)
    wider = x.astype(wide(x.dtype))
    return jnp.mean(wider, axis=range(1, rank + 1)).astype(x.dtype)


def global_max_pool(x: ArrayLike) -> jax.Array:
    """Return the maximum over all positions: [N, *spatial, C] to [N, C].

    >>> global_max_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[6., 7.]], dtype=float32)
    """
    x, rank = _non_empty_image(real("x", x))
    wider = x.astype(wide(x.dtype))  # the gradient counts equal maxima
    return jnp.max(wider, axis=range(1, rank + 1)).astype(x.dtype)


class _Windows(NamedTuple):
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: Pairs  # as asked for
    excess: tuple[int, ...]  # what `ceil_mode` adds on the high side

    def of(self, x: jax.Array) -> Windows:
        pads = [(low, high + e) for (low, high), e in zip(self.pads, self.excess)]
        return Windows(
            x.shape,
            (1, *self.shape, 1),
            (1, *self.strides, 1),
            ((0, 0), *pads, (0, 0)),
        )

    def counts(self, size: Sequence[int], include_pad: bool) -> jax.Array:
        """Return the number of values in each window, [*out]."""
        counts = jnp.ones((), jnp.int32)
        for n, k, s, (low, high), more in zip(
            size, self.shape, self.strides, self.pads, self.excess
        ):
            outputs = (n + low + high + more - k) // s + 1
            start = jnp.arange(outputs, dtype=jnp.int32) * s - low
            first, last = (-low, n + high) if include_pad else (0, n)
            inside = jnp.minimum(start + k, last) - jnp.maximum(start, first)
            counts = jnp.multiply.outer(counts, inside)
        return counts


@at_once
def _maxima(x: jax.Array, *, windows: _Windows) -> jax.Array:
    # Wide, since the gradients of windows that overlap are summed, and since not every
    # short float has the infinity that stands outside.
    return max_windows(x.astype(wide(x.dtype)), windows.of(x)).astype(x.dtype)


@at_once
def _means(x: jax.Array, *, windows: _Windows, include_pad: bool) -> jax.Array:
    total = window_sums(x.astype(wide(x.dtype)), windows.of(x))
    return _mean(total, windows, x.shape[1:-1], include_pad).astype(x.dtype)


# As one program, so that no constant is moved to the device at each call.
@partial(jax.jit, static_argnums=(1, 2, 3))
def _mean(
    total: jax.Array, windows: _Windows, size: tuple[int, ...], include_pad: bool
) -> jax.Array:
    counts = windows.counts(size, include_pad)
    return total / counts.astype(total.dtype)[None, ..., None]


def _windows(
    x: ArrayLike,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
    ceil_mode: bool,
) -> tuple[jax.Array, _Windows]:
    x, rank = _non_empty_image(x)
    ceil_mode = flag("ceil_mode", ceil_mode)
    size = x.shape[1:-1]
    shape = sizes("window_shape", window_shape, rank)
    steps = shape if strides is None else sizes("strides", strides, rank)
    pads = pad_pairs(padding, size, shape, steps)
    for k, pair in zip(shape, pads):
        if any(less(p, 0) or less(k - 1, p) for p in pair):
            raise ValueError(
                "padding must be from 0 to the window less one, "
                f"got {pair} for a window of {k}"
            )
    outputs = output_size(size, shape, steps, pads)
    excess = []
    for n, k, s, o, (low, high) in zip(size, shape, steps, outputs, pads):
        end = (o - 1) * s + k  # of the last whole window
        another = ceil_mode and end < n + low + high and o * s < n + low
        excess.append(o * s + k - (n + low + high) if another else 0)
    return x, _Windows(shape, steps, pads, tuple(excess))


def _non_empty_image(x: ArrayLike) -> tuple[jax.Array, int]:
    x, rank = image(x)
    if 0 in x.shape[1:-1]:
        raise ValueError(f"x must not be empty in space, got shape {x.shape}")
    return x, rank
