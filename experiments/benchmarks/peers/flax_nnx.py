"""Flax NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from . import workload
from .workload import Dtype, Model, Step

Settings = dict[str, Any]  # dtype and rngs of each layer


def make(model: Model, examples: int | None = None, dtype: Dtype = "float32") -> Step:
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    build = {"mnist": mnist, "vgg": vgg, "resnet20": resnet20}[model]
    net = build({"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(0)})
    net.train()
    optimizer = nnx.Optimizer(net, optax.adam(workload.LEARNING_RATE), wrt=nnx.Param)

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


def mnist(settings: Settings) -> nnx.Sequential:
    first, second = workload.MNIST_WIDTHS
    return nnx.Sequential(
        nnx.Conv(1, first, (3, 3), **settings),
        nnx.relu,
        _max_pool,
        nnx.Conv(first, second, (3, 3), **settings),
        nnx.relu,
        _max_pool,
        lambda x: x.reshape(x.shape[0], -1),
        nnx.Linear(7 * 7 * second, workload.MNIST_HIDDEN, **settings),
        nnx.relu,
        nnx.Linear(workload.MNIST_HIDDEN, workload.CLASSES, **settings),
    )


def vgg(settings: Settings) -> nnx.Sequential:
    layers, inputs = [], 3
    for width in workload.VGG_WIDTHS:
        layers += [_conv_norm(inputs, width, 3, 1, settings), nnx.relu]
        layers += [_conv_norm(width, width, 3, 1, settings), nnx.relu, _max_pool]
        inputs = width
    head = nnx.Linear(inputs, workload.CLASSES, **settings)
    return nnx.Sequential(*layers, _mean, head)


def resnet20(settings: Settings) -> nnx.Sequential:
    inputs = workload.RESNET_STAGES[0][0]
    layers = [_conv_norm(3, inputs, 3, 1, settings), nnx.relu]
    for width, strides in workload.RESNET_BLOCKS:
        layers.append(Block(inputs, width, strides, settings))
        inputs = width
    head = nnx.Linear(inputs, workload.CLASSES, **settings)
    return nnx.Sequential(*layers, _mean, head)


class Block(nnx.Module):
    def __init__(self, inputs: int, width: int, strides: int, settings: Settings):
        self.first = _conv_norm(inputs, width, 3, strides, settings)
        self.second = _conv_norm(width, width, 3, 1, settings)
        self.shortcut = (
            None if inputs == width else _conv_norm(inputs, width, 1, strides, settings)
        )

    def __call__(self, x):
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def _conv_norm(
    inputs: int, width: int, size: int, strides: int, settings: Settings
) -> nnx.Sequential:
    return nnx.Sequential(
        nnx.Conv(inputs, width, (size, size), strides, use_bias=False, **settings),
        nnx.BatchNorm(width, momentum=0.9, **settings),
    )


def _max_pool(x):
    return nnx.max_pool(x, (2, 2), (2, 2))


def _mean(x):
    return x.mean((1, 2))
