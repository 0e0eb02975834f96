"""Haiku.

For bfloat16 the loss casts the network: layers compute in their parameters' dtype.
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from . import jax_, networks, workload
from .workload import AnyModel, Dtype, Step


def make(model: AnyModel, examples: int | None = None, dtype: Dtype = "float32"):
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    net = transformed(networks.NETWORKS[model])
    return train(net, images, labels, optax.adam(workload.LEARNING_RATE), dtype)


def train(net: Any, images: jax.Array, labels: jax.Array, tx: Any, dtype) -> Step:
    params, statistics = net.init(jax.random.key(0), images[:1])

    def loss_fn(params, statistics, images, labels):
        params = jax.tree.map(lambda p: p.astype(dtype), params)
        logits, new = net.apply(params, statistics, None, images.astype(dtype))
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), labels
        )
        return losses.mean(), new

    return jax_.train(loss_fn, tx, params, statistics, images, labels)


class Layers(networks.Layers):
    def conv(self, x, width, size=3, strides=1, *, bias=False, depthwise=False):
        return self.Conv(
            x.ndim - 2,
            width,
            size,
            strides,
            with_bias=bias,
            feature_group_count=x.shape[-1] if depthwise else 1,
        )(x)

    def transposed(self, x, width):
        return self.ConvTranspose(x.ndim - 2, width, 2, 2)(x)

    def norm(self, x):
        return hk.BatchNorm(True, True, 0.9)(x, is_training=True)

    def dense(self, x, width):
        return hk.Linear(width)(x)

    def max_pool(self, x, size=2):
        window = *[size] * (x.ndim - 2), 1
        return hk.max_pool(x, window, window, "VALID")

    def avg_pool(self, x, size=2):
        window = *[size] * (x.ndim - 2), 1
        return hk.avg_pool(x, window, window, "VALID")

    def relu(self, x):
        return jax.nn.relu(x)

    def mean(self, x):
        return x.mean(range(1, x.ndim - 1))

    def flatten(self, x):
        return hk.Flatten()(x)

    def concatenate(self, x, y):
        return jnp.concatenate([x, y], -1)

    Conv, ConvTranspose = hk.ConvND, hk.ConvNDTranspose


def transformed(network: networks.Network, layers=Layers) -> Any:
    return hk.transform_with_state(lambda x: network(layers(), x))
