"""A convolution and its gradients as functions of arrays, from a `Shape`."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jcnn import conv, conv_transpose

from .shapes import Shape

OPERATIONS = ("f", "gx", "gw")


def operands(shape: Shape) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return x, w and y, the input, kernel and output of a convolution in float32.

    >>> [a.shape for a in operands(Shape(8, (16,), 3, 4, kernel=5, strides=2))]
    [(8, 16, 3), (5, 3, 4), (8, 8, 4)]
    """
    size, channels = (shape.kernel,) * len(shape.size), shape.in_channels
    image = (shape.batch, *shape.size, channels)
    kernel = (*size, channels // shape.groups, shape.out_channels)
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (image, kernel))
    return x, w, jax.eval_shape(convolution(shape, "lax"), x, w)


def convolution(shape: Shape, impl: str) -> Callable[..., jax.Array]:
    """Return the convolution f(x, w), computed by `impl`."""
    if shape.transposed:
        return partial(conv_transpose, strides=shape.strides, impl=impl)
    return partial(
        conv,
        strides=shape.strides,
        kernel_dilation=shape.dilation,
        feature_group_count=shape.groups,
        impl=impl,
    )


def operation(shape: Shape, name: str, impl: str) -> Callable[..., jax.Array]:
    """Return one of OPERATIONS as a function of (x, w, y).

    For gx and gw, y is the cotangent.

    >>> shape = Shape(8, (16,), 3, 4, kernel=5, strides=2)
    >>> functions = [operation(shape, name, "lax") for name in OPERATIONS]
    >>> [jax.eval_shape(f, *operands(shape)).shape for f in functions]
    [(8, 8, 4), (8, 16, 3), (5, 3, 4)]
    """
    f = convolution(shape, impl)
    if name == "f":
        return lambda x, w, y: f(x, w)
    if name == "gx":
        return lambda x, w, y: jax.vjp(lambda x: f(x, w), x)[1](y)[0]
    return lambda x, w, y: jax.vjp(lambda w: f(x, w), w)[1](y)[0]
