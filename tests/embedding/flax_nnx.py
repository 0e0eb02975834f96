"""Flax NNX, and its layers with jcnn's functions inside."""

import optax
from flax import nnx

import jcnn
from experiments.benchmarks.peers import flax_nnx as peer

from .small import IMAGES, LABELS, RATE, small

OWN = peer.Layers


class Conv(nnx.Conv):
    def __call__(self, x):
        x, kernel = self.promote_dtype((x, self.kernel[...]), dtype=self.dtype)
        bias = None if self.bias is None else self.bias[...].astype(x.dtype)
        groups = self.feature_group_count
        return jcnn.conv(
            x, kernel, bias, strides=self.strides, feature_group_count=groups
        )


class ConvTranspose(nnx.ConvTranspose):
    def __call__(self, x):
        x, kernel = self.promote_dtype((x, self.kernel[...]), dtype=self.dtype)
        bias = self.bias[...].astype(x.dtype)
        return jcnn.conv_transpose(x, kernel, bias, strides=self.strides)


class JCNNS(OWN):
    Conv, ConvTranspose = Conv, ConvTranspose

    def max_pool(self, x, size=2):
        return jcnn.max_pool(x, size)

    def avg_pool(self, x, size=2):
        return jcnn.avg_pool(x, size)


def pure(layers, dtype):
    net = peer.Net(small, IMAGES[:1], dtype, layers)
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    return (
        lambda params, x: nnx.merge(graph, params, rest, copy=True)(x),
        params,
        IMAGES,
    )


def step(layers, dtype):
    net = peer.Net(small, IMAGES[:1], dtype, layers)
    return peer.train(net, IMAGES, LABELS, optax.sgd(RATE))
