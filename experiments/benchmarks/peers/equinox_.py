"""Equinox: one example, channels first, vmapped over the batch, as in its manual.

For bfloat16 the loss casts the network: layers compute in their parameters' dtype.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from equinox import nn

from . import workload
from .networks import NETWORKS, Made, Network
from .workload import AnyModel, Dtype, Step


def make(model: AnyModel, examples: int | None = None, dtype: Dtype = "float32"):
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    images = jnp.moveaxis(images, -1, 1)
    net = nn.make_with_state(Net)(NETWORKS[model], images[0])
    return train(net, images, labels, optax.adam(workload.LEARNING_RATE), dtype)


def train(net: Any, images: jax.Array, labels: jax.Array, tx: Any, dtype) -> Step:
    net, state = net
    params = eqx.filter(net, eqx.is_inexact_array)
    all_state = net, state, tx.init(params)
    parameters = sum(p.size for p in jax.tree.leaves(params))

    def cast(array):
        return array.astype(dtype) if eqx.is_inexact_array(array) else array

    def loss_fn(net, state, images, labels):
        net = jax.tree.map(cast, net)
        logits, state = jax.vmap(
            net, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )(cast(images), state)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), labels, axis=1
        )
        return losses.mean(), state

    @eqx.filter_jit(donate="all-except-first")
    def step(data, net, state, opt_state):
        (loss, state), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(
            net, state, *data
        )
        params = eqx.filter(net, eqx.is_inexact_array)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (eqx.apply_updates(net, updates), state, opt_state), loss

    def run() -> float:
        nonlocal all_state
        all_state, loss = step((images, labels), *all_state)
        jax.block_until_ready(eqx.filter(all_state, eqx.is_array))
        return float(loss)

    return Step(run, parameters)


class Layers(Made):
    def __init__(self, made=None, state=None):
        super().__init__(made)
        self.state = state  # the running statistics
        self._keys = iter(jax.random.split(jax.random.key(0), 64))

    def conv(self, x, width, size=3, strides=1, *, bias=False, depthwise=False):
        inputs, *sizes = x.shape
        return self.layer(
            lambda: self.Conv(
                len(sizes),
                inputs,
                width,
                size,
                strides,
                "SAME",
                groups=inputs if depthwise else 1,
                use_bias=bias,
                key=next(self._keys),
            )
        )(x)

    def transposed(self, x, width):
        inputs, *sizes = x.shape
        return self.layer(
            lambda: self.ConvTranspose(
                len(sizes), inputs, width, 2, 2, key=next(self._keys)
            )
        )(x)

    def norm(self, x):
        layer = self.layer(
            lambda: nn.BatchNorm(x.shape[0], "batch", momentum=0.9, mode="batch")
        )
        if not self.making:
            x, self.state = layer(x, self.state)
        return x

    def dense(self, x, width):
        return self.layer(lambda: nn.Linear(x.size, width, key=next(self._keys)))(x)

    def max_pool(self, x, size=2):
        return getattr(nn, f"MaxPool{x.ndim - 1}d")(size, size)(x)

    def avg_pool(self, x, size=2):
        return getattr(nn, f"AvgPool{x.ndim - 1}d")(size, size)(x)

    def relu(self, x):
        return jax.nn.relu(x)

    def mean(self, x):
        return x.mean(range(1, x.ndim))

    def flatten(self, x):
        return jnp.ravel(x)

    def concatenate(self, x, y):
        return jnp.concatenate([x, y])

    Conv, ConvTranspose = nn.Conv, nn.ConvTranspose


class Net(eqx.Module):
    layers: list[Any]
    network: Network = eqx.field(static=True)
    kind: type[Layers] = eqx.field(static=True)

    def __init__(self, network: Network, x: jax.Array, kind: type[Layers] = Layers):
        first = kind()
        network(first, x)
        self.layers, self.network, self.kind = first.made, network, kind

    def __call__(self, x, state):
        layers = self.kind(self.layers, state)
        return self.network(layers, x), layers.state
