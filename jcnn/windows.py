"""Windows that slide over all axes of an array, and maps between it and its windows.

Such a map goes from values of the array to values of its windows and is linear, as its
transpose is, which goes back. On CPUs both are computed for whole arrays at once, tap
by tap, where XLA's `reduce_window` and `select_and_scatter` walk through every window.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._eager import define_eager
from ._shapes import Pairs
from ._tools import define_nan_check, define_taylor
from .engine.meshes import type_like, vary_alike

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
        return tuple(
            (n + low + high - k) // s + 1
            for n, k, s, (low, high) in zip(
                self.size, self.shape, self.strides, self.padding
            )
        )

    @property
    def few_taps(self) -> bool:
        return prod(self.shape) <= MOST_TAPS

    @property
    def by_taps(self) -> bool:
        """Whether whole arrays serve: few, of sizes known where windows move."""
        moved = (n for n, k in zip(self.size, self.shape) if k > 1)
        return self.few_taps and all(isinstance(n, int) for n in moved)

    @property
    def reach(self) -> tuple[int, ...]:
        """How many windows may see one pixel, along each axis."""
        return tuple(-(-k // s) for k, s in zip(self.shape, self.strides))

    def cut(self, axis: int) -> list[tuple[int, int, "Windows"]]:
        """Windows over the low edge of an axis, inside it, and over its high edge.

        Each with the pixels, from one up to another, that they see along the axis. The
        padding of those over an edge may crop what was padded on the other side.
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
    """For each tap, in row-major order, what it sees of x in every window.

    Outside x it sees the value `outside`.
    """
    around = [(low, high, 0) for low, high in windows.padding]
    x = lax.pad(x, jnp.asarray(outside, x.dtype), around)
    seen = []
    for start in product(*map(range, windows.shape)):
        stop = [
            b + (n - 1) * s + 1
            for b, n, s in zip(start, windows.outputs, windows.strides)
        ]
        seen.append(lax.slice(x, start, stop, windows.strides))
    return seen


def spread(
    a: jax.Array, tap: jax.Array | None = None, *, windows: Windows
) -> jax.Array:
    """Adds each window's value of `a` to every pixel it sees, or to that of one tap.

    Counted from the padding's corner, pixel s*q + r is seen by windows q - t for
    t < k / s, as their tap r + s*t. So whole arrays of windows, t windows apart, are
    stretched by s and added, in the order in which `select_and_scatter` adds.

    Args:
      a: [*windows.outputs].
      tap: [*windows.outputs], int8: the number of a tap for each window.
      windows: the windows, of few taps.

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
        """At pixels s*q + r what the windows q - back have."""
        start = [t - 1 - b for t, b in zip(windows.reach, back)]
        values = lax.slice(values, start, [b + q for b, q in zip(start, places)])
        return lax.broadcast_in_dim(values, stretched, range(0, 2 * rank, 2))

    def of_phases(values):
        """At pixels s*q + r what there is for each r."""
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


def linear_pair(
    name: str,
    others: int,
    there: Callable[..., jax.Array],
    back: Callable[..., jax.Array],
    by_lax: Callable[..., jax.Array],
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Two functions that are each other's transpose, as primitives of JAX.

    All functions take `(a, *others, windows=...)` and are linear in `a`; the others are
    of the array's size. An output has the dtype of `a`.

    Args:
      name: of the primitives, for those who read programs.
      others: how many operands there are beside `a`.
      there: from an array to its windows, on CPUs.
      back: its transpose, on CPUs.
      by_lax: what `there` is on other platforms, by operations of lax.

    Returns:
      `there` and `back`, which can be differentiated and batched.
    """
    there_p, back_p = Primitive(f"jcnn_{name}"), Primitive(f"jcnn_{name}_transposed")

    def back_by_lax(a, *others, windows):
        x = jax.ShapeDtypeStruct(windows.size, a.dtype)
        function = partial(by_lax, windows=windows)
        return jax.linear_transpose(lambda x: function(x, *others), x)(a)[0]

    define(there_p, outputs, there, by_lax)
    define(back_p, _size, back, back_by_lax)
    _define_linear(there_p, back_p, others)
    _define_linear(back_p, there_p, others)
    return partial(bind, there_p), partial(bind, back_p)


def define(
    primitive: Primitive,
    shape: Callable[[Windows], tuple[int, ...]],
    on_cpu: Callable[..., jax.Array],
    elsewhere: Callable[..., jax.Array],
) -> None:
    """What a primitive of arrays and `windows` is, but for its derivatives.

    Args:
      primitive: of operands of one size, the first of which gives the dtype.
      shape: of the result.
      on_cpu: what it is on CPUs, for windows that are served `by_taps`.
      elsewhere: what it is else, and operation by operation: by operations of lax, so
        that who looks for NaN there sees none that lax has not.
    """

    def abstract(a, *others, windows):
        return type_like(a, shape(windows), a.dtype)

    def batched(operands, axes, *, windows):
        length = next(
            a.shape[axis] for a, axis in zip(operands, axes) if axis is not None
        )
        operands = [
            jnp.broadcast_to(a, (length, *a.shape))
            if axis is None
            else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(operands, axes)
        ]
        size, window, strides, padding = windows
        wider = Windows(
            (length, *size), (1, *window), (1, *strides), ((0, 0), *padding)
        )
        return bind(primitive, *operands, windows=wider), 0

    def fast(*operands, windows):
        compute = on_cpu if windows.by_taps else elsewhere
        return compute(*operands, windows=windows)

    define_eager(primitive, elsewhere)
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(fast, multiple_results=False), platform="cpu"
    )


def bind(primitive: Primitive, *operands: jax.Array, windows: Windows) -> jax.Array:
    return primitive.bind(*vary_alike(*operands), windows=windows)


def outputs(windows: Windows) -> tuple[int, ...]:
    return windows.outputs


def _size(windows: Windows) -> tuple[int, ...]:
    return windows.size


def _define_linear(primitive: Primitive, transpose: Primitive, others: int) -> None:
    """Its derivatives; its transpose's are those of the other primitive."""

    def tangent(t, a, *others, windows):
        return bind(primitive, t, *others, windows=windows)

    def transposed(cotangent, a, *others, windows):
        if isinstance(cotangent, ad.Zero):
            return ad.Zero(a.aval), *[None for _ in others]
        a = bind(transpose, cotangent, *others, windows=windows)
        return a, *[None for _ in others]

    def taylor(operands, series, *, windows):
        terms = (bind(primitive, t, *operands[1:], windows=windows) for t in series[0])
        return bind(primitive, *operands, windows=windows), list(terms)

    ad.defjvp(primitive, tangent, *[None] * others)
    ad.primitive_transposes[primitive] = transposed
    define_taylor(primitive, taylor)
    define_nan_check(primitive)
