"""ResNet-20 of He et al. (2015), section 4.2, on CIFAR-10, in a quarter of its steps.

50,000 colour pictures of 32x32 to train on, 10,000 to test on; a picture and its mirror
image are tested together. The data set must be prepared: see --data-dir. Two cores of a
CPU take about 90 seconds per epoch.
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jcnn.augment import average_views, random_crop, random_flip
from jcnn.data import load
from jcnn.models import resnet20
from jcnn.runs import Count, Muon, Optimizer, Recipe, RunConfig, main
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 40
    rematerialize: bool = False
    """Compute each block again in the backward pass, to save memory on GPUs."""
    optimizer: Optimizer = Muon(learning_rate=0.02, weight_decay=0.04)


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Each channel from about -2 to 2; in training, mirrored and moved by 4 pixels."""
    if key is not None:
        flip_key, crop_key = (jax.random.fold_in(key, i) for i in range(2))
        images = random_crop(crop_key, random_flip(flip_key, images), padding=4)
    # Mean and deviation of the training images' channels.
    mean = jnp.array([125.3, 123.0, 113.9]).reshape(1, 1, 1, 3)
    deviation = jnp.array([63.0, 62.1, 66.7]).reshape(1, 1, 1, 3)
    return (images.astype(jnp.float32) - mean) / deviation


def recipe(config: Config) -> Recipe:
    train, test = (
        load("cifar10", split, data_dir=config.data_dir) for split in ("train", "test")
    )
    layer = resnet20(rematerialize=config.rematerialize, impl=config.impl)
    losses = classification(layer, prepare, views=average_views)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
