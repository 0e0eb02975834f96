"""MNIST with as few parameters as possible: 660, for 99 %.

Two depthwise-separable convolutions are applied again and again, each time with the
scales and biases of its own batch norm, and the channels of the last are the classes:
there is no dense layer. Layers are functions of their parameters: sharing them is
passing them twice. The pool keeps every pixel: from each of the four places where its
windows can begin the rest of the network is applied, and the logits are averaged. So
few parameters allow an optimizer whose preconditioner is a full matrix. Test images are
shifted by a pixel too. The data set must be prepared: see --data-dir.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jcnn import Layer, global_avg_pool, serial
from jcnn.data import load
from jcnn.layers import BatchNorm, Conv, DepthwiseConv, MaxPool, child_key
from jcnn.runs import Count, Positive, Recipe, RunConfig, full_matrix_adam, main
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 40
    width: Count = 11
    """Channels, of which the first ten become the classes."""
    learning_rate: Positive = 0.1
    """Peak learning rate."""


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1."""
    return images.astype(jnp.float32) / 255


def average_shifts(predict: Callable, images: jax.Array) -> jax.Array:
    """Average the logits of each image, and of it shifted by a pixel; borders are 0."""
    by = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return jnp.stack([predict(jnp.roll(images, s, (1, 2))) for s in by]).mean(0)


def phases(x: jax.Array) -> jax.Array:
    """Return x from each place where a window of 2x2 can begin, as four batches."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), "edge")
    begins = [(i, j) for i in (0, 1) for j in (0, 1)]
    return jnp.concatenate([x[:, i : i + height, j : j + width] for i, j in begins])


def classes(x: jax.Array) -> jax.Array:
    """Return the first ten channels' means over positions and phases."""
    return global_avg_pool(x)[:, :10].reshape(4, -1, 10).mean(0)


def repeated(unit: Layer, then: Layer, times: int) -> Layer:
    """Return then(unit(x)) many times: one unit, but another `then` each time."""

    def init(key, x):
        shared, _ = unit.init(child_key(key, "unit"), x)
        made = {str(i): then.init(key, x) for i in range(times)}
        own = {name: both[0] for name, both in made.items()}
        return {"unit": shared} | own, {name: both[1] for name, both in made.items()}

    def apply(params, state, x, *, train=False, key=None):
        new = {}
        for i in map(str, range(times)):
            with jax.named_scope("unit"):
                x, _ = unit.apply(params["unit"], {}, x)
            with jax.named_scope(i):
                x, new[i] = then.apply(params[i], state[i], x, train=train)
        return x, new

    return Layer(init, apply)


def model(width: int, impl: str) -> Layer:
    relu = partial(jax.nn.leaky_relu, negative_slope=0.2)
    first = Conv(width, 3, use_bias=False, impl=impl)
    unit = serial(
        depthwise=DepthwiseConv(1, 3, padding="VALID", use_bias=False, impl=impl),
        pointwise=Conv(width, 1, use_bias=False, impl=impl),
    )
    norm = serial(norm=BatchNorm(momentum=0.95), relu=relu)
    return serial(
        first=serial(conv=first, norm=BatchNorm(use_scale=False), relu=relu),
        phases=phases,
        pool=MaxPool(2),
        body=repeated(unit, norm, 3),
        end=repeated(unit, norm, 2),
        classes=classes,
    )


def recipe(config: Config) -> Recipe:
    train, test = (
        load("mnist", split, data_dir=config.data_dir) for split in ("train", "test")
    )
    layer = model(config.width, config.impl)

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        rate = optax.cosine_onecycle_schedule(num_steps, config.learning_rate, 0.15)
        return full_matrix_adam(rate)

    losses = classification(layer, prepare, views=average_shifts)
    return Recipe(layer, optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
