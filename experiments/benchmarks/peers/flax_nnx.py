"""Flax NNX."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from . import workload
from .workload import Model, Step


def make(model: Model, examples: int | None = None) -> Step:
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    build = {"mnist": mnist, "vgg": vgg, "resnet20": resnet20}[model]
    net = build(nnx.Rngs(0))
    net.train()
    optimizer = nnx.Optimizer(net, optax.adam(workload.LEARNING_RATE), wrt=nnx.Param)

    def loss_fn(net, images, labels):
        losses = optax.softmax_cross_entropy_with_integer_labels(net(images), labels)
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


def mnist(rngs: nnx.Rngs) -> nnx.Sequential:
    first, second = workload.MNIST_WIDTHS
    return nnx.Sequential(
        nnx.Conv(1, first, (3, 3), rngs=rngs),
        nnx.relu,
        _max_pool,
        nnx.Conv(first, second, (3, 3), rngs=rngs),
        nnx.relu,
        _max_pool,
        lambda x: x.reshape(x.shape[0], -1),
        nnx.Linear(7 * 7 * second, workload.MNIST_HIDDEN, rngs=rngs),
        nnx.relu,
        nnx.Linear(workload.MNIST_HIDDEN, workload.CLASSES, rngs=rngs),
    )


def vgg(rngs: nnx.Rngs) -> nnx.Sequential:
    layers, inputs = [], 3
    for width in workload.VGG_WIDTHS:
        layers += [_conv_norm(inputs, width, 3, 1, rngs), nnx.relu]
        layers += [_conv_norm(width, width, 3, 1, rngs), nnx.relu, _max_pool]
        inputs = width
    head = nnx.Linear(inputs, workload.CLASSES, rngs=rngs)
    return nnx.Sequential(*layers, _mean, head)


def resnet20(rngs: nnx.Rngs) -> nnx.Sequential:
    inputs = workload.RESNET_STAGES[0][0]
    layers = [_conv_norm(3, inputs, 3, 1, rngs), nnx.relu]
    for width, strides in workload.RESNET_BLOCKS:
        layers.append(Block(inputs, width, strides, rngs))
        inputs = width
    head = nnx.Linear(inputs, workload.CLASSES, rngs=rngs)
    return nnx.Sequential(*layers, _mean, head)


class Block(nnx.Module):
    def __init__(self, inputs: int, width: int, strides: int, rngs: nnx.Rngs):
        self.first = _conv_norm(inputs, width, 3, strides, rngs)
        self.second = _conv_norm(width, width, 3, 1, rngs)
        self.shortcut = (
            None if inputs == width else _conv_norm(inputs, width, 1, strides, rngs)
        )

    def __call__(self, x):
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def _conv_norm(
    inputs: int, width: int, size: int, strides: int, rngs: nnx.Rngs
) -> nnx.Sequential:
    return nnx.Sequential(
        nnx.Conv(inputs, width, (size, size), strides, use_bias=False, rngs=rngs),
        nnx.BatchNorm(width, momentum=0.9, rngs=rngs),
    )


def _max_pool(x):
    return nnx.max_pool(x, (2, 2), (2, 2))


def _mean(x):
    return x.mean((1, 2))
