"""Equinox, and its layers with jcnn's functions inside."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from equinox import nn

import jcnn
from experiments.benchmarks.peers import equinox_ as peer

from .small import IMAGES, LABELS, RATE, small

OWN = peer.Layers


def channels_last(function):
    """A function of [N, *spatial, C] for one image [C, *spatial]."""

    def run(x, *args, **settings):
        y = function(jnp.moveaxis(x, 0, -1)[None], *args, **settings)
        return jnp.moveaxis(y[0], -1, 0)

    return run


class _Jcnns:
    def __call__(self, x, *, key=None):
        transposed = isinstance(self, nn.ConvTranspose)
        return channels_last(jcnn.conv)(
            x,
            jnp.moveaxis(self.weight, (0, 1), (-1, -2)),
            self.bias if self.bias is None else self.bias.ravel(),
            strides=1 if transposed else self.stride,
            input_dilation=self.stride if transposed else 1,
            padding=1 if transposed else "SAME",  # 1 is the window less one
            feature_group_count=self.groups,
        )


class Conv(_Jcnns, nn.Conv):
    pass


class ConvTranspose(_Jcnns, nn.ConvTranspose):
    pass


class JCNNS(OWN):
    Conv, ConvTranspose = Conv, ConvTranspose

    def max_pool(self, x, size=2):
        return channels_last(jcnn.max_pool)(x, size)

    def avg_pool(self, x, size=2):
        return channels_last(jcnn.avg_pool)(x, size)


def _made(layers, images):
    return nn.make_with_state(peer.Net)(small, images[0], layers)


def pure(layers, dtype):
    images = jnp.moveaxis(IMAGES, -1, 1).astype(dtype)
    net, state = _made(layers, jnp.moveaxis(IMAGES, -1, 1))
    params, rest = eqx.partition(net, eqx.is_inexact_array)
    params = jax.tree.map(lambda p: p.astype(dtype), params)

    def apply(params, x):
        net = eqx.combine(params, rest)
        axes = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
        return jax.vmap(net, **axes)(x, state)[0]

    return apply, params, images


def step(layers, dtype):
    images = jnp.moveaxis(IMAGES, -1, 1)
    net = _made(layers, images)
    return peer.train(net, images, LABELS, optax.sgd(RATE), dtype)
