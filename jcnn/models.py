"""Networks for images [N, H, W, C]: functions that return a Layer for logits.

`impl` selects the convolution algorithm, as for `jcnn.conv`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from ._dense import flatten
from ._shapes import Padding
from .combine import Part, parallel, remat, residual, serial
from .layers import (
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Layer,
    MaxPool,
)
from .pool import global_avg_pool


def conv_norm_relu(
    features: int,
    kernel_size: int = 3,
    *,
    padding: Padding = "SAME",
    impl: str = "auto",
) -> Layer:
    """Return a convolution without bias, batch norm and ReLU.

    >>> params, _ = conv_norm_relu(4).init(jax.random.key(0), jnp.zeros((1, 5, 5, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'conv': {'kernel': (3, 3, 2, 4)}, 'norm': {'bias': (4,), 'scale': (4,)}}
    """
    return serial(
        conv=Conv(features, kernel_size, padding=padding, use_bias=False, impl=impl),
        norm=BatchNorm(),
        relu=jax.nn.relu,
    )


def lenet5(num_classes: int = 10, *, impl: str = "auto") -> Layer:
    """Return LeNet-5 for [N, 28, 28, C].

    LeCun et al., "Gradient-Based Learning" (1998), section II.B.

    With the changes that have become usual: "SAME" padding instead of 32x32 images, all
    maps connected, plain average pools, and a linear last layer.

    >>> params, _ = lenet5().init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> sum(p.size for p in jax.tree.leaves(params))
    61706
    """
    return _of_images(
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
    return _of_images(
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
    return _of_images(
        **stages, mean=global_avg_pool, head=Dense(num_classes, impl=impl)
    )


def resnet20(
    num_classes: int = 10, *, rematerialize: bool = False, impl: str = "auto"
) -> Layer:
    """Return ResNet-20 for CIFAR.

    He et al., "Deep Residual Learning" (2015), section 4.2. Where a
    stage begins with half the size, the shortcut is a 1x1 convolution. With
    `rematerialize` each block is a `jcnn.remat`.

    >>> params, _ = resnet20().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> sum(p.size for p in jax.tree.leaves(params))
    272474
    """
    return _resnet(num_classes, (16, 32, 64), 3, rematerialize, impl)


def resnet18(
    num_classes: int = 10, *, rematerialize: bool = False, impl: str = "auto"
) -> Layer:
    """Return ResNet-18 (He et al., 2015, table 1) for CIFAR: a 3x3 stem, no pool.

    With `rematerialize` each block is a `jcnn.remat`.

    >>> params, _ = resnet18().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> sum(p.size for p in jax.tree.leaves(params))
    11173962
    """
    return _resnet(num_classes, (64, 128, 256, 512), 2, rematerialize, impl)


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
    return _of_images(body=net, head=Conv(num_classes, 1, impl=impl))


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


def _resnet(
    num_classes: int,
    widths: Sequence[int],
    blocks: int,
    rematerialize: bool,
    impl: str,
) -> Layer:
    inputs, stages = widths[0], {}
    for i, width in enumerate(widths, 1):
        for j in range(1, blocks + 1):
            strides = 2 if i > 1 and j == 1 else 1
            block = _basic_block(inputs, width, strides, impl)
            stages[f"stage{i}_block{j}"] = remat(block) if rematerialize else block
            inputs = width
    return _of_images(
        stem=conv_norm_relu(widths[0], impl=impl),
        **stages,
        mean=global_avg_pool,
        head=Dense(num_classes, impl=impl),
    )


def _basic_block(inputs: int, width: int, strides: int, impl: str) -> Layer:
    body = serial(
        conv1=Conv(width, 3, strides=strides, use_bias=False, impl=impl),
        norm1=BatchNorm(),
        relu=jax.nn.relu,
        conv2=Conv(width, 3, use_bias=False, impl=impl),
        norm2=BatchNorm(),
    )
    if inputs == width and strides == 1:
        return serial(sum=residual(body), relu=jax.nn.relu)
    shortcut = serial(
        conv=Conv(width, 1, strides=strides, use_bias=False, impl=impl),
        norm=BatchNorm(),
    )
    return serial(sum=residual(body, shortcut), relu=jax.nn.relu)


def _of_images(**parts: Part) -> Layer:
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
