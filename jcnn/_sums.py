"""Sums over runs of axes that are fast on CPUs, with the same bits on all of them.

XLA gives long sums to YNNPACK, whose order depends on the number of threads, and which
computes some programs wrongly (jax#39103). Without it XLA first writes all that is to
be summed, and then adds it up on one core. Here eight rows are added as they are
computed, so that an eighth is left for that.

A sum and a broadcast are each other's transpose. As primitives both stay so: the
gradient of what was spread is a sum of this kind.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._eager import define_eager
from .engine.meshes import sharded_by_type, type_like
from .engine.portability import is_divided

_ROWS, _LANES = 8, 128  # rows that are added at once, and the most side by side
_FEW = 64  # of both together: so few would leave most of the sum to one core


def total(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum over the axes, which are kept with length 1.

    >>> total(jnp.ones((2, 3, 4)), (0, 1))
    Array([[[6., 6., 6., 6.]]], dtype=float32)
    """
    run = tuple(sorted(set(axes) - {x.ndim - 1}))
    if _is_run(run, x.shape) and not sharded_by_type(jax.typeof(x)):
        x = sum_p.bind(x, axes=run)
        axes = tuple(set(axes) - set(run))
    return jnp.sum(x, axes, keepdims=True) if axes else x


def spread(a: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`a` broadcast to a shape of as many axes.

    >>> spread(jnp.ones((1, 2)), (2, 2))
    Array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    run = _axes(a.shape[:-1], shape)
    if not _is_run(run, shape) or sharded_by_type(jax.typeof(a)):
        return jnp.broadcast_to(a, shape)
    wider = jnp.broadcast_to(a, (*a.shape[:-1], shape[-1]))
    return spread_p.bind(wider, shape=shape)


def _axes(shape: tuple[int, ...], wider: tuple[int, ...]) -> tuple[int, ...]:
    """Those along which a broadcast repeats."""
    return tuple(i for i, (n, m) in enumerate(zip(shape, wider)) if n != m)


def _is_run(axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether the axes follow one another, in a shape that is known and not empty."""
    known = all(isinstance(n, int) and n for n in shape)
    return known and len(axes) > 0 and axes[-1] - axes[0] + 1 == len(axes)


# --- what they compute ---


def _sum(x: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(x, axes, keepdims=True)


def _sum_on_cpu(x: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
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
    """The sum along an axis, in words that XLA does not give to YNNPACK."""
    return lax.reduce(x, jnp.zeros((), x.dtype), lambda a, b: a - (-b), (axis,))


def _spread(a: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(a, shape)


# --- as primitives ---

sum_p, spread_p = Primitive("jcnn_sum"), Primitive("jcnn_spread")


@sum_p.def_abstract_eval
def _sum_type(x, *, axes):
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return type_like(x, kept, x.dtype)


@spread_p.def_abstract_eval
def _spread_type(a, *, shape):
    return type_like(a, shape, a.dtype)


def _sum_batched(operands, mapped, *, axes):
    x = jnp.moveaxis(operands[0], mapped[0], 0)
    return total(x, tuple(i + 1 for i in axes)), 0


def _spread_batched(operands, mapped, *, shape):
    a = jnp.moveaxis(operands[0], mapped[0], 0)
    return spread(a, (a.shape[0], *shape)), 0


def _lower_sum_on_cpu(context, x, *, axes):
    # What is added among devices has to be a sum that XLA knows as one.
    compute = _sum if is_divided(context) else _sum_on_cpu
    return mlir.lower_fun(compute, multiple_results=False)(context, x, axes=axes)


define_eager(sum_p, _sum)
define_eager(spread_p, _spread)
ad.deflinear2(sum_p, lambda t, x, *, axes: [spread(t, x.aval.shape)])
ad.deflinear2(spread_p, lambda t, a, *, shape: [total(t, _axes(a.aval.shape, shape))])
batching.primitive_batchers[sum_p] = _sum_batched
batching.primitive_batchers[spread_p] = _spread_batched
jet.deflinear(sum_p)
jet.deflinear(spread_p)
mlir.register_lowering(sum_p, mlir.lower_fun(_sum, multiple_results=False))
mlir.register_lowering(sum_p, _lower_sum_on_cpu, platform="cpu")
mlir.register_lowering(spread_p, mlir.lower_fun(_spread, multiple_results=False))
