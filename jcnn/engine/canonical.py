"""From the arguments of `lax.conv_general_dilated` to one of the three operations.

lax writes gradients of convolutions as convolutions: the input dilated by the strides,
or batch and channels exchanged and a window as large as the image.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._shapes import Pairs, dilated
from .lax_arguments import Convolution
from .padding import pad
from .problem import Op, Problem
from .transposed import transposed_kernel
from .xla_faults import split_padding


class Canonical(NamedTuple):
    """A convolution as a problem.

    Attributes:
        problem: The operation.
        orders: How to transpose lhs, rhs and the result.
        pads: How to pad (or crop) x beforehand.
        features: The axes of lhs, rhs and the result of which groups become models.
    """

    problem: Problem
    orders: tuple[tuple[int, ...], ...]
    pads: Pairs
    features: tuple[int, int, int] | None = None

    def operands(self, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.features is None:
            return self._operands(lhs, rhs)
        models = [self._split(a, axis) for a, axis in zip((lhs, rhs), self.features)]
        return jax.vmap(self._operands)(*models)

    def result(self, result: jax.Array) -> jax.Array:
        if self.features is None:
            return self._result(result)
        result, axis = jax.vmap(self._result)(result), self.features[2]
        shape = list(result.shape[1:])
        shape[axis] *= len(result)
        return jnp.moveaxis(result, 0, axis).reshape(shape)

    def _split(self, a: jax.Array, axis: int) -> jax.Array:
        shape = [*a.shape[:axis], self.problem.models, -1, *a.shape[axis + 1 :]]
        return jnp.moveaxis(a.reshape(shape), axis, 0)

    def _operands(self, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
        lhs, rhs = lhs.transpose(self.orders[0]), rhs.transpose(self.orders[1])
        if self.problem.op == "input_gradient":
            return transposed_kernel(rhs, self.problem.groups), lhs
        return pad(lhs, self.pads), rhs

    def _result(self, result: jax.Array) -> jax.Array:
        order = self.orders[2]
        return result.transpose(sorted(range(len(order)), key=order.__getitem__))


def canonicalize(
    lhs: Any, rhs: Any, convolution: Convolution, impl: str = "auto"
) -> Canonical | None:
    """Return a convolution as a problem, from the shapes and dtypes of its operands.

    None if no algorithm could compute it: sizes of 0 or (but for the batch) not known
    yet, integers, strides in input and output at once.
    """
    c, rank = convolution, len(convolution.window_strides)
    lhs_spec, *_ = c.dimension_numbers
    known = (*(lhs.shape[axis] for axis in lhs_spec[1:]), *rhs.shape)
    if rank not in (1, 2, 3) or not all(isinstance(n, int) and n for n in known):
        return None
    if lhs.shape[lhs_spec[0]] == 0 or lhs.dtype != rhs.dtype:
        return None
    if not jnp.issubdtype(lhs.dtype, jnp.inexact):
        return None
    if c.feature_group_count > 1 and _is_kernel_gradient(lhs, rhs, c):
        return _of_each_example(lhs, rhs, c, impl)
    _, _, outputs = zip(*c.sizes(lhs, rhs))
    op = _operation(lhs, rhs, c)
    if min(outputs) <= 0 or op is None or op != "forward" and c.widens(lhs):
        return None
    orders = _orders(c, op)
    batch, *size, channels = _permuted(lhs.shape, orders[0])
    second = _permuted(rhs.shape, orders[1])
    features, groups = second[-1], c.feature_group_count
    lows = [low for low, _ in c.padding]
    if op == "forward":
        sizes = size, second[:-2], outputs  # of x, the kernel and y
        strides, dilation = c.window_strides, c.rhs_dilation
    elif op == "input_gradient":
        sizes = outputs, second[:-2], size
        strides, dilation = c.lhs_dilation, c.rhs_dilation
        channels, features = features, channels
        lows = [k - 1 - low for k, low in zip(c.window(rhs), lows)]
    else:
        sizes, groups = (size, outputs, second[1:-1]), c.batch_group_count
        strides, dilation = c.rhs_dilation, c.window_strides
    input_size, kernel_size, output_size = map(tuple, sizes)
    window = dilated(kernel_size, dilation)
    pads = c.padding
    if op != "forward":
        pads = _pads(input_size, output_size, window, strides, lows)
    now, left = split_padding(pads, window)
    if op == "input_gradient" and any(map(any, now)):
        return None
    problem = Problem(
        op=op,
        batch=batch,
        input_size=tuple(n + sum(pair) for n, pair in zip(input_size, now)),
        output_size=output_size,
        kernel_size=kernel_size,
        in_channels=channels,
        out_channels=features,
        strides=strides,
        padding=left,
        dilation=dilation,
        groups=groups,
        dtype=lhs.dtype,
        output_dtype=jnp.dtype(c.preferred_element_type or lhs.dtype),
        precision=c.precision,
        impl=impl,
    )
    return Canonical(problem, orders, now)


def _operation(lhs: Any, rhs: Any, c: Convolution) -> Op | None:
    if any(d > 1 for d in c.lhs_dilation):  # by the strides of what it is a gradient of
        strided = any(s > 1 for s in c.window_strides)
        return None if strided or c.batch_group_count > 1 else "input_gradient"
    if c.batch_group_count > 1:
        return "kernel_gradient" if c.feature_group_count == 1 else None
    return "kernel_gradient" if _is_kernel_gradient(lhs, rhs, c) else "forward"


def _is_kernel_gradient(lhs: Any, rhs: Any, c: Convolution) -> bool:
    """Return whether the window is the image: its sum is that over positions."""
    if any(d > 1 for d in c.lhs_dilation) or c.batch_group_count > 1 or c.widens(lhs):
        return False
    _, taps, outputs = zip(*c.sizes(lhs, rhs))
    lhs_spec, *_ = c.dimension_numbers
    exchanged = lhs_spec[0] > lhs_spec[1]  # batch and channels, as JAX's gradients have
    return exchanged and prod(taps) > prod(outputs)


def _of_each_example(lhs: Any, rhs: Any, c: Convolution, impl: str) -> Canonical | None:
    """Return the models that `vmap(grad(…))` makes groups of: kernels' gradients."""
    groups = c.feature_group_count
    numbers = c.dimension_numbers
    features = numbers.lhs_spec[1], numbers.rhs_spec[0], numbers.out_spec[1]

    def part(a: Any, axis: int) -> jax.ShapeDtypeStruct:
        shape = list(a.shape)
        shape[axis] //= groups
        return jax.ShapeDtypeStruct(shape, a.dtype)

    one = canonicalize(
        part(lhs, features[0]),
        part(rhs, features[1]),
        c._replace(feature_group_count=1),
        impl,
    )
    if one is None:
        return None
    problem = replace(one.problem, models=groups)
    return one._replace(problem=problem, features=features)


def _orders(c: Convolution, op: Op) -> tuple[tuple[int, ...], ...]:
    """Return the axes as NHWC and HWIO; of a kernel gradient lax's C is the batch."""
    lhs, rhs, out = c.dimension_numbers
    if op == "kernel_gradient":
        return (
            (lhs[1], *lhs[2:], lhs[0]),
            (rhs[1], *rhs[2:], rhs[0]),
            (*out[2:], out[0], out[1]),
        )
    return (
        (lhs[0], *lhs[2:], lhs[1]),
        (*rhs[2:], rhs[1], rhs[0]),
        (out[0], *out[2:], out[1]),
    )


def _pads(size, positions, window, strides, lows) -> Pairs:
    """Return the padding (or cropping) with which a window has these positions."""
    pads = []
    for n, o, k, s, low in zip(size, positions, window, strides, lows):
        rest = n + low - ((o - 1) * s + k)
        pads.append((low, 0 if 0 <= rest < s else -rest))
    return tuple(pads)


def _permuted(shape: tuple[int, ...], order: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in order]
