"""The workload of every peer: sizes of three models, and a fixed batch for each.

- mnist: two 3x3 convolutions with bias, ReLU and a 2x2 max pool each; two dense layers.
- vgg: per stage two 3x3 convolutions with batch norm and ReLU, then a 2x2 max pool; the
  global mean; one dense layer.
- resnet20: He et al. (2015), section 4.2, with 1x1 convolutions where sizes change.

Softmax cross-entropy, Adam, float32. Sizes and numbers of parameters agree; each
framework has its own initial parameters. In bfloat16 each uses its own form of mixed
precision, with parameters, running statistics and loss in float32.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Model = Literal["mnist", "vgg", "resnet20"]
Dtype = Literal["float32", "bfloat16"]

BATCHES = {  # [N, H, W, C]
    "mnist": (128, 28, 28, 1),
    "vgg": (64, 32, 32, 3),
    "resnet20": (128, 32, 32, 3),
}
CLASSES = 10
MNIST_WIDTHS, MNIST_HIDDEN = (32, 64), 256
VGG_WIDTHS = (64, 128, 256)
RESNET_STAGES = ((16, 1), (32, 2), (64, 2))  # width, strides of the first of 3 blocks
RESNET_BLOCKS = [
    (width, strides if i == 0 else 1)
    for width, strides in RESNET_STAGES
    for i in range(3)
]
LEARNING_RATE = 1e-3


class Step(NamedTuple):
    """A train step ready to be called."""

    run: Callable[[], float]  # waits for all results; returns the loss
    parameters: int  # number of trained values
    steps: int = 1  # per run


def batch(model: Model, examples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, H, W, C] and labels [N]; `examples` overrides the model's N.

    >>> images, labels = batch("mnist", 2)
    >>> images.shape, images.dtype, labels.shape, labels.dtype
    ((2, 28, 28, 1), dtype('float32'), (2,), dtype('int32'))
    """
    number, *shape = BATCHES[model]
    number = number if examples is None else examples
    rng = np.random.default_rng(0)
    images = rng.standard_normal((number, *shape)).astype(np.float32)
    return images, rng.integers(0, CLASSES, number).astype(np.int32)
