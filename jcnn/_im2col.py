"""Patches of an image as rows of a matrix, and the adjoint."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from ._dtypes import floating, wide
from ._shapes import Padding, dilated, image, output_size, pad_pairs, sizes


def im2col(
    x: jax.Array,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    kernel_dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Return the flattened patch under every position of a window.

    A convolution is `im2col(x, size) @ kernel.reshape(-1, features)`.

    Args:
        x: [N, *spatial, C], 1 to 3 spatial dimensions.
        kernel_size: The window, one int or one per spatial dimension.
        strides, kernel_dilation: As for `conv`.
        padding: "SAME" | "SAME_LOWER" | "VALID" | int | ints or pairs; with zeros.

    Returns:
        [N, *positions, prod(kernel_size) * C], taps and channels in the order of a
        kernel [*kernel_size, C, O].

    Raises:
        ValueError: If an argument does not fit the rank of x, or the window is larger
            than the padded input.

    >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> im2col(x, 2)[0, 0, 0]
    Array([0., 1., 3., 4.], dtype=float32)
    """
    x, rank = image(x)
    size = sizes("kernel_size", kernel_size, rank)
    strides = sizes("strides", strides, rank)
    dilation = sizes("kernel_dilation", kernel_dilation, rank)
    window = dilated(size, dilation)
    pads = pad_pairs(padding, x.shape[1:-1], window, strides)
    output_size(x.shape[1:-1], window, strides, pads)
    wider = x.astype(wide(x.dtype))  # for the adjoint, which sums
    padding_config = ((0, 0, 0), *((*pair, 0) for pair in pads), (0, 0, 0))
    wider = lax.pad(wider, jnp.zeros((), wider.dtype), padding_config)
    return window_patches(wider, size, strides, dilation).astype(x.dtype)


def col2im(
    patches: jax.Array,
    spatial_shape: Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    kernel_dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Add every patch back to where `im2col` took it from: its exact adjoint.

    Args:
        patches: [N, *positions, prod(kernel_size) * C].
        spatial_shape: The spatial sizes of the image.
        kernel_size, strides, padding, kernel_dilation: As for `im2col`.

    Returns:
        [N, *spatial_shape, C].

    Raises:
        ValueError: If patches is not of the shape that `im2col` gives.

    >>> x = jnp.ones((1, 3, 3, 1))
    >>> col2im(im2col(x, 2), (3, 3), 2)[0, :, :, 0]
    Array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]], dtype=float32)
    """
    patches = floating("patches", patches)
    if not isinstance(spatial_shape, Sequence):
        raise TypeError(f"spatial_shape must be a sequence, got {spatial_shape!r}")
    rank = len(spatial_shape)
    spatial_shape = sizes("spatial_shape", spatial_shape, rank)
    taps = prod(sizes("kernel_size", kernel_size, rank))
    if patches.ndim != rank + 2 or patches.shape[-1] % taps:
        raise ValueError(
            f"patches must be [N, *positions, C * {taps}] with {rank} spatial "
            f"dimensions, got shape {patches.shape}"
        )
    image = jax.ShapeDtypeStruct(
        (patches.shape[0], *spatial_shape, patches.shape[-1] // taps), patches.dtype
    )
    unfold = partial(
        im2col,
        kernel_size=kernel_size,
        strides=strides,
        padding=padding,
        kernel_dilation=kernel_dilation,
    )
    expected = jax.eval_shape(unfold, image).shape
    if patches.shape != expected:
        raise ValueError(f"patches must be {expected}, got {patches.shape}")
    (x,) = jax.linear_transpose(unfold, image)(patches)
    return x


def window_patches(
    x: jax.Array,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> jax.Array:
    """Return the patches of all positions, without padding: [N, *out, taps * C]."""
    # Stacked before the channels and not concatenated along them: there XLA would
    # choose the tap for every number, here for every row of channels (on a CPU).
    taps = jnp.stack(window_taps(x, kernel_size, strides, dilation), axis=-2)
    return taps.reshape(*taps.shape[:-2], taps.shape[-2] * taps.shape[-1])


def window_taps(
    x: jax.Array,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> list[jax.Array]:
    """Return for each tap of the window its pixels at all positions, [N, *out, C]."""
    window = dilated(kernel_size, dilation)
    positions = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, strides)]
    taps = []
    for tap in product(*map(range, kernel_size)):
        start = [i * d for i, d in zip(tap, dilation)]
        stop = [b + (o - 1) * s + 1 for b, o, s in zip(start, positions, strides)]
        stop = (x.shape[0], *stop, x.shape[-1])
        taps.append(lax.slice(x, (0, *start, 0), stop, (1, *strides, 1)))
    return taps
