"""Keras on its JAX backend: `compile` and `train_on_batch`."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported

from typing import Any  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402

from . import networks, workload  # noqa: E402
from .workload import AnyModel, Dtype, Step  # noqa: E402


def make(model: AnyModel, examples: int | None = None, dtype: Dtype = "float32"):
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    net = network(networks.NETWORKS[model], images.shape[1:], dtype)
    adam = keras.optimizers.Adam(workload.LEARNING_RATE, epsilon=1e-8)
    return train(net, images, labels, adam)


def network(
    of_layers: networks.Network, shape: tuple[int, ...], dtype: Dtype, layers=None
) -> keras.Model:
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(
        "mixed_bfloat16" if dtype == "bfloat16" else "float32"
    )
    x = keras.Input(shape)
    logits = of_layers(layers or Layers(), x)
    # The loss is computed in float32.
    return keras.Model(x, keras.layers.Activation("linear", dtype="float32")(logits))


def train(net: keras.Model, images: Any, labels: Any, optimizer: Any) -> Step:
    net.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def run() -> float:
        return float(net.train_on_batch(images, labels))

    return Step(run, sum(p.value.size for p in net.trainable_variables))


class Layers(networks.Layers):
    def conv(self, x, width, size=3, strides=1, *, bias=False, depthwise=False):
        settings = {"strides": strides, "padding": "same", "use_bias": bias}
        if depthwise:
            return self.of_rank("DepthwiseConv", x)(size, **settings)(x)
        return self.of_rank("Conv", x)(width, size, **settings)(x)

    def transposed(self, x, width):
        conv = self.of_rank("Conv", x, "Transpose")
        return conv(width, 2, strides=2, padding="same")(x)

    def norm(self, x):
        layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        return layer(x)

    def dense(self, x, width):
        return keras.layers.Dense(width)(x)

    def max_pool(self, x, size=2):
        return self.of_rank("MaxPooling", x)(size)(x)

    def avg_pool(self, x, size=2):
        return self.of_rank("AveragePooling", x)(size)(x)

    def relu(self, x):
        return keras.layers.ReLU()(x)

    def mean(self, x):
        return self.of_rank("GlobalAveragePooling", x)()(x)

    def flatten(self, x):
        return keras.layers.Flatten()(x)

    def concatenate(self, x, y):
        return keras.layers.Concatenate()([x, y])

    def of_rank(self, name: str, x, end: str = "") -> Any:
        return getattr(keras.layers, f"{name}{len(x.shape) - 2}D{end}")
