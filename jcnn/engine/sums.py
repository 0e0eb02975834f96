"""Sums over runs of axes that are fast on CPUs, with the same bits on all of them.

XLA gives long sums to YNNPACK (XLA-FAULT sums by YNNPACK). Without it, it writes all
that is to be summed, and adds it up on one core. Here eight rows are added as they are
computed, and an eighth is left. A sum and a broadcast, as primitives, are each other's
transpose: the gradient of what was broadcast is a sum of this kind.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from .declaration import declare, define_linear, define_lowering
from .sharding import is_divided, sharded_by_type

_ROWS, _LANES = 8, 128  # rows that are added at once, and the most side by side
_FEW = 64  # of both together: so few would leave most of the sum to one core


def total(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Return the sum over the axes, which are kept with length 1.

    >>> total(jnp.ones((2, 3, 4)), (0, 1))
    Array([[[6., 6., 6., 6.]]], dtype=float32)
    """
    run = tuple(sorted(set(axes) - {x.ndim - 1}))
    if _is_run(run, x.shape) and not sharded_by_type(jax.typeof(x)):
        x = sum_p.bind(x, axes=run)
        axes = tuple(set(axes) - set(run))
    return jnp.sum(x, axes, keepdims=True) if axes else x


def broadcast(a: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return `a` broadcast to a shape of as many axes.

    >>> broadcast(jnp.ones((1, 2)), (2, 2))
    Array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    run = _axes(a.shape[:-1], shape)
    if not _is_run(run, shape) or sharded_by_type(jax.typeof(a)):
        return jnp.broadcast_to(a, shape)
    wider = jnp.broadcast_to(a, (*a.shape[:-1], shape[-1]))
    return broadcast_p.bind(wider, shape=shape)


def _axes(shape: tuple[int, ...], wider: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes along which a broadcast repeats."""
    return tuple(i for i, (n, m) in enumerate(zip(shape, wider)) if n != m)


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a sum that keeps its axes."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _is_run(axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether the axes are consecutive, and the shape known and not empty."""
    known = all(isinstance(n, int) and n for n in shape)
    return known and len(axes) > 0 and axes[-1] - axes[0] + 1 == len(axes)


# --- what they compute ---


def _sum(x: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(x, axes, keepdims=True)


def _sum_on_cpu(x: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    kept = _kept(x.shape, axes)
    before, after = x.shape[: axes[0]], x.shape[axes[-1] + 1 :]
    count = prod(x.shape) // prod(kept)
    rows = max(n for n in range(1, _ROWS + 1) if count % n == 0)
    lanes = max(n for n in range(1, _LANES + 1) if count // rows % n == 0)
    x = x.reshape(*before, count, *after)
    if rows * lanes < min(_FEW, count):  # zeros make the count one that divides well
        rows, lanes = _ROWS, min(_LANES, -(-count // _ROWS))
        pads = [(0, 0, 0)] * x.ndim
        pads[axes[0]] = (0, -count % (rows * lanes), 0)
        x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(*before, -1, rows, lanes, *after)
    # XLA would make one sum of both.
    x = lax.optimization_barrier(_added(x, axes[0] + 1))
    return _added(x.reshape(*before, -1, *after), axes[0]).reshape(kept)


def _added(x: jax.Array, axis: int) -> jax.Array:
    """Return the sum along an axis, which XLA does not give to YNNPACK."""
    return lax.reduce(x, jnp.zeros((), x.dtype), lambda a, b: a - (-b), (axis,))


# --- as primitives ---


def _sum_batched(operands, mapped, *, axes):
    x = jnp.moveaxis(operands[0], mapped[0], 0)
    return total(x, tuple(i + 1 for i in axes)), 0


def _broadcast_batched(operands, mapped, *, shape):
    a = jnp.moveaxis(operands[0], mapped[0], 0)
    return broadcast(a, (a.shape[0], *shape)), 0


sum_p = declare(
    "jcnn_sum", lambda x, *, axes: (_kept(x.shape, axes), x.dtype), _sum_batched
)
broadcast_p = declare(
    "jcnn_broadcast", lambda a, *, shape: (shape, a.dtype), _broadcast_batched
)
# What is added among devices has to be a sum that XLA knows as one.
define_lowering(
    sum_p, _sum, lambda context: _sum if is_divided(context) else _sum_on_cpu, _sum
)
define_lowering(
    broadcast_p, jnp.broadcast_to, lambda _: jnp.broadcast_to, jnp.broadcast_to
)
define_linear(sum_p, lambda t, x, *, axes: broadcast(t, x.shape))
define_linear(broadcast_p, lambda t, a, *, shape: total(t, _axes(a.shape, shape)))
