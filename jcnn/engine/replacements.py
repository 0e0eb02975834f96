"""Primitives of lax that `accelerate` replaces, and their faster forms on CPUs."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from .._shapes import Pairs
from .algorithms.lax import LAX
from .canonical import canonicalize
from .lax_arguments import Convolution
from .planner import plan
from .pools.maxima import at_first_maximum, put_on_cpu
from .pools.sums import sum_of_taps
from .pools.windows import Windows, taps
from .primitive import convolve
from .sharding import sharded_by_type

FEW_TAPS = 4  # so many at stride 1 are added by reduce_window as fast

Compute = Callable[..., jax.Array]  # of the primitive's operands


class Replacement(NamedTuple):
    """A primitive of lax and its faster form on CPUs.

    Attributes:
        primitive: The primitive.
        parameters: The names of its parameters.
        example: A program that has it.
        faster: Returns what computes it, for its operands' types and its parameters;
            None if lax is as fast.
    """

    primitive: Primitive
    parameters: set[str]
    example: Callable[[jax.Array], Any]
    faster: Callable[..., Compute | None]


def _faster_convolution(lhs, rhs, **parameters) -> Compute | None:
    if sharded_by_type(lhs, rhs):
        return None
    convolution = Convolution.of(parameters)
    canonical = canonicalize(lhs, rhs, convolution)
    if canonical is None or plan(canonical.problem).algorithm is LAX:
        if convolution.is_safe(lhs, rhs):
            return None
        return partial(convolution.by_lax, out_sharding=parameters["out_sharding"])
    by_plan = partial(convolve, canonical.problem)
    return lambda x, w: canonical.result(by_plan(*canonical.operands(x, w)))


def _faster_sum(operand, **parameters) -> Compute | None:
    """Return `reduce_window_sum` by whole arrays; None where it stays with lax."""
    windows = _windows(operand, **parameters)
    if windows is None:
        return None
    if prod(windows.shape) <= FEW_TAPS and not _above_1(windows.strides):
        return None
    return partial(sum_of_taps, windows=windows)


def _faster_selection(
    compute: Compute, source, operand, *, select_prim, **parameters
) -> Compute | None:
    """Return `select_and_…_add` by whole arrays; None where it stays with lax."""
    windows, sign = _windows(source, operand, **parameters), _SIGNS.get(select_prim)
    if windows is None or sign is None:
        return None
    return lambda a, x: compute(a, sign(x), windows=windows)


def _gather(a: jax.Array, x: jax.Array, *, windows: Windows) -> jax.Array:
    seen, values = taps(x, windows, -np.inf), taps(a, windows, 0)
    # A window of minus infinity alone has the tangent 0, though not the gradient.
    lowest, zero = jnp.full_like(seen[0], -np.inf), jnp.zeros_like(values[0])
    return at_first_maximum([lowest, *seen], [zero, *values])


_DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
_SIGNS = {lax.ge_p: lambda x: x, lax.le_p: lambda x: -x}


def _windows(
    *operands: Any,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: Pairs,
    base_dilation: tuple[int, ...] = (),
    window_dilation: tuple[int, ...] = (),
) -> Windows | None:
    """Return the windows over the last operand, if whole arrays can compute them."""
    size = operands[-1].shape
    windows = Windows(size, window_dimensions, window_strides, padding)
    supported = (
        len({operand.dtype for operand in operands}) == 1
        and operands[0].dtype in _DTYPES
        and all(isinstance(n, int) and n for a in operands for n in a.shape)
        and all(pad >= 0 for pair in padding for pad in pair)
        and windows.few_taps
        and not _above_1((*base_dilation, *window_dilation))
        and not sharded_by_type(*operands)
    )
    return windows if supported else None


def _above_1(values: tuple[int, ...]) -> bool:
    return any(value > 1 for value in values)


def replacements() -> tuple[Replacement, ...]:
    """Return all that `accelerate` replaces."""

    def pool(x, start=-jnp.inf, combine=lax.max):
        return lax.reduce_window(x, start, combine, (1, 1, 2), (1, 1, 2), "VALID")

    windows = {"window_dimensions", "window_strides", "padding"}
    dilations = {"base_dilation", "window_dilation"}
    return (
        Replacement(
            lax.conv_general_dilated_p,
            {*Convolution._fields, "out_sharding"},
            lambda x: lax.conv(x, x, (1,), "VALID"),
            _faster_convolution,
        ),
        Replacement(
            lax.reduce_window_sum_p,
            windows | dilations,
            lambda x: pool(x, 0.0, lax.add),
            _faster_sum,
        ),
        Replacement(
            lax.select_and_scatter_add_p,
            windows | {"select_prim"},
            lambda x: jax.vjp(pool, x)[1](x[..., :1]),
            partial(_faster_selection, put_on_cpu),
        ),
        Replacement(
            lax.select_and_gather_add_p,
            windows | dilations | {"select_prim"},
            lambda x: jax.jvp(pool, (x,), (x,)),
            partial(_faster_selection, _gather),
        ),
    )
