"""jcnn: layers, and the step of `jcnn.train`, one or several a call."""

import jax
import jax.numpy as jnp
import optax

from jcnn import flatten, global_avg_pool, residual, serial, train
from jcnn.layers import BatchNorm, Conv, Dense, Layer, MaxPool

from . import workload
from .workload import Dtype, Model, Step


def make(
    model: Model,
    examples: int | None = None,
    dtype: Dtype = "float32",
    steps: int = 1,
) -> Step:
    layer = {"mnist": mnist, "vgg": vgg, "resnet20": resnet20}[model]()
    images, labels = workload.batch(model, examples)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    tx = optax.adam(workload.LEARNING_RATE)
    loss_fn, _ = train.classification(layer, lambda images, key: images.astype(dtype))
    if steps == 1:
        call = train.make_step(loss_fn, tx)
    else:
        call = train.make_scan(loss_fn, tx, batch_size=len(labels), num_steps=steps)
    state = train.create(layer, tx, jax.random.key(0), batch["image"])

    def run() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(call(state, batch))
        return float(metrics["loss"].reshape(-1)[0])

    return Step(run, sum(p.size for p in jax.tree.leaves(state.params)), steps)


def mnist() -> Layer:
    first, second = workload.MNIST_WIDTHS
    return serial(
        conv1=Conv(first, 3),
        relu1=jax.nn.relu,
        pool1=MaxPool(2),
        conv2=Conv(second, 3),
        relu2=jax.nn.relu,
        pool2=MaxPool(2),
        flatten=flatten,
        hidden=Dense(workload.MNIST_HIDDEN),
        relu3=jax.nn.relu,
        head=Dense(workload.CLASSES),
    )


def vgg() -> Layer:
    stages = {
        f"stage{i}": serial(unit1=_unit(width), unit2=_unit(width), pool=MaxPool(2))
        for i, width in enumerate(workload.VGG_WIDTHS)
    }
    return serial(**stages, mean=global_avg_pool, head=Dense(workload.CLASSES))


def resnet20() -> Layer:
    parts = {"stem": _unit(workload.RESNET_STAGES[0][0])}
    inputs = workload.RESNET_STAGES[0][0]
    for i, (width, strides) in enumerate(workload.RESNET_BLOCKS):
        parts[f"block{i}"] = _block(inputs, width, strides)
        inputs = width
    return serial(**parts, mean=global_avg_pool, head=Dense(workload.CLASSES))


def _block(inputs: int, width: int, strides: int) -> Layer:
    body = serial(first=_unit(width, strides), second=_conv_norm(width, 3))
    if inputs == width:
        return serial(sum=residual(body), relu=jax.nn.relu)
    shortcut = _conv_norm(width, 1, strides)
    return serial(sum=residual(body, shortcut), relu=jax.nn.relu)


def _unit(width: int, strides: int = 1) -> Layer:
    return serial(conv_norm=_conv_norm(width, 3, strides), relu=jax.nn.relu)


def _conv_norm(width: int, size: int, strides: int = 1) -> Layer:
    conv = Conv(width, size, strides=strides, use_bias=False)
    return serial(conv=conv, norm=BatchNorm())
