"""The workload of every peer: sizes of the models, and a fixed batch for each.

networks.py describes the models. Softmax cross-entropy (the U-Net's of each pixel),
Adam, float32. Sizes and numbers of parameters agree; each framework has its own initial
parameters. In bfloat16 each uses its own form of mixed precision, with parameters,
running statistics and loss in float32.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Model = Literal["mnist", "vgg", "resnet20"]  # of all peers
AnyModel = Literal[Model, "unet", "mobilenet", "audio", "video"]
Dtype = Literal["float32", "bfloat16"]

BATCHES = {  # [N, *spatial, C]
    "mnist": (128, 28, 28, 1),
    "vgg": (64, 32, 32, 3),
    "resnet20": (128, 32, 32, 3),
    "unet": (8, 64, 64, 3),
    "mobilenet": (32, 32, 32, 3),
    "audio": (16, 8000, 1),
    "video": (4, 16, 32, 32, 3),
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


def batch(
    model: AnyModel, examples: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, *spatial, C] and labels [N], of the U-Net [N, *spatial].

    `examples` overrides the model's N.

    >>> images, labels = batch("mnist", 2)
    >>> images.shape, images.dtype, labels.shape, labels.dtype
    ((2, 28, 28, 1), dtype('float32'), (2,), dtype('int32'))
    """
    number, *shape = BATCHES[model]
    number = number if examples is None else examples
    rng = np.random.default_rng(0)
    images = rng.standard_normal((number, *shape)).astype(np.float32)
    labelled = images.shape[:-1] if model == "unet" else number
    return images, rng.integers(0, CLASSES, labelled).astype(np.int32)
