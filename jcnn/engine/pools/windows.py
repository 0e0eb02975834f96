"""Windows that slide over all axes of an array, tap by tap and back.

A tap is a whole array. On CPUs XLA's `reduce_window` and `select_and_scatter` walk
through every window.
"""

from itertools import product
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._shapes import Pairs, num_positions
from ..padding import pad

MOST_TAPS = 64  # of a window: programs grow with them


class Windows(NamedTuple):
    """Windows over an array of `size`; every field has an entry for each axis."""

    size: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs

    @property
    def outputs(self) -> tuple[int, ...]:
        """How many windows there are."""
        return num_positions(*self)

    @property
    def few_taps(self) -> bool:
        return prod(self.shape) <= MOST_TAPS

    @property
    def by_taps(self) -> bool:
        """Whether taps are whole arrays: few, of sizes known where windows move."""
        moved = (n for n, k in zip(self.size, self.shape) if k > 1)
        return self.few_taps and all(isinstance(n, int) for n in moved)

    @property
    def reach(self) -> tuple[int, ...]:
        """How many windows may see one pixel, along each axis."""
        return tuple(-(-k // s) for k, s in zip(self.shape, self.strides))

    def batched(self, length: int) -> "Windows":
        """Return the same windows over each of a leading axis."""
        size, shape, strides, padding = self
        return Windows((length, *size), (1, *shape), (1, *strides), ((0, 0), *padding))

    def cut(self, axis: int) -> list[tuple[int, int, "Windows"]]:
        """Return windows over the low edge of an axis, inside, and over the high edge.

        Each with the first and the last pixel (exclusive) that they see along the axis.
        Their padding may crop what was padded on the other side.
        """
        n, k, s = self.size[axis], self.shape[axis], self.strides[axis]
        (low, _), outputs = self.padding[axis], self.outputs[axis]
        first = min(-(-low // s), outputs)
        last = max(min((n + low - k) // s + 1, outputs), first)
        parts = []
        for a, b in ((0, first), (first, last), (last, outputs)):
            if a < b:
                ends = a * s - low, (b - 1) * s - low + k
                start, stop = (min(max(end, 0), n) for end in ends)
                pads = (start - ends[0], ends[1] - stop)
                size, padding = list(self.size), list(self.padding)
                size[axis], padding[axis] = stop - start, pads
                part = self._replace(size=tuple(size), padding=tuple(padding))
                parts.append((start, stop, part))
        return parts


def taps(x: jax.Array, windows: Windows, outside: float) -> list[jax.Array]:
    """Return what each tap, in row-major order, sees in every window of x."""
    x = pad(x, windows.padding, axes=range(x.ndim), value=outside)
    seen = []
    for start in product(*map(range, windows.shape)):
        stop = [
            b + (n - 1) * s + 1
            for b, n, s in zip(start, windows.outputs, windows.strides)
        ]
        seen.append(lax.slice(x, start, stop, windows.strides))
    return seen


def scatter(
    a: jax.Array, tap: jax.Array | None = None, *, windows: Windows
) -> jax.Array:
    """Add each window's value of `a` to every pixel it sees, or to that of one tap.

    Counted from the padding's corner, pixel s*q + r is seen by windows q - t for
    t < k / s, as their tap r + s*t. So whole arrays of windows, t windows apart, are
    stretched by s and added, in the order in which `select_and_scatter` adds.

    Args:
        a: [*windows.outputs].
        tap: [*windows.outputs], int8: the number of a tap for each window.
        windows: The windows, of few taps.

    Returns:
        [*windows.size].
    """
    rank, (_, shape, strides, padding) = a.ndim, windows
    lows = [low for low, _ in padding]
    places = [-(-(n + low) // s) for n, low, s in zip(windows.size, lows, strides)]
    around = [(t - 1, q - n, 0) for t, q, n in zip(windows.reach, places, a.shape)]
    stretched = [n for pair in zip(places, strides) for n in pair]
    numbers = np.full([t * s for t, s in zip(windows.reach, strides)], -1)
    numbers[tuple(map(slice, shape))] = np.arange(prod(shape)).reshape(shape)

    def of_windows(values, back):
        """Return at pixels s*q + r what the windows q - back have."""
        start = [t - 1 - b for t, b in zip(windows.reach, back)]
        values = lax.slice(values, start, [b + q for b, q in zip(start, places)])
        return lax.broadcast_in_dim(values, stretched, range(0, 2 * rank, 2))

    def of_phases(values):
        """Return at pixels s*q + r what there is for each r."""
        return lax.broadcast_in_dim(values, stretched, range(1, 2 * rank, 2))

    a = lax.pad(a, jnp.zeros((), a.dtype), around)
    if tap is not None:
        tap = lax.pad(tap, jnp.int8(0), around)
    total = jnp.zeros(stretched, a.dtype)
    for back in product(*[reversed(range(t)) for t in windows.reach]):
        number = numbers[
            tuple(slice(b * s, (b + 1) * s) for b, s in zip(back, strides))
        ]
        part = of_windows(a, back)
        if tap is not None:
            hit = of_windows(tap, back) == of_phases(number.astype(np.int8))
            part = jnp.where(hit, part, 0)
        elif (number < 0).any():
            part = jnp.where(of_phases(number >= 0), part, 0)
        total = total + part
    x = total.reshape([q * s for q, s in zip(places, strides)])
    return lax.slice(x, lows, [low + n for low, n in zip(lows, windows.size)])
