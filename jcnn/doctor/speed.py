"""How fast this machine computes a convolution and its gradients, and products."""

import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from .._conv import conv
from .._dense import dense
from ..compilation import jit

X, KERNEL = (64, 16, 16, 64), (3, 3, 64, 64)  # and the output is as large as x
_SECONDS = 2  # for the convolutions
_MILLISECONDS = 1000  # for the products


def print_times() -> None:
    """Print as JSON the milliseconds of lax and of jcnn, for all three.

    They take turns, and of each the least of many counts.
    """
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype("float32") for s in (X, KERNEL, X)]
    arrays = jax.device_put(arrays)
    of_lax, of_jcnn = _programs(_lax_conv), _programs(conv)
    pairs = {what: [jax.jit(of_lax[what]), jax.jit(of_jcnn[what])] for what in of_lax}
    times = {what: [float("inf")] * 2 for what in pairs}
    end = None
    while end is None or time.perf_counter() < end:
        for what, pair in pairs.items():
            took = [_milliseconds(function, *arrays) for function in pair]
            times[what] = list(map(min, times[what], took))
        end = end or time.perf_counter() + _SECONDS  # now all are compiled
    print(json.dumps(times))


def product_gflops(dtype: str) -> float:
    """Return the speed of the fastest of many square matrix products, in GFLOP/s.

    Long ones need many cores to be the fastest, and short ones are less likely to be
    interrupted by other programs: each length has the same time.
    """
    sizes = (384, 768, 1536) if jax.default_backend() == "cpu" else (2048, 8192)
    product, best = jit(dense), 0.0
    squares = {size: jax.numpy.ones((size, size), dtype) for size in sizes}
    for square in squares.values():
        product(square, square).block_until_ready()
    spent = dict.fromkeys(sizes, 0.0)
    while sum(spent.values()) < _MILLISECONDS:
        size = min(spent, key=spent.__getitem__)
        milliseconds = _milliseconds(product, squares[size], squares[size])
        spent[size] += milliseconds
        best = max(best, 2 * size**3 / milliseconds / 1e6)
    return best


def _programs(convolve: Callable[..., jax.Array]) -> dict[str, Callable[..., Any]]:
    """Three functions of x, the kernel and the gradient to the output."""

    def gradients(x, kernel, dy):
        return jax.vjp(convolve, x, kernel)[1](dy)

    return {
        "forward": lambda x, kernel, dy: convolve(x, kernel),
        "input gradient": lambda *arrays: gradients(*arrays)[0],
        "kernel gradient": lambda *arrays: gradients(*arrays)[1],
    }


def _lax_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layouts
    )


def _milliseconds(function: Callable[..., Any], *arrays: Any) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function(*arrays))
    return 1e3 * (time.perf_counter() - begin)
