"""The maximum of windows, with a gradient that is fast on CPUs.

Each window's first maximum is found by comparing whole arrays, as the number of a tap.
Pixels add what the windows they won hand back in the order of XLA's
`select_and_scatter`: the result is the same to the bit.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from ..._jax_internals import define_taylor
from ..declaration import bind
from ..sharding import sharded_by_type
from .primitives import define, linear_pair
from .windows import Windows, scatter, taps


def max_windows(x: jax.Array, windows: Windows) -> jax.Array:
    """Return the maximum of each window; `lax.reduce_window` gives the same bits.

    The first maximum of a window, in row-major order, gets its gradient. NaN wins, and
    padding counts as minus infinity.
    """
    if sharded_by_type(jax.typeof(x)):
        return _reduced(x, windows=windows)
    return bind(max_windows_p, x, windows=windows)


def _reduced(x, *, windows: Windows):
    _, shape, strides, padding = windows
    lowest = np.asarray(-np.inf, x.dtype)
    return lax.reduce_window(x, lowest, lax.max, shape, strides, padding)


def _maxima_on_cpu(x, *, windows: Windows):
    return reduce(lax.max, taps(x, windows, -np.inf))


def pick_on_cpu(a: jax.Array, x: jax.Array, *, windows: Windows) -> jax.Array:
    """Return from each window the value of `a` at the first maximum of `x`."""
    return at_first_maximum(taps(x, windows, -np.inf), taps(a, windows, 0))


def put_on_cpu(a: jax.Array, x: jax.Array, *, windows: Windows) -> jax.Array:
    """Add each window's value of `a` to the first maximum of `x`."""
    if not x.size or not a.size:
        return jnp.zeros(x.shape, a.dtype)
    # An opaque predicate, which is false: without it XLA would fuse the search for the
    # winner into the sums, and search anew for every pixel.
    winner = lax.cond(
        x[(0,) * x.ndim] > jnp.inf,
        lambda x: taps(x, windows, 0)[0].astype(jnp.int8),
        partial(_first_maximum, windows=windows),
        x,
    )
    return scatter(a, winner, windows=windows)


def _first_maximum(x, windows: Windows):
    """Return the number of the tap that wins each window.

    Windows over the edges are searched apart: padding all of x takes as long as that.
    """
    for axis, pads in enumerate(windows.padding):
        if any(pads):
            numbers = []
            for start, stop, part in windows.cut(axis):
                inside = not any(part.padding[axis])
                search = _first_maximum if inside else _first_maximum_at_once
                numbers.append(
                    search(lax.slice_in_dim(x, start, stop, axis=axis), part)
                )
            return lax.concatenate(numbers, axis)
    return _first_maximum_at_once(x, windows)


def _first_maximum_at_once(x, windows: Windows):
    seen = taps(x, windows, -np.inf)
    numbers = [jnp.full(tap.shape, i, jnp.int8) for i, tap in enumerate(seen)]
    return at_first_maximum(seen, numbers)


def at_first_maximum(seen: list[jax.Array], values: list[jax.Array]) -> jax.Array:
    """Return the value that belongs to the first maximum of each window.

    The comparisons are select_and_scatter's, so NaN and windows of minus infinity
    end as they do there: a tap gives way to the next unless it is at least as great.
    """
    best, result = seen[0], values[0]
    for tap, value in zip(seen[1:], values[1:]):
        stays = best >= tap
        best = jnp.where(stays, best, tap)
        result = jnp.where(stays, result, value)
    return result


def _pick_by_lax(a, x, *, windows: Windows):
    return jax.jvp(partial(_reduced, windows=windows), (x,), (a,))[1]


def _taylor(operands, series, *, windows: Windows):
    (x,), (terms,) = operands, series
    return bind(max_windows_p, x, windows=windows), [
        pick(t, x, windows=windows) for t in terms
    ]


pick, put = linear_pair("max_windows", 1, pick_on_cpu, put_on_cpu, _pick_by_lax)
# Not a `custom_jvp`: Taylor mode ends in an error there, or takes no notice of it.
max_windows_p = define(
    "jcnn_window_maxima", lambda w: w.outputs, _maxima_on_cpu, _reduced
)
ad.defjvp(max_windows_p, pick)
define_taylor(max_windows_p, _taylor)
