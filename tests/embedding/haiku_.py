"""Haiku, and modules of it with jcnn's functions inside."""

from math import prod

import haiku as hk
import jax
import optax

import jcnn
from experiments.benchmarks.peers import haiku_ as peer

from .small import IMAGES, LABELS, RATE, small

OWN = peer.Layers


def _parameters(layer, shape, fan_in, dtype):
    initial = hk.initializers.TruncatedNormal(prod(fan_in) ** -0.5)
    kernel = hk.get_parameter("w", shape, dtype, initial)
    if not layer.with_bias:
        return kernel, None
    bias = (layer.output_channels,)
    return kernel, hk.get_parameter("b", bias, dtype, layer.b_init)


class ConvND(hk.ConvND):  # with its name, the parameters are the same
    def __call__(self, x):
        groups = self.feature_group_count
        fan_in = *self.kernel_shape, x.shape[-1] // groups
        shape = *fan_in, self.output_channels
        return jcnn.conv(
            x,
            *_parameters(self, shape, fan_in, x.dtype),
            strides=self.stride,
            feature_group_count=groups,
        )


class ConvNDTranspose(hk.ConvNDTranspose):
    def __call__(self, x):
        fan_in = *self.kernel_shape, x.shape[-1]
        shape = *self.kernel_shape, self.output_channels, x.shape[-1]
        kernel, bias = _parameters(self, shape, fan_in, x.dtype)
        kernel = kernel.swapaxes(-1, -2)
        return jcnn.conv_transpose(x, kernel, bias, strides=self.stride)


class JCNNS(OWN):
    Conv, ConvTranspose = ConvND, ConvNDTranspose

    def max_pool(self, x, size=2):
        return jcnn.max_pool(x, size)

    def avg_pool(self, x, size=2):
        return jcnn.avg_pool(x, size)


def pure(layers, dtype):
    net = peer.transformed(small, layers)
    params, state = net.init(jax.random.key(0), IMAGES)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    return lambda p, x: net.apply(p, state, None, x)[0], params, IMAGES.astype(dtype)


def step(layers, dtype):
    net = peer.transformed(small, layers)
    return peer.train(net, IMAGES, LABELS, optax.sgd(RATE), dtype)
