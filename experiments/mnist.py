"""LeNet-5 on MNIST: 60,000 handwritten digits to train on, 10,000 to test on.

The data set must be prepared: see --data-dir.
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jcnn.augment import random_crop
from jcnn.data import load
from jcnn.models import lenet5
from jcnn.runs import (
    Count,
    NonNegative,
    Positive,
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
    epochs: Count = 5
    batch_size: Count = 32
    optimizer: Optimizer = Optimizer()


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1; in training, each digit moved by up to one pixel."""
    if key is not None:
        images = random_crop(key, images, padding=1)
    return images.astype(jnp.float32) / 255


def recipe(config: Config) -> Recipe:
    train, test = (
        load("mnist", split, data_dir=config.data_dir) for split in ("train", "test")
    )
    layer = lenet5(impl=config.impl)

    def tx(num_steps: int) -> optax.GradientTransformation:
        rate = warmup_cosine(config.optimizer.learning_rate, num_steps)
        return optax.adamw(rate, weight_decay=config.optimizer.weight_decay)

    return Recipe(layer, tx, *classification(layer, prepare), train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
