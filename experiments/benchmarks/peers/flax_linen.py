"""Flax Linen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen

from . import jax_, networks, workload
from .workload import AnyModel, Dtype, Step


def make(model: AnyModel, examples: int | None = None, dtype: Dtype = "float32"):
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    net = Net(networks.NETWORKS[model], jnp.dtype(dtype))
    return train(net, images, labels, optax.adam(workload.LEARNING_RATE))


def train(net: "Net", images: jax.Array, labels: jax.Array, tx: Any) -> Step:
    variables = net.init(jax.random.key(0), images[:1])
    params = variables.pop("params")

    def loss_fn(params, statistics, images, labels):
        logits, statistics = net.apply(
            {"params": params, **statistics}, images, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), labels
        )
        return losses.mean(), statistics

    return jax_.train(loss_fn, tx, params, variables, images, labels)


class Layers(networks.Layers):
    def __init__(self, dtype):
        self.dtype = dtype

    def conv(self, x, width, size=3, strides=1, *, bias=False, depthwise=False):
        return self.Conv(
            width,
            (size,) * (x.ndim - 2),
            strides,
            feature_group_count=x.shape[-1] if depthwise else 1,
            use_bias=bias,
            dtype=self.dtype,
        )(x)

    def transposed(self, x, width):
        twos = (2,) * (x.ndim - 2)
        return self.ConvTranspose(width, twos, twos, dtype=self.dtype)(x)

    def norm(self, x):
        return linen.BatchNorm(False, momentum=0.9, dtype=self.dtype)(x)

    def dense(self, x, width):
        return linen.Dense(width, dtype=self.dtype)(x)

    def max_pool(self, x, size=2):
        return linen.max_pool(x, (size,) * (x.ndim - 2), (size,) * (x.ndim - 2))

    def avg_pool(self, x, size=2):
        return linen.avg_pool(x, (size,) * (x.ndim - 2), (size,) * (x.ndim - 2))

    def relu(self, x):
        return linen.relu(x)

    def mean(self, x):
        return x.mean(range(1, x.ndim - 1))

    def flatten(self, x):
        return x.reshape(x.shape[0], -1)

    def concatenate(self, x, y):
        return jnp.concatenate([x, y], -1)

    Conv, ConvTranspose = linen.Conv, linen.ConvTranspose


class Net(linen.Module):
    network: networks.Network
    dtype: Any
    layers: Callable[[Any], networks.Layers] = Layers

    @linen.compact
    def __call__(self, x):
        return self.network(self.layers(self.dtype), x)
