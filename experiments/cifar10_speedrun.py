"""CIFAR-10 to 94 % in as little time as possible, by the ideas of airbench.

After Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), and the author's
later recipe with Muon: a whitening first layer, Dirac initialization, alternating
flips, smoothed labels and averaged views. Batch norm takes the statistics of a part.
"""

import sys
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import scale_by_muon

from jcnn import Layer, flatten, frozen, serial
from jcnn.augment import alternating_flip, average_views, random_crop
from jcnn.data import load
from jcnn.initializers import dirac, whitening
from jcnn.layers import BatchNorm, Conv, Dense, Initializer, MaxPool, child_key
from jcnn.runs import Count, Positive, Rate, Recipe, RunConfig, main
from jcnn.runs.transformations import by_path, keep_norm, muon_dimensions
from jcnn.train import batch_at, classification, indices_at

# Of the training images' channels.
MEAN, DEVIATION = np.array([[[[[125.3, 123, 113.9]]]], [[[[63, 62.1, 66.7]]]]], "f4")


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 8
    batch_size: Count = 2000
    accumulate: Count = 4
    learning_rate: Positive = 0.24
    """Learning rate of Muon, for the 3x3 kernels."""
    label_smoothing: Rate = 0.2
    """Label smoothing."""


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Each channel from about -2 to 2."""
    return (images.astype(jnp.float32) - MEAN) / DEVIATION


def augmented(key: jax.Array, step: jax.Array, data, batch_size: int):
    """A batch whose images are flipped in every other epoch, and moved by 2 pixels."""
    batch, n = batch_at(key, step, data, batch_size), len(data["label"])
    indices = indices_at(key, step, num_examples=n, batch_size=batch_size)
    epochs = (step * batch_size + jnp.arange(batch_size)) // n
    images = alternating_flip(child_key(key, "flip"), batch["image"], indices, epochs)
    crop = jax.random.fold_in(child_key(key, "crop"), step)
    return batch | {"image": random_crop(crop, images, 2, border="reflect")}


def model(whiten: Initializer, parts: int, impl: str) -> Layer:
    def gelu(x):  # in bfloat16 XLA would round after each of its operations
        return jax.nn.gelu(x.astype(jnp.float32)).astype(x.dtype)

    def group(width: int) -> Layer:
        conv = Conv(width, 3, use_bias=False, kernel_init=dirac, impl=impl)
        # Each part of a batch moves the statistics.
        norm = BatchNorm(momentum=0.6 ** (1 / parts), epsilon=1e-12, use_scale=False)
        first = serial(conv=conv, pool=MaxPool(2), norm=norm, gelu=gelu)
        return serial(first=first, second=serial(conv=conv, norm=norm, gelu=gelu))

    first = Conv(24, 2, padding="VALID", kernel_init=whiten, impl=impl)
    return serial(
        whitening=frozen(first, "kernel"),
        gelu=gelu,
        group1=group(64),
        group2=group(256),
        group3=group(256),
        pool=MaxPool(3),
        flatten=flatten,
        head=Dense(10, use_bias=False, kernel_init=jax.nn.initializers.normal(1.0)),
        scale=lambda x: x / 256,
    )


def optimizer(config: Config, num_steps: int) -> optax.GradientTransformation:
    """Muon for the 3x3 kernels, whose norm is kept; SGD's rates are for sums."""

    def nesterov(rate: float, steps: int = num_steps) -> optax.GradientTransformation:
        falling = optax.linear_schedule(rate * config.batch_size, 0.0, steps)
        decay = optax.add_decayed_weights(2e-6 / rate)
        return optax.chain(decay, optax.sgd(falling, 0.85, nesterov=True))

    falling = optax.linear_schedule(config.learning_rate, 0.0, num_steps)
    muon = optax.chain(
        scale_by_muon(ns_steps=3, beta=0.6, weight_dimension_numbers=muon_dimensions),
        optax.scale_by_learning_rate(falling),
        keep_norm(),
    )
    rules = {
        "^whitening/kernel": optax.set_to_zero(),
        "^whitening/bias": nesterov(0.053, 3 * num_steps // config.epochs),
        "^head": nesterov(0.67),
        "bias$": nesterov(0.053),
        "kernel$": muon,
    }
    return by_path(rules)


def recipe(config: Config) -> Recipe:
    train, test = (
        load("cifar10", split, data_dir=config.data_dir) for split in ("train", "test")
    )
    first = prepare(jnp.asarray(train.image[:5000]), None)
    layer = model(whitening(first), config.accumulate, config.impl)
    views, smoothing = partial(average_views, shift=1), config.label_smoothing
    losses = classification(layer, prepare, label_smoothing=smoothing, views=views)
    how = {"train": train, "test": test, "batch_at": augmented}
    return Recipe(layer, partial(optimizer, config), *losses, **how)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
