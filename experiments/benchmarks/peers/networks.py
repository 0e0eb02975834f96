"""The workload's networks, as functions of any library's layers and an input.

- mnist: two 3x3 convolutions with bias, ReLU and a 2x2 max pool each; two dense layers.
- vgg: per stage two 3x3 convolutions with batch norm and ReLU, then a 2x2 max pool; the
  global mean; one dense layer.
- resnet20: He et al. (2015), section 4.2, with 1x1 convolutions where sizes change.
- unet: Ronneberger et al. (2015), figure 1, with three levels, batch norm, and 2x2
  transposed convolutions.
- mobilenet: Howard et al. (2017), table 1, its first depthwise separable blocks, for
  small images.
- audio: M5 of Dai et al. (2017), table 1, of half the width.
- video: 3-D convolutions with batch norm, ReLU and a 2x2x2 mean of pixels each.
"""

from collections.abc import Callable, Iterable
from typing import Any

from .workload import CLASSES, MNIST_HIDDEN, MNIST_WIDTHS, RESNET_BLOCKS, VGG_WIDTHS

UNET_WIDTHS = (32, 64, 128)
MOBILENET_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))  # width, strides
AUDIO_WIDTHS = (64, 64, 128, 256)
VIDEO_WIDTHS = (16, 32, 64)


class Layers:
    """One library's layers, each of which is applied where it is named.

    Windows are as long in every dimension of the image, and padded to keep its size.
    """

    conv: Callable[..., Any]  # (x, width, size=3, strides=1, *, bias, depthwise)
    transposed: Callable[..., Any]  # (x, width): windows and strides of 2, bias
    norm: Callable[..., Any]  # (x), by the statistics of the batch
    relu: Callable[..., Any]
    max_pool: Callable[..., Any]  # (x, size=2): no overlap, no padding
    avg_pool: Callable[..., Any]
    mean: Callable[..., Any]  # of all pixels
    flatten: Callable[..., Any]
    dense: Callable[..., Any]  # (x, width)
    concatenate: Callable[..., Any]  # (x, y), the channels

    def unit(self, x, width: int, size: int = 3, strides: int = 1, **settings):
        return self.relu(self.norm(self.conv(x, width, size, strides, **settings)))


class Made(Layers):
    """Layers that are objects: a first run makes them, later ones take them in turn."""

    def __init__(self, made: Iterable[Any] | None = None):
        self.making = made is None
        self.made: list[Any] = []
        self._rest = iter(made or ())

    def layer(self, make: Callable[[], Any]) -> Any:
        if not self.making:
            return next(self._rest)
        self.made.append(make())
        return self.made[-1]


Network = Callable[[Layers, Any], Any]


def mnist(net: Layers, x):
    for width in MNIST_WIDTHS:
        x = net.max_pool(net.relu(net.conv(x, width, bias=True)))
    return net.dense(net.relu(net.dense(net.flatten(x), MNIST_HIDDEN)), CLASSES)


def vgg(net: Layers, x):
    for width in VGG_WIDTHS:
        x = net.max_pool(net.unit(net.unit(x, width), width))
    return net.dense(net.mean(x), CLASSES)


def resnet20(net: Layers, x):
    inputs = RESNET_BLOCKS[0][0]
    x = net.unit(x, inputs)
    for width, strides in RESNET_BLOCKS:
        y = net.unit(x, width, strides=strides)
        y = net.norm(net.conv(y, width))
        if width != inputs:
            x = net.norm(net.conv(x, width, 1, strides))
        x, inputs = net.relu(x + y), width
    return net.dense(net.mean(x), CLASSES)


def unet(net: Layers, x):
    *widths, deepest = UNET_WIDTHS
    levels = []
    for width in widths:
        levels.append(net.unit(net.unit(x, width), width))
        x = net.max_pool(levels[-1])
    x = net.unit(net.unit(x, deepest), deepest)
    for width in reversed(widths):
        x = net.concatenate(levels.pop(), net.transposed(x, width))
        x = net.unit(net.unit(x, width), width)
    return net.conv(x, CLASSES, 1, bias=True)


def mobilenet(net: Layers, x):
    inputs = 32
    x = net.unit(x, inputs)
    for width, strides in MOBILENET_BLOCKS:
        x = net.unit(x, inputs, strides=strides, depthwise=True)
        x, inputs = net.unit(x, width, 1), width
    return net.dense(net.mean(x), CLASSES)


def audio(net: Layers, x):
    first, *widths = AUDIO_WIDTHS
    x = net.max_pool(net.unit(x, first, 80, 4), 4)
    for width in widths:
        x = net.max_pool(net.unit(x, width), 4)
    return net.dense(net.mean(x), CLASSES)


def video(net: Layers, x):
    for width in VIDEO_WIDTHS:
        x = net.avg_pool(net.unit(x, width))
    return net.dense(net.mean(x), CLASSES)


NETWORKS: dict[str, Network] = {
    network.__name__: network
    for network in (mnist, vgg, resnet20, unet, mobilenet, audio, video)
}
