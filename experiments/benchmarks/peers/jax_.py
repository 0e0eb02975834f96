"""Plain JAX: lax's convolutions and pools, pytrees of parameters, optax."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.nn import relu
from jax.nn.initializers import he_normal

from . import workload
from .workload import Dtype, Model, Step

Keys = Iterator[jax.Array]
Statistics = tuple[jax.Array, jax.Array]  # running mean and variance


class Affine(NamedTuple):
    """A convolution or dense layer with bias."""

    kernel: jax.Array
    bias: jax.Array


class Unit(NamedTuple):
    """A convolution and its batch norm."""

    kernel: jax.Array
    scale: jax.Array
    bias: jax.Array


class Block(NamedTuple):
    """Of Units as parameters, of Statistics as state."""

    first: Any
    second: Any
    shortcut: Any  # None where sizes stay


def make(
    model: Model,
    examples: int | None = None,
    dtype: Dtype = "float32",
    compiler_options: dict[str, Any] | None = None,
) -> Step:
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    init, apply = {
        "mnist": (init_mnist, mnist),
        "vgg": (init_vgg, vgg),
        "resnet20": (init_resnet20, resnet20),
    }[model]
    params = init(iter(jax.random.split(jax.random.key(0), 64)))
    tx = optax.adam(workload.LEARNING_RATE)

    def loss_fn(params, statistics, images, labels):
        logits, statistics = apply(params, statistics, images.astype(dtype))
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), labels
        )
        return losses.mean(), statistics

    return train(
        loss_fn, tx, params, _statistics(params), images, labels, compiler_options
    )


def train(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    params: Any,
    statistics: Any,
    images: jax.Array,
    labels: jax.Array,
    compiler_options: dict[str, Any] | None = None,
) -> Step:
    """Return the step of loss_fn(params, statistics, images, labels) -> (loss, new)."""
    state = params, statistics, tx.init(params)
    parameters = sum(p.size for p in jax.tree.leaves(params))

    def step(state, images, labels):
        params, statistics, opt_state = state
        (loss, statistics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, statistics, images, labels
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), loss

    step = jax.jit(step, donate_argnums=0, compiler_options=compiler_options)

    def run() -> float:
        nonlocal state
        state, loss = jax.block_until_ready(step(state, images, labels))
        return float(loss)

    return Step(run, parameters)


# --- models ---


def init_mnist(keys: Keys):
    first, second = workload.MNIST_WIDTHS
    return {
        "convs": [
            _init_affine(keys, (3, 3, 1, first)),
            _init_affine(keys, (3, 3, first, second)),
        ],
        "hidden": _init_affine(keys, (7 * 7 * second, workload.MNIST_HIDDEN)),
        "head": _init_affine(keys, (workload.MNIST_HIDDEN, workload.CLASSES)),
    }


def mnist(params, statistics, x):
    for layer in params["convs"]:
        x = max_pool(relu(conv(x, layer.kernel) + layer.bias.astype(x.dtype)))
    x = relu(dense(params["hidden"], x.reshape(x.shape[0], -1)))
    return dense(params["head"], x), statistics


def init_vgg(keys: Keys, shrink: int = 1):
    widths = [3] + [w // shrink for w in workload.VGG_WIDTHS for _ in range(2)]
    return {
        "units": [
            _init_unit(keys, 3, inputs, width)
            for inputs, width in zip(widths[:-1], widths[1:])
        ],
        "head": _init_affine(keys, (widths[-1], workload.CLASSES)),
    }


def vgg(params, statistics, x):
    new = []
    for i, (unit, old) in enumerate(zip(params["units"], statistics["units"])):
        x, statistic = _conv_norm(unit, old, x)
        x = relu(x) if i % 2 == 0 else max_pool(relu(x))
        new.append(statistic)
    return dense(params["head"], x.mean((1, 2))), statistics | {"units": new}


def init_resnet20(keys: Keys):
    inputs = workload.RESNET_STAGES[0][0]
    params: dict[str, Any] = {"stem": _init_unit(keys, 3, 3, inputs), "blocks": []}
    for width, _ in workload.RESNET_BLOCKS:
        block = Block(
            _init_unit(keys, 3, inputs, width),
            _init_unit(keys, 3, width, width),
            None if inputs == width else _init_unit(keys, 1, inputs, width),
        )
        params["blocks"].append(block)
        inputs = width
    return params | {"head": _init_affine(keys, (inputs, workload.CLASSES))}


def resnet20(params, statistics, x):
    x, stem = _conv_norm(params["stem"], statistics["stem"], x)
    x, new = relu(x), []
    for block, old, (_, strides) in zip(
        params["blocks"], statistics["blocks"], workload.RESNET_BLOCKS
    ):
        y, first = _conv_norm(block.first, old.first, x, strides)
        y, second = _conv_norm(block.second, old.second, relu(y))
        shortcut = None
        if block.shortcut is not None:
            x, shortcut = _conv_norm(block.shortcut, old.shortcut, x, strides)
        x = relu(x + y)
        new.append(Block(first, second, shortcut))
    logits = dense(params["head"], x.mean((1, 2)))
    return logits, statistics | {"stem": stem, "blocks": new}


# --- layers ---


def _init_affine(keys: Keys, shape: Sequence[int]) -> Affine:
    return Affine(he_normal()(next(keys), shape), jnp.zeros(shape[-1]))


def _init_unit(keys: Keys, size: int, inputs: int, width: int) -> Unit:
    kernel = he_normal()(next(keys), (size, size, inputs, width))
    return Unit(kernel, jnp.ones(width), jnp.zeros(width))


def _statistics(params):
    """For each Unit its mean and variance before the first step."""
    return jax.tree.map(
        lambda node: (
            (jnp.zeros_like(node.bias), jnp.ones_like(node.bias))
            if isinstance(node, Unit)
            else None
        ),
        params,
        is_leaf=lambda node: isinstance(node, Unit),
    )


def conv(x: jax.Array, kernel: jax.Array, strides: int = 1) -> jax.Array:
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (strides, strides),
        "SAME",
        dimension_numbers=layouts,
    )


def _conv_norm(unit: Unit, old: Statistics, x: jax.Array, strides: int = 1):
    y = conv(x, unit.kernel, strides).astype(jnp.float32)
    mean = y.mean((0, 1, 2))
    var = jnp.square(y).mean((0, 1, 2)) - jnp.square(mean)
    new = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * lax.stop_gradient(new), old, (mean, var)
    )
    y = (y - mean) * (lax.rsqrt(var + 1e-5) * unit.scale) + unit.bias
    return y.astype(x.dtype), new


def max_pool(x: jax.Array) -> jax.Array:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def dense(layer: Affine, x: jax.Array) -> jax.Array:
    return x @ layer.kernel.astype(x.dtype) + layer.bias.astype(x.dtype)
