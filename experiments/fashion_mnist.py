"""A small convolutional network on Fashion-MNIST: 28x28 pictures of ten garments.

60,000 pictures to train on, 10,000 to test on. The data set must be prepared: see
--data-dir.
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jcnn.augment import random_crop, random_flip
from jcnn.data import load
from jcnn.models import small_cnn
from jcnn.runs import (
    Count,
    NonNegative,
    Positive,
    Rate,
    Recipe,
    RunConfig,
    main,
    warmup_cosine,
)
from jcnn.train import classification


@dataclass(frozen=True)
class Optimizer:
    """AdamW; the rate rises for a tenth of the run, then falls along a cosine."""

    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-2
    """AdamW weight decay."""


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 10
    dropout: Rate = 0.3
    """Dropout rate."""
    optimizer: Optimizer = Optimizer()


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

    def tx(num_steps: int) -> optax.GradientTransformation:
        rate = warmup_cosine(config.optimizer.learning_rate, num_steps)
        return optax.adamw(rate, weight_decay=config.optimizer.weight_decay)

    return Recipe(layer, tx, *classification(layer, prepare), train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
