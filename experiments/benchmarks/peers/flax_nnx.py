"""Flax NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from . import workload
from .networks import NETWORKS, Made, Network
from .workload import AnyModel, Dtype, Step


def make(model: AnyModel, examples: int | None = None, dtype: Dtype = "float32"):
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    net = Net(NETWORKS[model], images[:1], dtype)
    return train(net, images, labels, optax.adam(workload.LEARNING_RATE))


def train(net: "Net", images: jax.Array, labels: jax.Array, tx: Any) -> Step:
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)

    def loss_fn(net, images, labels):
        logits = net(images).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    @nnx.jit(donate_argnums=(0, 1))
    def step(net, optimizer, images, labels):
        loss, grads = nnx.value_and_grad(loss_fn)(net, images, labels)
        optimizer.update(net, grads)
        return loss

    def run() -> float:
        loss = step(net, optimizer, images, labels)
        jax.block_until_ready((nnx.state(net), nnx.state(optimizer)))
        return float(loss)

    params = jax.tree.leaves(nnx.state(net, nnx.Param))
    return Step(run, sum(p.size for p in params))


class Layers(Made):
    def __init__(self, settings: dict[str, Any], made=None):
        super().__init__(made)
        self.settings = settings  # dtype and rngs of each layer

    def conv(self, x, width, size=3, strides=1, *, bias=False, depthwise=False):
        inputs, sizes = x.shape[-1], (size,) * (x.ndim - 2)
        groups = inputs if depthwise else 1
        return self.layer(
            lambda: self.Conv(
                inputs,
                width,
                sizes,
                strides,
                feature_group_count=groups,
                use_bias=bias,
                **self.settings,
            )
        )(x)

    def transposed(self, x, width):
        inputs, twos = x.shape[-1], (2,) * (x.ndim - 2)
        return self.layer(
            lambda: self.ConvTranspose(inputs, width, twos, twos, **self.settings)
        )(x)

    def norm(self, x):
        layer = self.layer(
            lambda: nnx.BatchNorm(x.shape[-1], momentum=0.9, **self.settings)
        )
        return x if self.making else layer(x)

    def dense(self, x, width):
        return self.layer(lambda: nnx.Linear(x.shape[-1], width, **self.settings))(x)

    def max_pool(self, x, size=2):
        return nnx.max_pool(x, (size,) * (x.ndim - 2), (size,) * (x.ndim - 2))

    def avg_pool(self, x, size=2):
        return nnx.avg_pool(x, (size,) * (x.ndim - 2), (size,) * (x.ndim - 2))

    def relu(self, x):
        return nnx.relu(x)

    def mean(self, x):
        return x.mean(range(1, x.ndim - 1))

    def flatten(self, x):
        return x.reshape(x.shape[0], -1)

    def concatenate(self, x, y):
        return jnp.concatenate([x, y], -1)

    Conv, ConvTranspose = nnx.Conv, nnx.ConvTranspose


class Net(nnx.Module):
    def __init__(self, network: Network, x: jax.Array, dtype: Dtype, layers=Layers):
        first = layers({"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(0)})
        network(first, x)
        self.layers = nnx.List(first.made)
        self.network, self.kind = network, layers

    def __call__(self, x):
        return self.network(self.kind({}, self.layers), x)
