"""Keras on its JAX backend: `compile` and `train_on_batch`."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported

import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402
from keras import layers  # noqa: E402

from . import workload  # noqa: E402
from .workload import Dtype, Model, Step  # noqa: E402


def make(model: Model, examples: int | None = None, dtype: Dtype = "float32") -> Step:
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    keras.utils.set_random_seed(0)
    mixed = dtype == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed else dtype)
    build = {"mnist": mnist, "vgg": vgg, "resnet20": resnet20}[model]
    inputs = keras.Input(images.shape[1:])
    head = layers.Dense(workload.CLASSES, dtype="float32")  # for a float32 loss
    net = keras.Model(inputs, head(build(inputs)))
    net.compile(
        optimizer=keras.optimizers.Adam(workload.LEARNING_RATE, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def run() -> float:
        return float(net.train_on_batch(images, labels))

    return Step(run, sum(p.value.size for p in net.trainable_variables))


def mnist(x):
    for width in workload.MNIST_WIDTHS:
        x = layers.ReLU()(layers.Conv2D(width, 3, padding="same")(x))
        x = layers.MaxPooling2D()(x)
    return layers.ReLU()(layers.Dense(workload.MNIST_HIDDEN)(layers.Flatten()(x)))


def vgg(x):
    for width in workload.VGG_WIDTHS:
        x = layers.ReLU()(_conv_norm(x, width))
        x = layers.ReLU()(_conv_norm(x, width))
        x = layers.MaxPooling2D()(x)
    return layers.GlobalAveragePooling2D()(x)


def resnet20(x):
    x = layers.ReLU()(_conv_norm(x, workload.RESNET_STAGES[0][0]))
    for width, strides in workload.RESNET_BLOCKS:
        y = layers.ReLU()(_conv_norm(x, width, strides=strides))
        y = _conv_norm(y, width)
        if x.shape[-1] != width:
            x = _conv_norm(x, width, 1, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    return layers.GlobalAveragePooling2D()(x)


def _conv_norm(x, width: int, size: int = 3, strides: int = 1):
    x = layers.Conv2D(width, size, strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
