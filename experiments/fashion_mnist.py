"""Fashion-MNIST to 94 %: 28x28 pictures of ten garments.

60,000 pictures to train on, 10,000 to test on. Three groups of three convolutions, two
of them with a shortcut, trained on mirrored, moved and partly erased pictures; several
views of a picture are tested together. The data set must be prepared: see --data-dir.
"""

import sys
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jcnn import Layer, global_avg_pool, residual, serial
from jcnn.augment import average_views, random_crop, random_erase, random_flip
from jcnn.data import load
from jcnn.layers import BatchNorm, Conv, Dense, Dropout, MaxPool
from jcnn.models import conv_norm_relu
from jcnn.runs import Count, Decay, Muon, Optimizer, Rate, Recipe, RunConfig, main
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 20
    batch_size: Count = 256
    ema_decay: Decay | None = 0.999
    dropout: Rate = 0.3
    """Dropout rate."""
    label_smoothing: Rate = 0.1
    """Label smoothing."""
    optimizer: Optimizer = Muon(learning_rate=6e-3, weight_decay=0.05, iterations=3)


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Mean 0 and deviation 1; in training, mirrored, moved and partly erased."""
    images = (images.astype(jnp.float32) - 73) / 90
    if key is not None:
        flip_key, crop_key, erase_key = jax.random.split(key, 3)
        images = random_crop(
            crop_key, random_flip(flip_key, images), 2, border="reflect"
        )
        images = random_erase(erase_key, images)
    return images


def model(dropout: float, impl: str) -> Layer:
    """Return the network for [N, 28, 28, 1], 31 million multiply-adds a picture."""
    unit = partial(conv_norm_relu, impl=impl)

    def group(width: int) -> Layer:
        return serial(
            conv=Conv(width, 3, use_bias=False, impl=impl),
            pool=MaxPool(2),
            norm=BatchNorm(),
            relu=jax.nn.relu,
            block=residual(serial(unit1=unit(width), unit2=unit(width))),
        )

    return serial(
        group1=group(32),
        group2=group(96),
        group3=group(192),
        mean=global_avg_pool,
        dropout=Dropout(dropout),
        head=Dense(10, impl=impl),
    )


def recipe(config: Config) -> Recipe:
    train, test = (
        load("fashion_mnist", split, data_dir=config.data_dir)
        for split in ("train", "test")
    )
    layer = model(config.dropout, config.impl)
    views, smoothing = partial(average_views, shift=1), config.label_smoothing
    losses = classification(layer, prepare, label_smoothing=smoothing, views=views)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
