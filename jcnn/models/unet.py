"""U-Net."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .._layer import Layer
from ..combine import parallel, serial
from ..layers import Conv, ConvTranspose, MaxPool
from .blocks import conv_norm_relu, of_images


def unet(
    num_classes: int,
    *,
    widths: Sequence[int] = (16, 32, 64, 128),
    impl: str = "auto",
) -> Layer:
    """Return a U-Net, which gives logits for each pixel, [N, H, W, num_classes].

    Ronneberger et al., "U-Net" (2015), section 2, with what has become usual: "SAME"
    padding and batch norm. Where H or W is odd, a pool rounds up.

    >>> layer = unet(3, widths=(4, 8))
    >>> params, state = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> layer.apply(params, state, jnp.zeros((2, 8, 8, 1)))[0].shape
    (2, 8, 8, 3)
    """
    net = _unet_level(widths, impl)
    return of_images(body=net, head=Conv(num_classes, 1, impl=impl))


def _unet_level(widths: Sequence[int], impl: str) -> Layer:
    """Return two convolutions; below them, at half the size, the other widths."""
    width, *below = widths
    twice = {
        "unit1": conv_norm_relu(width, impl=impl),
        "unit2": conv_norm_relu(width, impl=impl),
    }
    if not below:
        return serial(**twice)
    inside = serial(
        pool=MaxPool(2, padding="SAME"),
        level=_unet_level(below, impl),
        up=ConvTranspose(width, 2, strides=2, impl=impl),
    )
    return serial(
        **twice,
        join=parallel(_concatenate, skip=_same, below=inside),
        unit3=conv_norm_relu(width, impl=impl),
        unit4=conv_norm_relu(width, impl=impl),
    )


def _same(x: jax.Array) -> jax.Array:
    return x


def _concatenate(skip: jax.Array, below: jax.Array) -> jax.Array:
    # One row more than an odd number, since the pool had rounded up.
    below = below[:, : skip.shape[1], : skip.shape[2]]
    return jnp.concatenate([skip, below], -1)
