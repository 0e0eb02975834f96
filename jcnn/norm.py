"""Normalisation of arrays, channels last; statistics in float32 or wider.

Squares of distances from the mean have to be finite in that dtype: in float32, x up to
about 1e19. Beyond it the result is NaN.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from ._dtypes import beside, real, wide
from ._shapes import entries, flag, integer, number, to_rank
from .engine.sums import broadcast, total


def batch_norm(
    x: ArrayLike,
    scale: ArrayLike | None,
    bias: ArrayLike | None,
    mean: ArrayLike,
    var: ArrayLike,
    *,
    train: bool,
    momentum: ArrayLike = 0.9,
    epsilon: ArrayLike = 1e-5,
    axis_name: str | Sequence[str] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise each channel by its statistics over the batch and all positions.

    Ioffe and Szegedy, "Batch Normalization" (2015), algorithms 1 and 2. In training by
    the batch's mean and biased variance, which move the running statistics:
    `new = momentum * old + (1 - momentum) * batch`. Otherwise by the latter.

    Args:
        x: [N, *anything, C], real floating point.
        scale, bias: [C] or None.
        mean, var: [C], the running statistics.
        train: Whether the batch's statistics are used; a bool that is not traced.
        momentum: Weight of the old running statistics, from 0 to 1.
        epsilon: Added to the variance, at least 0.
        axis_name: Mapped axes (of `vmap` or `shard_map`) that hold more of the batch.

    Returns:
        y of x's shape and dtype, the new mean [C], the new variance [C].

    Raises:
        ValueError: If x is empty in training, a parameter is not [C], momentum is not
            from 0 to 1, or epsilon is negative.
        TypeError: If x is not real floating point, a parameter is complex, train is
            traced, or an argument is of another type.

    >>> x = jnp.array([[1.0], [3.0]])
    >>> zero, one = jnp.zeros(1), jnp.ones(1)
    >>> y, mean, var = batch_norm(x, one, zero, zero, one, train=True, epsilon=0.0)
    >>> y.ravel(), mean
    (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32))
    """
    x = _channels_last(x)
    momentum = number("momentum", momentum, 0, 1)
    epsilon = check_epsilon(epsilon)
    mean, var = _parameter("mean", mean, x), _parameter("var", var, x)
    scale, bias = _affine(scale, bias, x)
    if not flag("train", train):
        return _normalise(x, mean, var, epsilon, scale, bias), mean, var
    if x.size == 0:
        raise ValueError(f"x must not be empty in training, got shape {x.shape}")
    axes = tuple(range(x.ndim - 1))
    batch_mean, batch_var = _statistics(x, axes, axis_name)
    y = _normalise(x, batch_mean, batch_var, epsilon, scale, bias)
    return y, _moved(mean, batch_mean, momentum), _moved(var, batch_var, momentum)


def layer_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: ArrayLike = 1e-5,
) -> jax.Array:
    """Normalise each example by its own statistics over `axis`.

    Ba, Kiros and Hinton, "Layer Normalization" (2016), section 3.

    Args:
        x: Any shape, real floating point.
        scale, bias: Of a shape that broadcasts to x's, [C] as a rule, or None.
        axis: The axes that are normalised together.
        epsilon: Added to the variance, at least 0.

    Returns:
        y of x's shape and dtype.

    Raises:
        ValueError: If x has no such axes, a parameter's shape does not broadcast, or
            epsilon is negative.
        TypeError: As `batch_norm`.

    >>> layer_norm(jnp.array([1.0, 3.0]), epsilon=0.0)
    Array([-1.,  1.], dtype=float32)
    """
    x = _channels_last(x)
    axes, epsilon = _axes(axis, x), check_epsilon(epsilon)
    scale, bias = _broadcast("scale", scale, x), _broadcast("bias", bias, x)
    mean, var = _statistics(x, axes)
    return _normalise(x, mean, var, epsilon, scale, bias)


