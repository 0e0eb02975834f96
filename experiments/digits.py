"""A small convolutional network for the 8x8 digits of scikit-learn.

1,437 digits to train on, the 360 last ones, most of them by other writers, to test on.
The set comes with scikit-learn, so this runs without a download, in less than a minute
on two cores.
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jcnn import Layer, flatten, serial
from jcnn.augment import random_crop
from jcnn.data import load
from jcnn.layers import Conv, Dense, Dropout, MaxPool
from jcnn.runs import (
    AdamW,
    Count,
    Optimizer,
    Rate,
    Recipe,
    RunConfig,
    main,
)
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 60
    batch_size: Count = 64
    dropout: Rate = 0.3
    """Dropout rate."""
    optimizer: Optimizer = AdamW(learning_rate=4e-3, decayed="")


def model(config: Config) -> Layer:
    impl = config.impl
    return serial(
        conv1=Conv(32, 3, impl=impl),
        relu1=jax.nn.relu,
        conv2=Conv(32, 3, impl=impl),
        relu2=jax.nn.relu,
        pool1=MaxPool(2),
        conv3=Conv(64, 3, impl=impl),
        relu3=jax.nn.relu,
        pool2=MaxPool(2),
        flatten=flatten,
        dropout1=Dropout(config.dropout),
        fc1=Dense(128, impl=impl),
        relu4=jax.nn.relu,
        dropout2=Dropout(config.dropout),
        head=Dense(10, impl=impl),
    )


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1; in training, each digit moved by up to one pixel."""
    if key is not None:
        images = random_crop(key, images, padding=1)
    return images.astype(jnp.float32) / 255


def recipe(config: Config) -> Recipe:
    train, test = (load("digits", split) for split in ("train", "test"))
    layer = model(config)
    losses = classification(layer, prepare)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
