"""Which problem the arguments of `lax.conv_general_dilated` describe.

Gradients of convolutions are convolutions too, and so lax writes them. But they look
odd: the input dilated by the strides, or batch and channels exchanged and a window as
large as the image. Here they are recognised for what they are.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._shapes import Pairs, dilated
from .lax_arguments import Convolution
from .padding import pad
from .problem import Problem
from .transposed import transposed_kernel
from .xla_faults import split_padding


class Canonical(NamedTuple):
    """A convolution as a problem: how operands come to it and its result goes back."""

    problem: Problem
    operands: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    result: Callable[[jax.Array], jax.Array]


def canonicalize(
    lhs: Any, rhs: Any, convolution: Convolution, impl: str = "auto"
) -> Canonical | None:
    """The problem that a convolution is, from the shapes and dtypes of its operands.

    None if no algorithm could compute it: sizes that are 0 or (but for the batch) not
    known yet, numbers that are not floating, strides in input and output at once.
    """
    c, rank = convolution, len(convolution.window_strides)
    lhs_spec, rhs_spec, _ = c.dimension_numbers
    known = (*(lhs.shape[axis] for axis in lhs_spec[1:]), *rhs.shape)
    if rank not in (1, 2, 3) or not all(isinstance(n, int) and n for n in known):
        return None
    if lhs.shape[lhs_spec[0]] == 0 or lhs.dtype != rhs.dtype:
        return None
    if not jnp.issubdtype(lhs.dtype, jnp.inexact):
        return None
    _, taps, outputs = zip(*c.sizes(lhs, rhs))
    if min(outputs) <= 0:
        return None

    def problem(**sizes: Any) -> Problem:
        result = jnp.dtype(c.preferred_element_type or lhs.dtype)
        types = dict(dtype=lhs.dtype, output_dtype=result)
        return Problem(**sizes, **types, precision=c.precision, impl=impl)

    if any(d > 1 for d in c.lhs_dilation):
        if max(c.window_strides) > 1 or c.batch_group_count > 1 or c.widens(lhs):
            return None
        return _input_gradient(lhs, rhs, c, outputs, problem)
    exchanged = lhs_spec[0] > lhs_spec[1]  # batch and channels, as JAX's gradients have
    large = exchanged and prod(taps) > prod(outputs) and not c.widens(lhs)
    if c.feature_group_count == 1 and (c.batch_group_count > 1 or large):
        if c.widens(lhs):
            return None
        return _kernel_gradient(lhs, rhs, c, outputs, problem)
    if c.batch_group_count > 1:
        return None
    return _forward(lhs, rhs, c, outputs, problem)


def _forward(lhs, rhs, c: Convolution, outputs, problem) -> Canonical:
    x_order, kernel_order, y_order = _orders(c)
    batch, *size, channels = _permuted(lhs.shape, x_order)
    *taps, _, features = _permuted(rhs.shape, kernel_order)
    now, left = split_padding(c.padding, c.window(rhs))
    return Canonical(
        problem(
            op="forward",
            batch=batch,
            input_size=_padded(size, now),
            output_size=outputs,
            kernel_size=tuple(taps),
            in_channels=channels,
            out_channels=features,
            strides=c.window_strides,
            padding=left,
            dilation=c.rhs_dilation,
            groups=c.feature_group_count,
        ),
        lambda x, kernel: (
            pad(x.transpose(x_order), now),
            kernel.transpose(kernel_order),
        ),
        lambda y: y.transpose(_inverse(y_order)),
    )


def _input_gradient(lhs, rhs, c: Convolution, outputs, problem) -> Canonical | None:
    """An input dilated by strides: those of the convolution that is transposed."""
    y_order, kernel_order, x_order = _orders(c)
    batch, *size, channels = _permuted(lhs.shape, y_order)
    *taps, _, features = _permuted(rhs.shape, kernel_order)
    window = c.window(rhs)
    lows = [k - 1 - low for k, (low, _) in zip(window, c.padding)]
    pads = _pads(outputs, size, window, c.lhs_dilation, lows)
    now, left = split_padding(pads, window)
    if any(pair != (0, 0) for pair in now):
        return None
    return Canonical(
        problem(
            op="input_gradient",
            batch=batch,
            input_size=outputs,
            output_size=tuple(size),
            kernel_size=tuple(taps),
            in_channels=features,
            out_channels=channels,
            strides=c.lhs_dilation,
            padding=left,
            dilation=c.rhs_dilation,
            groups=c.feature_group_count,
        ),
        lambda y, kernel: (
            transposed_kernel(kernel.transpose(kernel_order), c.feature_group_count),
            y.transpose(y_order),
        ),
        lambda x: x.transpose(_inverse(x_order)),
    )


def _kernel_gradient(lhs, rhs, c: Convolution, outputs, problem) -> Canonical:
    """A window larger than what comes out: the sum over positions is the window's.

    What lax calls channels is the batch here, and the other way round.
    """
    lhs_spec, rhs_spec, out_spec = c.dimension_numbers
    x_order = (lhs_spec[1], *lhs_spec[2:], lhs_spec[0])
    y_order = (rhs_spec[1], *rhs_spec[2:], rhs_spec[0])
    kernel_order = (*out_spec[2:], out_spec[0], out_spec[1])
    batch, *size, channels = _permuted(lhs.shape, x_order)
    _, *positions, features = _permuted(rhs.shape, y_order)
    window = dilated(outputs, c.window_strides)
    lows = [low for low, _ in c.padding]
    pads = _pads(size, positions, window, c.rhs_dilation, lows)
    now, left = split_padding(pads, window)
    return Canonical(
        problem(
            op="kernel_gradient",
            batch=batch,
            input_size=_padded(size, now),
            output_size=tuple(positions),
            kernel_size=outputs,
            in_channels=channels,
            out_channels=features,
            strides=c.rhs_dilation,
            padding=left,
            dilation=c.window_strides,
            groups=c.batch_group_count,
        ),
        lambda x, y: (pad(x.transpose(x_order), now), y.transpose(y_order)),
        lambda kernel: kernel.transpose(_inverse(kernel_order)),
    )


def _pads(size, positions, window, strides, lows) -> Pairs:
    """High padding (or cropping) so that a window has just these positions."""
    pads = []
    for n, o, k, s, low in zip(size, positions, window, strides, lows):
        rest = n + low - ((o - 1) * s + k)
        pads.append((low, 0 if 0 <= rest < s else -rest))
    return tuple(pads)


def _padded(size, pads: Pairs) -> tuple[int, ...]:
    return tuple(n + sum(pair) for n, pair in zip(size, pads))


def _orders(c: Convolution) -> tuple[tuple[int, ...], ...]:
    """The axes of both operands and the result in the orders NHWC, HWIO, NHWC."""
    lhs, rhs, out = c.dimension_numbers
    return (
        (lhs[0], *lhs[2:], lhs[1]),
        (*rhs[2:], rhs[1], rhs[0]),
        (out[0], *out[2:], out[1]),
    )


def _permuted(shape: tuple[int, ...], order: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in order]


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