def group_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    num_groups: int,
    epsilon: ArrayLike = 1e-5,
) -> jax.Array:
    """Normalise groups of channels of each example by their own statistics.

    Wu and He, "Group Normalization" (2018), section 3.1. With one group per channel it
    is instance normalisation.

    Args:
        x: [N, *spatial, C], real floating point.
        scale, bias: [C] or None.
        num_groups: A divisor of C.
        epsilon: Added to the variance, at least 0.

    Returns:
        y of x's shape and dtype.

    Raises:
        ValueError: If num_groups does not divide C, a parameter is not [C], or epsilon
            is negative.
        TypeError: As `batch_norm`.

    >>> group_norm(jnp.array([[1.0, 3.0, 5.0, 9.0]]), num_groups=2, epsilon=0.0)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    x = _channels_last(x)
    groups = integer("num_groups", num_groups, minimum=1)
    epsilon = check_epsilon(epsilon)
    if x.shape[-1] % groups:
        raise ValueError(
            f"num_groups={groups} must divide the {x.shape[-1]} channels of x"
        )
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    mean, var = _statistics(grouped, (*range(1, x.ndim - 1), x.ndim))
    per_group = (groups, x.shape[-1] // groups)
    scale, bias = (
        None if p is None else p.reshape(per_group) for p in _affine(scale, bias, x)
    )
    return _normalise(grouped, mean, var, epsilon, scale, bias).reshape(x.shape)


def check_epsilon(epsilon: ArrayLike) -> float | jax.Array:
    """Return `epsilon`, which must not be negative."""
    return number("epsilon", epsilon, 0)


def _channels_last(x: ArrayLike) -> jax.Array:
    x = real("x", x)
    if x.ndim < 1:
        raise ValueError("x must have channels as its last axis, got a scalar")
    return x


def _axes(axis: int | Sequence[int], x: jax.Array) -> tuple[int, ...]:
    """Return the axes, each once, counted from the first."""
    values = entries(axis)
    axes = [integer("axis", a) for a in ((axis,) if values is None else values)]
    if not axes or any(not -x.ndim <= a < x.ndim for a in axes):
        raise ValueError(
            f"axis must be one or more from {-x.ndim} to {x.ndim - 1} for x "
            f"{x.shape}, got {axis!r}"
        )
    counted = tuple(a % x.ndim for a in axes)
    if len(set(counted)) < len(counted):
        raise ValueError(f"axis must name each axis of x once, got {axis!r}")
    return counted


def _statistics(
    x: jax.Array, axes: Sequence[int], axis_name: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance in float32 or wider, with axes kept."""
    x, axes = x.astype(wide(x.dtype)), tuple(axes)

    def average(values):
        mean = total(values, axes) / prod(x.shape[i] for i in axes)
        return mean if axis_name is None else lax.pmean(mean, axis_name)

    mean = average(x)
    # Not mean(x^2) - mean^2: it cancels where the mean is large.
    centred, moved = _centred(x, mean)
    var = average(jnp.square(centred)) - jnp.square(moved)
    # Where squares overflow the result would be 0 without a sign that it is wrong.
    return mean, jnp.where(jnp.isinf(var), jnp.nan, var)


def _centred(x: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return x minus the constant value of its mean, and the mean minus it (zero).

    Their difference is x - mean. Apart, the gradient to the mean needs no sum over x.
    """
    constant = lax.stop_gradient(mean)
    return x - constant, mean - constant


def _normalise(x, mean, var, epsilon, scale, bias):
    dtype = wide(x.dtype)

    def matched(parameter):
        return to_rank(x.ndim, parameter.astype(dtype))

    def broadcast_alike(*arrays):
        shape: Any = jnp.broadcast_shapes(*(a.shape for a in arrays))
        return [broadcast(a, shape) for a in arrays]

    # y = (x - mean) * slope + bias, with as few sums over x in its gradient as it has
    # parameters.
    centred, moved = _centred(x.astype(dtype), matched(mean))
    slope = lax.rsqrt(matched(var) + jnp.asarray(epsilon, dtype))
    if scale is not None:
        slope, scale = broadcast_alike(slope, matched(scale))
        slope = slope * scale
    offset = -moved * slope
    if bias is not None:
        offset, bias = broadcast_alike(offset, matched(bias))
        offset = offset + bias
    y = centred * broadcast(slope, x.shape) + broadcast(offset, x.shape)
    return y.astype(x.dtype)


def _moved(old: jax.Array, batch: jax.Array, momentum: float | jax.Array) -> jax.Array:
    dtype = wide(old.dtype)
    batch = lax.stop_gradient(batch).reshape(old.shape).astype(dtype)
    if not isinstance(momentum, float):
        momentum = jnp.asarray(momentum, dtype)
    kept, taken = jnp.asarray(momentum, dtype), jnp.asarray(1 - momentum, dtype)
    return (kept * old.astype(dtype) + taken * batch).astype(old.dtype)


def _affine(
    scale: ArrayLike | None, bias: ArrayLike | None, x: jax.Array
) -> tuple[jax.Array | None, jax.Array | None]:
    return (
        None if scale is None else _parameter("scale", scale, x),
        None if bias is None else _parameter("bias", bias, x),
    )


def _broadcast(name: str, value: ArrayLike | None, x: jax.Array) -> jax.Array | None:
    if value is None:
        return None
    value = beside(name, value, x)
    last = x.shape[x.ndim - value.ndim :]
    if value.ndim > x.ndim or any(n not in (1, m) for n, m in zip(value.shape, last)):
        raise ValueError(
            f"{name} must be of a shape that broadcasts to x's {x.shape}, "
            f"got {value.shape}"
        )
    return value


def _parameter(name: str, value: ArrayLike, x: jax.Array) -> jax.Array:
    value = beside(name, value, x)
    if value.shape != x.shape[-1:]:
        raise ValueError(f"{name} must be of shape {x.shape[-1:]}, got {value.shape}")
    return value
