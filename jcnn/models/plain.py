"""Networks that are one sequence of layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .._dense import flatten
from .._layer import Layer
from ..combine import serial
from ..layers import AvgPool, Conv, Dense, Dropout, MaxPool
from ..pool import global_avg_pool
from .blocks import conv_norm_relu, of_images


def lenet5(num_classes: int = 10, *, impl: str = "auto") -> Layer:
    """Return LeNet-5 for [N, 28, 28, C].

    LeCun et al., "Gradient-Based Learning" (1998), section II.B.

    With the changes that have become usual: "SAME" padding instead of 32x32 images, all
    maps connected, plain average pools, and a linear last layer.

    >>> params, _ = lenet5().init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> sum(p.size for p in jax.tree.leaves(params))
    61706
    """
    return of_images(
        conv1=Conv(6, 5, impl=impl),
        tanh1=jnp.tanh,
        pool1=AvgPool(2),
        conv2=Conv(16, 5, padding="VALID", impl=impl),
        tanh2=jnp.tanh,
        pool2=AvgPool(2),
        flatten=flatten,
        fc1=Dense(120, impl=impl),
        tanh3=jnp.tanh,
        fc2=Dense(84, impl=impl),
        tanh4=jnp.tanh,
        head=Dense(num_classes, impl=impl),
    )


def small_cnn(
    num_classes: int = 10,
    *,
    widths: tuple[int, int] = (32, 64),
    hidden: int = 256,
    dropout: float = 0.0,
    impl: str = "auto",
) -> Layer:
    """Return two 3x3 convolutions with max pools, then two dense layers.

    >>> params, _ = small_cnn().init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> params["fc1"]["kernel"].shape
    (3136, 256)
    """
    return of_images(
        conv1=Conv(widths[0], 3, impl=impl),
        relu1=jax.nn.relu,
        pool1=MaxPool(2),
        conv2=Conv(widths[1], 3, impl=impl),
        relu2=jax.nn.relu,
        pool2=MaxPool(2),
        flatten=flatten,
        fc1=Dense(hidden, impl=impl),
        relu3=jax.nn.relu,
        dropout=Dropout(dropout),
        head=Dense(num_classes, impl=impl),
    )


def vgg(
    num_classes: int = 10,
    *,
    widths: Sequence[int] = (64, 128, 256),
    impl: str = "auto",
) -> Layer:
    """Return stages of two 3x3 convolutions, batch norm and a max pool.

    After Simonyan and Zisserman, "Very Deep Convolutional Networks" (2014), section 2.

    >>> params, _ = vgg().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> params["stage3"]["unit2"]["conv"]["kernel"].shape
    (3, 3, 256, 256)
    """
    stages = {
        f"stage{i}": serial(
            unit1=conv_norm_relu(width, impl=impl),
            unit2=conv_norm_relu(width, impl=impl),
            pool=MaxPool(2),
        )
        for i, width in enumerate(widths, 1)
    }
    return of_images(**stages, mean=global_avg_pool, head=Dense(num_classes, impl=impl))
