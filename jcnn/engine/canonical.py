"""Which problem the arguments of `lax.conv_general_dilated` describe.

Gradients of convolutions are convolutions too, and so lax writes them. But they look
odd: the input spread by the strides, or batch and channels exchanged and a window as
large as the image. Here they are recognised for what they are.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._shapes import Pairs, dilated
from .lax_arguments import Convolution
from .mirror import turned
from .padding import pad_now, split
from .problem import Problem


class Posed(NamedTuple):
    """A convolution as a problem: how operands come to it and its result goes back."""

    problem: Problem
    operands: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    result: Callable[[jax.Array], jax.Array]


def pose(
    lhs: Any, rhs: Any, convolution: Convolution, impl: str = "auto"
) -> Posed | None:
    """The problem that a convolution is, from the shapes and dtypes of its operands.

    None if no algorithm could serve it: sizes that are 0 or (but for the batch) not
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
    if any(d > 1 for d in c.lhs_dilation):
        return _as_input_gradient(lhs, rhs, c, outputs, impl)
    exchanged = lhs_spec[0] > lhs_spec[1]  # batch and channels, as JAX's gradients have
    large = exchanged and prod(taps) > prod(outputs) and not c.widens(lhs)
    if c.feature_group_count == 1 and (c.batch_group_count > 1 or large):
        return _as_kernel_gradient(lhs, rhs, c, outputs, impl)
    if c.batch_group_count > 1:
        return None
    return _as_it_is(lhs, rhs, c, outputs, impl)


def _as_it_is(lhs, rhs, c: Convolution, outputs, impl) -> Posed:
    numbers = c.dimension_numbers
    x_order, kernel_order = _image(numbers.lhs_spec), _kernel(numbers.rhs_spec)
    batch, *size, channels = _permuted(lhs.shape, x_order)
    *taps, _, features = _permuted(rhs.shape, kernel_order)
    now, left = split(c.padding, dilated(taps, c.rhs_dilation))
    problem = Problem(
        op="forward",
        batch=batch,
        input_size=tuple(n + sum(pair) for n, pair in zip(size, now)),
        output_size=outputs,
        kernel_size=tuple(taps),
        in_channels=channels,
        out_channels=features,
        strides=c.window_strides,
        padding=left,
        dilation=c.rhs_dilation,
        groups=c.feature_group_count,
        dtype=lhs.dtype,
        output_dtype=jnp.dtype(c.preferred_element_type or lhs.dtype),
        precision=c.precision,
        impl=impl,
    )
    return Posed(
        problem,
        lambda x, kernel: (
            pad_now(x.transpose(x_order), now),
            kernel.transpose(kernel_order),
        ),
        lambda y: y.transpose(_inverse(_image(numbers.out_spec))),
    )


def _as_input_gradient(lhs, rhs, c: Convolution, outputs, impl) -> Posed | None:
    """An input spread by strides: those of the convolution that is transposed."""
    if any(s > 1 for s in c.window_strides) or c.batch_group_count > 1:
        return None
    if c.widens(lhs):
        return None
    numbers = c.dimension_numbers
    y_order, kernel_order = _image(numbers.lhs_spec), _kernel(numbers.rhs_spec)
    batch, *size, channels = _permuted(lhs.shape, y_order)
    *taps, _, features = _permuted(rhs.shape, kernel_order)
    window = dilated(taps, c.rhs_dilation)
    lows = [k - 1 - low for k, (low, _) in zip(window, c.padding)]
    pads = _pads(outputs, size, window, c.lhs_dilation, lows)
    now, left = split(pads, window)
    if any(pair != (0, 0) for pair in now):
        return None
    problem = Problem(
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
        dtype=lhs.dtype,
        output_dtype=lhs.dtype,
        precision=c.precision,
        impl=impl,
    )
    return Posed(
        problem,
        lambda y, kernel: (
            turned(kernel.transpose(kernel_order), c.feature_group_count),
            y.transpose(y_order),
        ),
        lambda x: x.transpose(_inverse(_image(numbers.out_spec))),
    )


def _as_kernel_gradient(lhs, rhs, c: Convolution, outputs, impl) -> Posed | None:
    """A window larger than what comes out: the sum over positions is the window's."""
    if c.widens(lhs):
        return None
    numbers = c.dimension_numbers
    # What lax calls channels is the batch here, and the other way round.
    x_order = (numbers.lhs_spec[1], *numbers.lhs_spec[2:], numbers.lhs_spec[0])
    y_order = (numbers.rhs_spec[1], *numbers.rhs_spec[2:], numbers.rhs_spec[0])
    kernel_order = (*numbers.out_spec[2:], numbers.out_spec[0], numbers.out_spec[1])
    batch, *size, channels = _permuted(lhs.shape, x_order)
    _, *positions, features = _permuted(rhs.shape, y_order)
    window = dilated(outputs, c.window_strides)
    lows = [low for low, _ in c.padding]
    now, left = split(_pads(size, positions, window, c.rhs_dilation, lows), window)
    problem = Problem(
        op="kernel_gradient",
        batch=batch,
        input_size=tuple(n + sum(pair) for n, pair in zip(size, now)),
        output_size=tuple(positions),
        kernel_size=outputs,
        in_channels=channels,
        out_channels=features,
        strides=c.rhs_dilation,
        padding=left,
        dilation=c.window_strides,
        groups=c.batch_group_count,
        dtype=lhs.dtype,
        output_dtype=lhs.dtype,
        precision=c.precision,
        impl=impl,
    )
    return Posed(
        problem,
        lambda x, y: (pad_now(x.transpose(x_order), now), y.transpose(y_order)),
        lambda kernel: kernel.transpose(_inverse(kernel_order)),
    )


def _pads(size, positions, window, strides, lows) -> Pairs:
    """High padding (or cropping) so that a window has just these positions."""
    pads = []
    for n, o, k, s, low in zip(size, positions, window, strides, lows):
        rest = n + low - ((o - 1) * s + k)
        pads.append((low, 0 if 0 <= rest < s else -rest))
    return tuple(pads)


def _image(spec: Sequence[int]) -> tuple[int, ...]:
    """The axes in the order N, *spatial, C."""
    return (spec[0], *spec[2:], spec[1])


def _kernel(spec: Sequence[int]) -> tuple[int, ...]:
    """The axes in the order *spatial, I, O."""
    return (*spec[2:], spec[1], spec[0])


def _permuted(shape: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    return [shape[axis] for axis in order]


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
