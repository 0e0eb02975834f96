"""The maximum of windows, with a gradient that is fast on CPUs.

XLA's gradient, `select_and_scatter`, walks through every window on its own. Here each
window's first maximum is found by comparing whole arrays, as the number of a tap, and
pixels take what the windows they won hand back. Where no window overlaps another the
result is the same to the bit; else sums are taken in another order.

Two primitives do it, linear in their first operand and each the other's transpose.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from ._shapes import Pairs
from .engine.meshes import sharded_by_type, vary_alike


class Windows(NamedTuple):
    """Windows over all axes of an array; what is padded counts as minus infinity."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs

    def outputs(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            (n + low + high - k) // s + 1
            for n, k, s, (low, high) in zip(
                size, self.shape, self.strides, self.padding
            )
        )


def max_windows(x: jax.Array, windows: Windows) -> jax.Array:
    """The maximum of each window, by `lax.reduce_window`.

    The first maximum of a window, in row-major order, gets its gradient. NaN wins.
    """
    if sharded_by_type(jax.typeof(x)):
        return _reduced(x, windows)
    return _max_windows(x, windows)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_windows(x: jax.Array, windows: Windows) -> jax.Array:
    return _reduced(x, windows)


@_max_windows.defjvp
def _max_windows_jvp(windows, primals, tangents):
    (x,), (tangent,) = primals, tangents
    return _max_windows(x, windows), pick(tangent, x, windows)


def pick(a: jax.Array, x: jax.Array, windows: Windows) -> jax.Array:
    """From each window the value of `a` where `x` has its first maximum."""
    return pick_p.bind(*vary_alike(a, x), windows=windows)


def put(a: jax.Array, x: jax.Array, windows: Windows) -> jax.Array:
    """Adds each window's value of `a` to where `x` has its first maximum."""
    return put_p.bind(*vary_alike(a, x), windows=windows)


pick_p = Primitive("jcnn_max_window_pick")
put_p = Primitive("jcnn_max_window_put")


# --- what they compute ---


def first_maximum(x: jax.Array, windows: Windows) -> jax.Array:
    """The number of the tap that wins each window, as small an integer as will do.

    The comparisons are select_and_scatter's, so NaN and windows of minus infinity
    end as they do there: a value gives way to the next unless it is at least as great.
    """
    x = _padded(x, -np.inf, windows.padding)
    number = np.min_scalar_type(-prod(windows.shape))
    taps = _taps(lax.optimization_barrier(x), windows)
    best, index = taps[0], jnp.zeros(taps[0].shape, number)
    for i, tap in enumerate(taps[1:], 1):
        stays = best >= tap
        best = jnp.where(stays, best, tap)
        index = jnp.where(stays, index, number.type(i))
    return lax.optimization_barrier(index)


def _pick_by_index(a, x, *, windows: Windows):
    index = first_maximum(x, windows)
    taps = _taps(_padded(a, 0, windows.padding), windows)
    y = taps[0]
    for i, tap in enumerate(taps[1:], 1):
        y = jnp.where(index == index.dtype.type(i), tap, y)
    return y


