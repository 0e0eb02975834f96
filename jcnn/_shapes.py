"""Canonical forms of the arguments that describe windows, and the sizes they imply."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer, max_dim
from jax.extend.core import InconclusiveDimensionOperation
from jax.typing import ArrayLike

from ._dtypes import floating

Pairs = tuple[tuple[int, int], ...]
Padding = str | int | Sequence[int | Sequence[int]]

_PADDINGS = (
    '"SAME", "SAME_LOWER", "VALID", an int, '
    "or one int or (low, high) pair per spatial dimension"
)


def image(x: ArrayLike) -> tuple[jax.Array, int]:
    """Return x as an array [N, *spatial, C] of floats, and its spatial rank."""
    x = floating("x", x)
    return x, spatial_rank(x)


def spatial_rank(x: Any) -> int:
    """Return the number of spatial dimensions of x [N, *spatial, C]."""
    rank = len(x.shape) - 2
    if rank not in (1, 2, 3):
        raise ValueError(
            "x must be [N, *spatial, C] with 1 to 3 spatial dimensions, "
            f"got shape {x.shape}"
        )
    return rank


def to_rank(rank: int, array: jax.Array) -> jax.Array:
    """Return the array with leading axes of size 1, as for broadcasting."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def integer(name: str, value: Any, *, minimum: int | None = None) -> int:
    """Return `value` as a Python int of at least `minimum`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if minimum is not None and result < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return result


def number(
    name: str, value: Any, minimum: float, maximum: float = math.inf
) -> float | jax.Array:
    """Return `value` as a finite Python float from `minimum` to `maximum`.

    Traced values are returned unchecked.
    """
    traced = isinstance(value, Tracer)
    scalar = value if traced else np.asarray(value)
    kinds = jnp.floating, jnp.integer
    if scalar.ndim or not any(jnp.issubdtype(scalar.dtype, kind) for kind in kinds):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if traced:
        return value
    result = float(scalar)
    if not (minimum <= result <= maximum and math.isfinite(result)):
        allowed = f"from {minimum} to {maximum}"
        if maximum == math.inf:
            allowed = f"finite and at least {minimum}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return result


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool; it must not be traced."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name} must be True or False before the program runs, got {value.aval}: "
            f'jit with static_argnames="{name}"'
        )
    if not (np.ndim(value) == 0 and np.asarray(value).dtype == bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def entries(value: Any) -> Sequence[Any] | None:
    """Return the entries of a sequence or an array; None if it is neither."""
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        return list(value)
    return value if isinstance(value, Sequence) else None


def sizes(name: str, value: Any, rank: int, *, minimum: int = 1) -> tuple[int, ...]:
    """Return one int per spatial dimension, from an int or `rank` ints."""
    values = entries(value)
    if values is None:
        return (integer(name, value, minimum=minimum),) * rank
    if len(values) != rank:
        raise ValueError(
            f"{name} must be an int or a sequence of {rank} ints, got {value!r}"
        )
    return tuple(integer(name, v, minimum=minimum) for v in values)


def dilated(size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Return sizes with `dilation - 1` holes between neighbours."""
    return tuple((n - 1) * d + 1 if n else 0 for n, d in zip(size, dilation))


def pad_pairs(
    padding: Any, size: Sequence[int], window: Sequence[int], strides: Sequence[int]
) -> Pairs:
    """Return the (low, high) padding of each spatial dimension.

    `size` and `window` are the sizes after dilation. "SAME" pads so that the output
    has ceil(size / stride) positions, an odd pixel behind ("SAME_LOWER": before).
    """
    rank = len(size)
    if isinstance(padding, str):
        kind = padding.upper()
        if kind == "VALID":
            return ((0, 0),) * rank
        if kind not in ("SAME", "SAME_LOWER"):
            raise ValueError(f"padding must be {_PADDINGS}, got {padding!r}")
        totals = [
            max_dim((-(-n // s) - 1) * s + k - n, 0)
            for n, k, s in zip(size, window, strides)
        ]
        if kind == "SAME":
            return tuple((total // 2, total - total // 2) for total in totals)
        return tuple((total - total // 2, total // 2) for total in totals)
    values = entries(padding)
    if values is None:
        amount = _amount(padding, padding)
        return ((amount, amount),) * rank
    if len(values) != rank:
        raise ValueError(
            f"padding must be {_PADDINGS}; there are {rank} spatial dimensions, "
            f"got {padding!r}"
        )
    pairs = []
    for value in values:
        pair = entries(value)
        if pair is None:
            pair = (value, value)
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"padding must be {_PADDINGS}, got {padding!r}")
        pairs.append((_amount(pair[0], padding), _amount(pair[1], padding)))
    return tuple(pairs)


def _amount(value: Any, padding: Any) -> int:
    """Return the padding of one side, an entry of `padding`."""
    try:
        return integer("padding", value)
    except TypeError:
        where = "" if value is padding else f" in {padding!r}"
        raise TypeError(f"padding must be {_PADDINGS}, got {value!r}{where}") from None


def less(a: int, b: int) -> bool:
    """Return whether a < b; False if that depends on symbolic sizes."""
    try:
        return a < b
    except InconclusiveDimensionOperation:
        return False


def output_size(
    size: Sequence[int], window: Sequence[int], strides: Sequence[int], pads: Pairs
) -> tuple[int, ...]:
    """Return `num_positions`, which must not be less than 1.

    Raises:
        ValueError: If the window does not fit into the padded input.
    """
    for axis, (n, k, (lo, hi)) in enumerate(zip(size, window, pads)):
        if less(n + lo + hi, k):
            raise ValueError(
                f"the window of {k} (after dilation) is larger than the input of {n} "
                f"padded by {(lo, hi)} in spatial dimension {axis} of x "
                "[N, *spatial, C]"
            )
    return num_positions(size, window, strides, pads)


def num_positions(
    size: Sequence[int], window: Sequence[int], strides: Sequence[int], pads: Pairs
) -> tuple[int, ...]:
    """Return floor((size + low + high - window) / stride) + 1 per dimension."""
    axes = zip(size, window, strides, pads)
    return tuple((n + low + high - k) // s + 1 for n, k, s, (low, high) in axes)
