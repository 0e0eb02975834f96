"""What several networks are made of."""

from functools import partial

import jax
import jax.numpy as jnp  # noqa: F401  # for the example

from .._layer import Layer
from .._shapes import Padding
from ..combine import Part, serial
from ..layers import BatchNorm, Conv


def conv_norm_relu(
    features: int,
    kernel_size: int = 3,
    *,
    strides: int = 1,
    padding: Padding = "SAME",
    impl: str = "auto",
) -> Layer:
    """Return a convolution without bias, batch norm and ReLU.

    >>> params, _ = conv_norm_relu(4).init(jax.random.key(0), jnp.zeros((1, 5, 5, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'conv': {'kernel': (3, 3, 2, 4)}, 'norm': {'bias': (4,), 'scale': (4,)}}
    """
    return serial(
        conv=Conv(
            features,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=False,
            impl=impl,
        ),
        norm=BatchNorm(),
        relu=jax.nn.relu,
    )


def of_images(**parts: Part) -> Layer:
    """Return `serial(**parts)` with an `init` that checks for images [N, H, W, C]."""
    net = serial(**parts)
    return Layer(partial(_init_of_images, net.init), net.apply)


def _init_of_images(init, key, x):
    if len(x.shape) != 4:
        raise ValueError(f"x must be images [N, H, W, C], got shape {x.shape}")
    if x.shape[1] in (1, 3) and x.shape[-1] > 4:
        raise ValueError(
            f"x must have its channels last, as [N, H, W, C], got shape {x.shape}: "
            "x.transpose(0, 2, 3, 1) moves them there"
        )
    return init(key, x)