def _put_by_index(a, x, *, windows: Windows):
    """Phase by phase of the strides: pixels s*q + r are seen by the same taps."""
    index = first_maximum(x, windows)
    axes = range(x.ndim)
    numbers = np.arange(prod(windows.shape)).reshape(windows.shape)
    size = [-(-n // s) for n, s in zip(x.shape, windows.strides)]
    seen = [
        [_seen(windows, axis, r) for r in range(windows.strides[axis])] for axis in axes
    ]
    offsets = [[o for phase in seen[axis] for _, o in phase] or [0] for axis in axes]
    around = [
        (-min(found), n - 1 + max(found) - (m - 1), 0)
        for found, n, m in zip(offsets, size, a.shape)
    ]
    index = lax.pad(index, index.dtype.type(-1), around)
    a = lax.pad(a, jnp.zeros((), a.dtype), around)
    index, a = lax.optimization_barrier((index, a))
    phases = []
    for taps_of_axes in product(*seen):
        total = jnp.zeros(size, a.dtype)
        for choice in product(*taps_of_axes):
            start = [o - min(found) for (_, o), found in zip(choice, offsets)]
            stop = [b + n for b, n in zip(start, size)]
            number = numbers[tuple(tap for tap, _ in choice)]
            won = lax.slice(index, start, stop) == index.dtype.type(number)
            total = total + jnp.where(won, lax.slice(a, start, stop), 0)
        phases.append(total)
    return _woven(phases, windows.strides, x.shape)


def _seen(windows: Windows, axis: int, rest: int) -> list[tuple[int, int]]:
    """Taps that meet pixels s*q + rest, each with o: it is window q + o that does."""
    low, stride = windows.padding[axis][0], windows.strides[axis]
    return [
        (tap, (rest + low - tap) // stride)
        for tap in range(windows.shape[axis])
        if (rest + low - tap) % stride == 0
    ]


def _woven(phases, strides, shape):
    """Puts pixel q of phase r at s*q + r in every axis."""
    size, rank = phases[0].shape, len(shape)
    x = jnp.stack(lax.optimization_barrier(phases), axis=-1)
    x = x.reshape(*size, *strides)
    order = [axis for pair in zip(range(rank), range(rank, 2 * rank)) for axis in pair]
    x = x.transpose(order).reshape([n * s for n, s in zip(size, strides)])
    return x[tuple(map(slice, shape))]


def _taps(x, windows: Windows) -> list[jax.Array]:
    """For each tap of the window what it sees; x is padded already."""
    sizes = [
        (n - k) // s + 1 for n, k, s in zip(x.shape, windows.shape, windows.strides)
    ]
    taps = []
    for start in product(*map(range, windows.shape)):
        stop = [b + (n - 1) * s + 1 for b, n, s in zip(start, sizes, windows.strides)]
        taps.append(lax.slice(x, start, stop, windows.strides))
    return taps


def _padded(x, value: float, padding: Pairs):
    around = [(low, high, 0) for low, high in padding]
    return lax.pad(x, jnp.asarray(value, x.dtype), around)


def _reduced(x, windows: Windows):
    return lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, *windows)


def _pick_as_lax_does(a, x, *, windows: Windows):
    return jax.jvp(partial(_reduced, windows=windows), (x,), (a,))[1]


def _put_as_lax_does(a, x, *, windows: Windows):
    return jax.vjp(partial(_reduced, windows=windows), x)[1](a)[0]


# --- what they are to JAX ---


def _define(
    primitive: Primitive,
    transpose: Callable[..., jax.Array],
    shape: Callable[..., tuple[int, ...]],
    on_cpu: Callable[..., jax.Array],
    elsewhere: Callable[..., jax.Array],
) -> None:
    def bind(a, x, windows):
        return primitive.bind(*vary_alike(a, x), windows=windows)

    @lru_cache(1024)
    def jitted(windows):
        return jax.jit(partial(primitive.bind, windows=windows))

    def abstract(a, x, *, windows):
        size = shape(x.shape, windows)
        replicated = PartitionSpec(*[None] * len(size))
        return ShapedArray(
            size,
            a.dtype,
            sharding=NamedSharding(x.sharding.mesh, replicated),
            manual_axis_type=x.manual_axis_type,
        )

    def transposed(cotangent, a, x, *, windows):
        if isinstance(cotangent, ad.Zero):
            return ad.Zero(a.aval), None
        return transpose(cotangent, x, windows), None

    def batched(operands, axes, *, windows):
        length = next(
            a.shape[axis] for a, axis in zip(operands, axes) if axis is not None
        )
        a, x = (
            jnp.broadcast_to(a, (length, *a.shape))
            if axis is None
            else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(operands, axes)
        )
        shape, strides, padding = windows
        wider = Windows((1, *shape), (1, *strides), ((0, 0), *padding))
        return bind(a, x, wider), 0

    primitive.def_impl(lambda a, x, *, windows: jitted(windows)(a, x))
    primitive.def_abstract_eval(abstract)
    ad.defjvp(primitive, lambda t, a, x, *, windows: bind(t, x, windows), None)
    ad.primitive_transposes[primitive] = transposed
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu"
    )


_define(
    pick_p,
    put,
    lambda size, windows: windows.outputs(size),
    _pick_by_index,
    _pick_as_lax_does,
)
_define(put_p, pick, lambda size, windows: size, _put_by_index, _put_as_lax_does)
