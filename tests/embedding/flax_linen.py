"""Flax Linen, and layers of it with jcnn's functions inside."""

import jax
import jax.numpy as jnp
import optax
from flax import linen

import jcnn
from experiments.benchmarks.peers import flax_linen as peer

from .small import IMAGES, LABELS, RATE, small

OWN = peer.Layers


class Conv(linen.Conv):
    @linen.compact
    def __call__(self, x):
        groups = self.feature_group_count
        shape = (*self.kernel_size, x.shape[-1] // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.use_bias and self.param("bias", self.bias_init, self.features)
        return jcnn.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            bias.astype(self.dtype) if self.use_bias else None,
            strides=self.strides,
            feature_group_count=groups,
        )


class ConvTranspose(linen.ConvTranspose):
    @linen.compact
    def __call__(self, x):
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, self.features)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return jcnn.conv_transpose(x, kernel, bias, strides=self.strides)


class JCNNS(OWN):
    Conv, ConvTranspose = Conv, ConvTranspose

    def max_pool(self, x, size=2):
        return jcnn.max_pool(x, size)

    def avg_pool(self, x, size=2):
        return jcnn.avg_pool(x, size)


def pure(layers, dtype):
    net = peer.Net(small, jnp.dtype(dtype), layers)
    variables = net.init(jax.random.key(0), IMAGES)
    params = variables.pop("params")

    def apply(params, x):
        return net.apply({"params": params, **variables}, x, mutable="batch_stats")[0]

    return apply, params, IMAGES


def step(layers, dtype):
    net = peer.Net(small, jnp.dtype(dtype), layers)
    return peer.train(net, IMAGES, LABELS, optax.sgd(RATE))
