"""The maximum of windows, with a gradient that is fast on CPUs.

XLA's gradient, `select_and_scatter`, walks through every window on its own. Here each
window's first maximum is found by comparing whole arrays, as the number of a tap, and
pixels take what the windows they won hand back, in the same order: the result is the
same to the bit.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from ..declaration import bind, define_taylor
from ..sharding import sharded_by_type
from .primitives import define, linear_pair
from .windows import Windows, scatter, taps


def max_windows(x: jax.Array, windows: Windows) -> jax.Array:
    """Return the maximum of each window, by `lax.reduce_window`.

    The first maximum of a window, in row-major order, gets its gradient. NaN wins, and
    what is padded counts as minus infinity.
    """
    if sharded_by_type(jax.typeof(x)):
        return _reduced(x, windows=windows)
    return bind(max_windows_p, x, windows=windows)


def _reduced(x, *, windows: Windows):
    _, shape, strides, padding = windows
    lowest = np.asarray(-np.inf, x.dtype)
    return lax.reduce_window(x, lowest, lax.max, shape, strides, padding)


def pick_on_cpu(a: jax.Array, x: jax.Array, *, windows: Windows) -> jax.Array:
    """From each window the value of `a` where `x` has its first maximum."""
    return at_first_maximum(taps(x, windows, -np.inf), taps(a, windows, 0))


def put_on_cpu(a: jax.Array, x: jax.Array, *, windows: Windows) -> jax.Array:
    """Add each window's value of `a` to where `x` has its first maximum."""
    if not x.size or not a.size:
        return jnp.zeros(x.shape, a.dtype)
    # An opaque predicate: XLA would fuse the search for the winner into the sums, and
    # search anew for every pixel. It does not know that nothing exceeds infinity.
    winner = lax.cond(
        x[(0,) * x.ndim] > jnp.inf,
        lambda x: taps(x, windows, 0)[0].astype(jnp.int8),
        partial(_first_maximum, windows=windows),
        x,
    )
    return scatter(a, winner, windows=windows)


def _first_maximum(x, windows: Windows):
    """Return the number of the tap that wins each window.

    Windows over the edges are searched apart, so that not all of x is copied to be
    padded: that takes as long as the search.
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


pick, put = linear_pair("max_windows", 1, pick_on_cpu, put_on_cpu, _pick_by_lax)

# Not a `custom_jvp`: Taylor mode ends in an error there, or takes no notice of it.
max_windows_p = define("jcnn_window_maxima", lambda w: w.outputs, _reduced, _reduced)


def _tangent(t, x, *, windows: Windows):
    return pick(t, x, windows=windows)


def _taylor(operands, series, *, windows: Windows):
    (x,), (terms,) = operands, series
    return bind(max_windows_p, x, windows=windows), [
        pick(t, x, windows=windows) for t in terms
    ]


ad.defjvp(max_windows_p, _tangent)
define_taylor(max_windows_p, _taylor)
