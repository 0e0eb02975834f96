"""MNIST to 99 % with as few parameters as possible.

One depthwise-separable convolution is applied again and again, at three sizes, each
time with the biases of its own batch norm. Layers are functions of their parameters:
sharing them is passing them twice. The data set must be prepared: see --data-dir.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jcnn import Layer, global_avg_pool, max_pool, serial
from jcnn.augment import random_affine
from jcnn.data import load
from jcnn.layers import BatchNorm, Conv, Dense, DepthwiseConv, MaxPool, child_key
from jcnn.runs import AdamW, Count, Optimizer, Recipe, RunConfig, main
from jcnn.train import classification


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 40
    width: Count = 12
    """Channels."""
    optimizer: Optimizer = AdamW(learning_rate=2e-2, weight_decay=0.0)


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1; in training, each digit turned and moved a little."""
    images = images.astype(jnp.float32) / 255
    if key is not None:
        images, _ = random_affine(key, images, degrees=5, shift=0.03)
    return images


def repeated(unit: Layer, norm: Layer, pools: Sequence[bool]) -> Layer:
    """Return x + relu(norm(unit(x))) many times: one unit, but a norm for each time.

    Args:
        unit: From [N, H, W, C] to the same shape.
        norm: The norm behind it.
        pools: For each time whether a max pool follows.
    """

    def init(key, x):
        params, _ = unit.init(child_key(key, "unit"), x)
        norms = {f"norm{i}": norm.init(key, x) for i in range(len(pools))}
        own = {name: made[0] for name, made in norms.items()}
        return {"unit": params} | own, {name: made[1] for name, made in norms.items()}

    def apply(params, state, x, *, train=False, key=None):
        new = {}
        for i, pool in enumerate(pools):
            name = f"norm{i}"
            y, _ = unit.apply(params["unit"], {}, x)
            y, new[name] = norm.apply(params[name], state[name], y, train=train)
            x = x + jax.nn.relu(y)
            x = max_pool(x, 2) if pool else x
        return x, new

    return Layer(init, apply)


def model(width: int, impl: str) -> Layer:
    depthwise = DepthwiseConv(1, 3, use_bias=False, impl=impl)
    pointwise = Conv(width, 1, use_bias=False, impl=impl)
    norm = BatchNorm(use_scale=False)
    return serial(
        conv=Conv(width, 3, padding="VALID", use_bias=False, impl=impl),
        norm=norm,
        relu=jax.nn.relu,
        pool=MaxPool(2),
        body=repeated(
            serial(depthwise=depthwise, pointwise=pointwise),
            norm,
            pools=(False, False, True, False, False, True, False),
        ),
        mean=global_avg_pool,
        head=Dense(10, impl=impl),
    )


def recipe(config: Config) -> Recipe:
    train, test = (
        load("mnist", split, data_dir=config.data_dir) for split in ("train", "test")
    )
    layer = model(config.width, config.impl)
    losses = classification(layer, prepare)
    return Recipe(layer, config.optimizer, *losses, train, test)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
