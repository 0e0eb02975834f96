"""Equinox: one example, channels first, vmapped over the batch, as in its manual.

For bfloat16 the loss casts the network: layers compute in their parameters' dtype.
"""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from equinox import nn

from . import workload
from .workload import Dtype, Model, Step

Keys = Iterator[jax.Array]


def make(model: Model, examples: int | None = None, dtype: Dtype = "float32") -> Step:
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    images = images.transpose(0, 3, 1, 2)
    build = {"mnist": mnist, "vgg": vgg, "resnet20": resnet20}[model]
    keys = iter(jax.random.split(jax.random.key(0), 64))
    net, state = nn.make_with_state(build)(keys)
    params = eqx.filter(net, eqx.is_inexact_array)
    tx = optax.adam(workload.LEARNING_RATE)
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
            logits.astype(jnp.float32), labels
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


def mnist(keys: Keys) -> nn.Sequential:
    first, second = workload.MNIST_WIDTHS
    hidden = workload.MNIST_HIDDEN
    return nn.Sequential(
        [
            nn.Conv2d(1, first, 3, padding="SAME", key=next(keys)),
            nn.Lambda(jax.nn.relu),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(first, second, 3, padding="SAME", key=next(keys)),
            nn.Lambda(jax.nn.relu),
            nn.MaxPool2d(2, 2),
            nn.Lambda(jnp.ravel),
            nn.Linear(7 * 7 * second, hidden, key=next(keys)),
            nn.Lambda(jax.nn.relu),
            nn.Linear(hidden, workload.CLASSES, key=next(keys)),
        ]
    )


def vgg(keys: Keys) -> nn.Sequential:
    layers, inputs = [], 3
    for width in workload.VGG_WIDTHS:
        layers += [_conv_norm(inputs, width, 3, 1, keys), nn.Lambda(jax.nn.relu)]
        layers += [_conv_norm(width, width, 3, 1, keys), nn.Lambda(jax.nn.relu)]
        layers += [nn.MaxPool2d(2, 2)]
        inputs = width
    return nn.Sequential([*layers, *_head(inputs, keys)])


def resnet20(keys: Keys) -> nn.Sequential:
    inputs = workload.RESNET_STAGES[0][0]
    layers = [_conv_norm(3, inputs, 3, 1, keys), nn.Lambda(jax.nn.relu)]
    for width, strides in workload.RESNET_BLOCKS:
        layers.append(Block(inputs, width, strides, keys))
        inputs = width
    return nn.Sequential([*layers, *_head(inputs, keys)])


class Block(nn.StatefulLayer):
    first: nn.Sequential
    second: nn.Sequential
    shortcut: nn.Sequential

    def __init__(self, inputs: int, width: int, strides: int, keys: Keys):
        self.first = _conv_norm(inputs, width, 3, strides, keys)
        self.second = _conv_norm(width, width, 3, 1, keys)
        self.shortcut = (
            nn.Sequential([])
            if inputs == width
            else _conv_norm(inputs, width, 1, strides, keys)
        )

    def __call__(self, x, state, *, key=None):
        y, state = self.first(x, state)
        y, state = self.second(jax.nn.relu(y), state)
        x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


def _conv_norm(
    inputs: int, width: int, size: int, strides: int, keys: Keys
) -> nn.Sequential:
    conv = nn.Conv2d(
        inputs, width, size, strides, "SAME", use_bias=False, key=next(keys)
    )
    norm = nn.BatchNorm(width, "batch", momentum=0.9, mode="batch")
    return nn.Sequential([conv, norm])


def _head(inputs: int, keys: Keys):
    mean = nn.Lambda(lambda x: x.mean((1, 2)))
    return mean, nn.Linear(inputs, workload.CLASSES, key=next(keys))
