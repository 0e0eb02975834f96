"""Residual networks, of CIFAR's images and of ImageNet's."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp  # noqa: F401  # for the examples

from .._layer import Layer
from .._shapes import Padding
from ..combine import remat, residual, serial
from ..layers import BatchNorm, Conv, Dense, MaxPool
from ..pool import global_avg_pool
from .blocks import conv_norm_relu, of_images


def resnet20(
    num_classes: int = 10,
    *,
    padding: str = "SAME",
    rematerialize: bool = False,
    impl: str = "auto",
) -> Layer:
    """Return ResNet-20 for CIFAR.

    He et al., "Deep Residual Learning" (2015), section 4.2. Where a
    stage begins with half the size, the shortcut is a 1x1 convolution. `padding` and
    `rematerialize` are those of `imagenet_resnet`.

    >>> params, _ = resnet20().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> sum(p.size for p in jax.tree.leaves(params))
    272474
    """
    return _resnet(num_classes, 16, (3, 3, 3), padding, rematerialize, impl)


def resnet18(
    num_classes: int = 10,
    *,
    padding: str = "SAME",
    rematerialize: bool = False,
    impl: str = "auto",
) -> Layer:
    """Return ResNet-18 (He et al., 2015, table 1) for CIFAR: a 3x3 stem, no pool.

    `padding` and `rematerialize` are those of `imagenet_resnet`.

    >>> params, _ = resnet18().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> sum(p.size for p in jax.tree.leaves(params))
    11173962
    """
    return _resnet(num_classes, 64, (2, 2, 2, 2), padding, rematerialize, impl)


def imagenet_resnet(
    num_classes: int = 1000,
    *,
    depth: int = 50,
    padding: str = "SAME",
    rematerialize: bool = False,
    impl: str = "auto",
) -> Layer:
    """Return a ResNet for ImageNet: a 7x7 stem and a max pool, both with strides 2.

    He et al., "Deep Residual Learning" (2015), table 1. From 50 layers on the blocks
    are bottlenecks, with the strides in their 3x3 convolution, as in torchvision.

    Args:
        num_classes: The number of logits.
        depth: 18, 34, 50, 101 or 152.
        padding: "SAME", or "SYMMETRIC" for what PyTorch's models have: size // 2 pixels
            on every side. With strides of 2 and an even image they see other pixels, so
            neither takes the parameters of the other: the first names its blocks
            "stage1_block1", …, the second "layer1_block1", ….
        rematerialize: Whether each block is a `jcnn.remat`.
        impl: As for `jcnn.conv`.

    Raises:
        ValueError: If depth or padding is not one of these.

    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    >>> params, _ = jax.eval_shape(imagenet_resnet().init, jax.random.key(0), x)
    >>> sum(p.size for p in jax.tree.leaves(params))
    25557032
    """
    blocks = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }
    if depth not in blocks:
        raise ValueError(f"depth must be one of {list(blocks)}, got {depth!r}")
    return _resnet(
        num_classes,
        64,
        blocks[depth],
        padding,
        rematerialize,
        impl,
        imagenet=True,
        bottleneck=depth >= 50,
    )


def _resnet(
    num_classes: int,
    width: int,
    blocks: Sequence[int],
    padding: str,
    rematerialize: bool,
    impl: str,
    *,
    imagenet: bool = False,
    bottleneck: bool = False,
) -> Layer:
    if padding not in ("SAME", "SYMMETRIC"):
        raise ValueError(f"padding must be 'SAME' or 'SYMMETRIC', got {padding!r}")
    same = padding == "SAME"
    pad = "SAME" if same else 1  # of windows of 3
    if imagenet:
        pad7 = "SAME" if same else 3
        stem = conv_norm_relu(width, 7, strides=2, padding=pad7, impl=impl)
        parts = {"stem": stem, "pool": MaxPool(3, strides=2, padding=pad)}
    else:
        parts = {"stem": conv_norm_relu(width, padding=pad, impl=impl)}
    inputs = width
    for i, count in enumerate(blocks, 1):
        for j in range(1, count + 1):
            strides = 2 if i > 1 and j == 1 else 1
            make = _bottleneck if bottleneck else _basic_block
            block, inputs = make(inputs, width, strides, pad, impl)
            # Shapes are those of the other padding: only names tell arrays apart.
            name = f"stage{i}_block{j}" if same else f"layer{i}_block{j}"
            parts[name] = remat(block) if rematerialize else block
        width *= 2
    return of_images(**parts, mean=global_avg_pool, head=Dense(num_classes, impl=impl))


def _basic_block(
    inputs: int, width: int, strides: int, pad: Padding, impl: str
) -> tuple[Layer, int]:
    """Return the block and the number of its outputs."""
    conv = partial(Conv, use_bias=False, impl=impl)
    body = serial(
        conv1=conv(width, 3, strides=strides, padding=pad),
        norm1=BatchNorm(),
        relu=jax.nn.relu,
        conv2=conv(width, 3, padding=pad),
        norm2=BatchNorm(),
    )
    return _with_shortcut(body, inputs, width, strides, impl), width


def _bottleneck(
    inputs: int, width: int, strides: int, pad: Padding, impl: str
) -> tuple[Layer, int]:
    """Return the block and the number of its outputs."""
    conv = partial(Conv, use_bias=False, impl=impl)
    body = serial(
        conv1=conv(width, 1),
        norm1=BatchNorm(),
        relu1=jax.nn.relu,
        conv2=conv(width, 3, strides=strides, padding=pad),
        norm2=BatchNorm(),
        relu2=jax.nn.relu,
        conv3=conv(4 * width, 1),
        norm3=BatchNorm(),
    )
    return _with_shortcut(body, inputs, 4 * width, strides, impl), 4 * width


def _with_shortcut(
    body: Layer, inputs: int, outputs: int, strides: int, impl: str
) -> Layer:
    if inputs == outputs and strides == 1:
        return serial(sum=residual(body), relu=jax.nn.relu)
    shortcut = serial(
        conv=Conv(outputs, 1, strides=strides, use_bias=False, impl=impl),
        norm=BatchNorm(),
    )
    return serial(sum=residual(body, shortcut), relu=jax.nn.relu)
