"""A small convolutional network on Fashion-MNIST: 28x28 pictures of ten garments.

60,000 pictures to train on, 10,000 to test on. The data set must be prepared: see
--data-dir.
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jcnn.augment import random_crop, random_flip
from jcnn.data import load
from jcnn.models import small_cnn
from jcnn.runs import AdamW, Count, Optimizer, Rate, Recipe, RunConfig, main
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 10
    dropout: Rate = 0.3
    """Dropout rate."""
    optimizer: Optimizer = AdamW(decayed="")


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1; in training, mirrored and moved by up to one pixel."""
    if key is not None:
        flip_key, crop_key = (jax.random.fold_in(key, i) for i in range(2))
        images = random_crop(crop_key, random_flip(flip_key, images), padding=1)
    return images.astype(jnp.float32) / 255


def recipe(config: Config) -> Recipe:
    train, test = (
        load("fashion_mnist", split, data_dir=config.data_dir)
        for split in ("train", "test")
    )
    layer = small_cnn(dropout=config.dropout, impl=config.impl)
    losses = classification(layer, prepare)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
