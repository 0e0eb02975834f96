"""ResNet-50 on ImageNet, or on any set of photographs that is larger than memory.

`--dataset imagenet2012`, or another set that tensorflow-datasets has prepared, or
`--images FOLDER` with class folders in FOLDER/train and FOLDER/val. The images stay in
their files: worker processes read them, take a random crop of each, and scale it.
The recipe is that of He et al. (2015), section 3.4, with a cosine schedule; on ImageNet
it has not been trained here.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from jcnn.augment import random_flip
from jcnn.data import Dataset, View, stream, stream_folder
from jcnn.models import imagenet_resnet
from jcnn.runs import SGD, Count, Optimizer, OptionError, Recipe, RunConfig, main
from jcnn.runs.config import Range
from jcnn.train import classification

FOLDERS = ("train", "val")


@dataclass(frozen=True)
class Config(RunConfig):
    dataset: str | None = None
    """Name of a prepared set, such as imagenet2012."""
    splits: tuple[str, str] = ("train", "validation")
    """Its splits to train and to test on."""
    images: Path | None = None
    """Folder with the folders train and val, in which each class has a folder."""
    size: Annotated[int, Range(32, 1024)] = 224
    """Height and width of the network's images."""
    depth: Literal[18, 34, 50, 101, 152] = 50
    """Layers of the network."""
    workers: Annotated[int, Range(0, 256)] | None = None
    """Processes that read images; by default one for each core but one."""
    max_broken: Annotated[int, Range(0)] | None = None
    """How many images of a split may be broken; by default one in a thousand."""
    rematerialize: bool = False
    """Compute each block again in the backward pass, to save memory on GPUs."""
    epochs: Count = 90
    batch_size: Count = 256
    optimizer: Optimizer = SGD(
        learning_rate=0.1, weight_decay=1e-4, warmup=0.05, schedule="cosine"
    )


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Each channel from about -2 to 2; in training, half of the images mirrored."""
    if key is not None:
        images = random_flip(key, images)
    # Mean and deviation of the channels of ImageNet's training images.
    mean = jnp.array([123.675, 116.28, 103.53]).reshape(1, 1, 1, 3)
    deviation = jnp.array([58.395, 57.12, 57.375]).reshape(1, 1, 1, 3)
    return (images.astype(jnp.float32) - mean) / deviation


def data(config: Config) -> tuple[Dataset, Dataset]:
    """Return the images to train and to test on."""
    where, name = config.data_dir, config.dataset
    if config.images is not None and name is None:
        reads = [partial(stream_folder, config.images / part) for part in FOLDERS]
    elif name is not None and config.images is None:
        reads = [partial(stream, name, part, data_dir=where) for part in config.splits]
    else:
        raise OptionError("one of --dataset and --images must be given")
    how: dict[str, Any] = {"workers": config.workers, "max_broken": config.max_broken}
    views = View(config.size, random=True), View(config.size, center=0.875)
    train, test = (read(view=view, **how) for read, view in zip(reads, views))
    if train.class_names != test.class_names:
        raise OptionError(
            "the images to train and to test on must have the same classes, got "
            f"{train.num_classes} and {test.num_classes}"
        )
    return train, test


def recipe(config: Config) -> Recipe:
    train, test = data(config)
    layer = imagenet_resnet(
        train.num_classes,
        depth=config.depth,
        rematerialize=config.rematerialize,
        impl=config.impl,
    )
    losses = classification(layer, prepare)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
