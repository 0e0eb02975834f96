"""LeNet-5 on the data set of `data_set`: the experiment whose runs are killed."""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jcnn.augment import random_crop
from jcnn.data import load
from jcnn.models import lenet5
from jcnn.runs import AdamW, Count, Optimizer, Recipe, RunConfig, main
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 5
    batch_size: Count = 32
    optimizer: Optimizer = AdamW()


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
    losses = classification(layer, prepare)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
