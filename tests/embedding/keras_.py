"""Keras on JAX, and layers of it with jcnn's functions inside."""

from experiments.benchmarks.peers import keras_ as peer  # before Keras: its backend

import jcnn  # isort: skip
import keras  # isort: skip

from .small import IMAGES, LABELS, RATE, small  # isort: skip

OWN = peer.Layers


class Conv2D(keras.layers.Conv2D):
    def convolution_op(self, x, kernel):
        return jcnn.conv(x, kernel, strides=self.strides)


class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    def call(self, x):
        height, width, channels, multiplier = self.kernel.shape
        shape = (height, width, 1, channels * multiplier)
        kernel = keras.ops.reshape(self.kernel, shape)
        return jcnn.depthwise_conv(x, kernel, strides=self.strides)


class Conv2DTranspose(keras.layers.Conv2DTranspose):
    def call(self, x):
        return jcnn.conv_transpose(
            x, self.kernel, self.bias, strides=self.strides, transpose_kernel=True
        )


class MaxPooling2D(keras.layers.MaxPooling2D):
    def call(self, x):
        return jcnn.max_pool(x, self.pool_size, strides=self.strides)


class AveragePooling2D(keras.layers.AveragePooling2D):
    def call(self, x):
        return jcnn.avg_pool(x, self.pool_size, strides=self.strides)


_LAYERS = (Conv2D, DepthwiseConv2D, Conv2DTranspose, MaxPooling2D, AveragePooling2D)


class JCNNS(OWN):
    def of_rank(self, name, x, end=""):
        by_name = {layer.__name__: layer for layer in _LAYERS}
        return by_name.get(f"{name}2D{end}") or super().of_rank(name, x, end)


def _net(layers, dtype):
    return peer.network(small, IMAGES.shape[1:], dtype, layers())


def pure(layers, dtype):
    net = _net(layers, dtype)
    params, rest = (
        [variable.value for variable in variables]
        for variables in (net.trainable_variables, net.non_trainable_variables)
    )

    def apply(params, x):
        return net.stateless_call(params, rest, x, training=True)[0]

    return apply, params, IMAGES


def step(layers, dtype):
    sgd = keras.optimizers.SGD(RATE)
    return peer.train(_net(layers, dtype), IMAGES, LABELS, sgd)
