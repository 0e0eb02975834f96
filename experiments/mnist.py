"""MNIST to 99.6 %: 60,000 handwritten digits to train on, 10,000 to test on.

Six convolutions with batch norm, trained on digits that are turned, scaled and moved a
little; the moving average of the weights is tested. The data set must be prepared: see
--data-dir.
"""

import sys
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jcnn import Layer, flatten, serial
from jcnn.augment import random_affine
from jcnn.data import load
from jcnn.layers import Dense, Dropout, MaxPool
from jcnn.models import conv_norm_relu
from jcnn.runs import Count, Decay, Muon, Optimizer, Rate, Recipe, RunConfig, main
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 15
    ema_decay: Decay | None = 0.999
    dropout: Rate = 0.3
    """Dropout rate."""
    optimizer: Optimizer = Muon(learning_rate=4e-3, weight_decay=0.05)


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1; in training, each digit turned, scaled and moved."""
    images = images.astype(jnp.float32) / 255
    if key is not None:
        images = random_affine(key, images, degrees=12, shift=0.08, scale=(0.85, 1.15))
    return images


def model(dropout: float, impl: str) -> Layer:
    """Return the network for [N, 28, 28, 1], 14 million multiply-adds a digit."""
    unit = partial(conv_norm_relu, impl=impl)
    return serial(
        unit1=unit(32, padding="VALID"),
        unit2=unit(32, padding="VALID"),
        pool1=MaxPool(2),
        unit3=unit(64),
        unit4=unit(64, padding="VALID"),
        pool2=MaxPool(2),
        unit5=unit(128),
        unit6=unit(128, 5, padding="VALID"),
        flatten=flatten,
        dropout=Dropout(dropout),
        head=Dense(10, impl=impl),
    )


def recipe(config: Config) -> Recipe:
    train, test = (
        load("mnist", split, data_dir=config.data_dir) for split in ("train", "test")
    )
    layer = model(config.dropout, config.impl)
    losses = classification(layer, prepare)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
