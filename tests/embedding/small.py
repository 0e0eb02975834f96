"""A network of every kind of layer, and how its results are compared."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jcnn import accelerate, conv
from jcnn.engine.onednn.support import unavailable_reason

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 3)), "float32")
LABELS = jnp.arange(6) % 5
RATE = 0.03  # of plain SGD: Adam would divide what is all but 0 by what is all but 0
STEPS = 12


def small(net, x):
    """As a function of experiments.benchmarks.peers.networks.Layers."""
    x = net.max_pool(net.unit(x, 16))
    x = net.relu(net.conv(x, 24, strides=2, bias=True))
    x = net.relu(net.transposed(x, 16))
    x = net.avg_pool(net.unit(x, 16, depthwise=True))
    return net.dense(net.mean(x), 5)


class Outcome(NamedTuple):
    values: Any
    convolutions: int  # by lax, of the compiled program
    scatters: int  # gradients of maxima by lax


def outcome(function, *operands) -> Outcome:
    """What `function` gives when it is compiled anew, and what lax computes of it."""
    lowered = jax.jit(lambda *a: function(*a)).lower(*operands)
    program = lowered.as_text()
    counts = map(program.count, ("stablehlo.convolution", "stablehlo.select_and_s"))
    return Outcome(lowered.compile()(*operands), *counts)


def everything(apply):
    """Forward, gradients, and two batches at once."""

    def loss(params, x):
        return jnp.sum(jnp.sin(apply(params, x).astype("float32")))

    def run(params, x):
        y = apply(params, x)
        both = jax.vmap(apply, (None, 0))(params, jnp.stack([x, 1 - x]))
        return y, both, jax.grad(loss, (0, 1))(params, x)

    return run


def wide(tree):
    return jax.tree.map(lambda a: a.astype("float32"), tree)


def assert_by_jcnn(got: Outcome, laxs: Outcome, dtype: str) -> None:
    """All convolutions are, where there is oneDNN, and all gradients of maxima."""
    assert got.convolutions < laxs.convolutions
    assert got.convolutions == 0 or unavailable_reason(dtype)
    assert got.scatters == 0 < laxs.scatters
    for a, b in zip(*map(jax.tree.leaves, (got.values, laxs.values)), strict=True):
        assert a.dtype == b.dtype


def assert_close(values, expected, tolerance=1e-5) -> None:
    """`tolerance` is in units of the largest value of each array.

    1e-5 are 100 roundings of float32, for sums of up to a thousand products in some
    layers after each other.
    """
    for a, b in _pairs(values, expected):
        error, largest = np.abs(a - b).max(), np.abs(b).max()
        assert error <= tolerance * largest, f"{error=} where {largest=}"


def assert_as_close(values, expected, exact) -> None:
    """Compares errors: of bfloat16, in which rounding opens and shuts many a ReLU.

    `values` are, over all arrays, no further from the exact ones than twice what is
    expected.
    """

    def error(values):
        relative = [
            np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in _pairs(values, exact)
        ]
        return np.mean(relative)

    own, laxs = error(values), error(expected)
    assert 0 < own <= 2 * laxs < 0.5, f"{own=} {laxs=}"


def _pairs(values, expected):
    for a, b in zip(jax.tree.leaves(values), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        a, b = (np.asarray(v, "float64") for v in (a, b))
        assert np.any(b)
        yield a, b


def by_lax(x, kernel):
    """As `jcnn.conv`, by lax."""
    spatial = "DHW"[-(x.ndim - 2) :]
    layouts = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    strides = (1,) * len(spatial)
    return lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=layouts
    )


def assert_same_both_ways(function, *operands, tolerance=1e-5, sharded=False) -> Any:
    """`function(convolve, *operands)` by lax, lax accelerated, and `jcnn.conv`.

    Returns what lax gives. `sharded`: XLA divides arrays among devices, so that
    convolutions stay lax's.
    """
    laxs = outcome(partial(function, by_lax), *operands)
    with accelerate():
        accelerated = outcome(partial(function, by_lax), *operands)
    for got in (accelerated, outcome(partial(function, conv), *operands)):
        assert got.convolutions < laxs.convolutions or sharded
        assert_close(got.values, laxs.values, tolerance)
    return laxs.values
