"""ResNet-20 on CIFAR-10, trained as in He et al. (2015), section 4.2, but in short.

50,000 colour pictures of 32x32 to train on, 10,000 to test on. The data set must be
prepared: see --data-dir. Made for an accelerator: two cores take minutes per epoch.
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jcnn.augment import random_crop, random_flip
from jcnn.data import load
from jcnn.models import resnet20
from jcnn.runs import (
    Count,
    NonNegative,
    Positive,
    Rate,
    Recipe,
    RunConfig,
    count_steps,
    main,
)
from jcnn.train import classification


@dataclass(frozen=True)
class Optimizer:
    """Nesterov momentum; the rate rises for a tenth of the run, then a cosine."""

    learning_rate: Positive = 0.1
    """Highest learning rate, without unit."""
    momentum: Rate = 0.9
    """Part of the last step that the next one repeats."""
    weight_decay: NonNegative = 5e-4
    """Factor of a kernel that is added to its gradient."""


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 60
    optimizer: Optimizer = Optimizer()


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
    layer = resnet20(impl=config.impl)
    num_steps = count_steps(
        len(train.label), batch_size=config.batch_size, epochs=config.epochs
    )
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.optimizer.learning_rate,
        warmup_steps=num_steps // 10,
        decay_steps=num_steps,
    )
    tx = optax.chain(
        optax.add_decayed_weights(
            config.optimizer.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
        optax.sgd(rate, momentum=config.optimizer.momentum, nesterov=True),
    )
    return Recipe(layer, tx, *classification(layer, prepare), train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
