"""Convolution whose windows do not overlap, as one matrix product.

Such are 1x1 kernels, patches of a vision transformer, windows as large as the image.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from ..._dtypes import wide, widest
from ..algorithm import Algorithm
from ..padding import pad
from ..problem import Problem


def unsupported_reason(problem: Problem) -> str | None:
    if problem.groups != 1:
        return f"it needs 1 group, not {problem.groups}"
    axes = zip(
        problem.kernel_size, problem.dilation, problem.strides, problem.output_size
    )
    if any(k > 1 and (d > 1 or (k > s and o > 1)) for k, d, s, o in axes):
        return "it needs windows that do not overlap, without dilation"
    return None


def forward(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    y = _dot(problem, _patches(problem, x), _matrix(kernel), (1, 0))
    return y.reshape(problem.shape("y"))


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    patches = _dot(problem, y.reshape(-1, y.shape[-1]), _matrix(kernel), (1, 1))
    return _image(problem, patches)


def kernel_gradient(
    problem: Problem,
    x: jax.Array,
    y: jax.Array,
    transposed_product: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Compute it by XLA's product, or by another that gives a.T @ b."""
    product = transposed_product or partial(_dot, problem, contracted=(0, 0))
    x, y = _patches(problem, x), y.reshape(-1, y.shape[-1])
    # The wider matrix comes second: the product walks along its rows.
    kernel = product(x, y) if x.shape[1] <= y.shape[1] else product(y, x).T
    return kernel.reshape(problem.shape("kernel"))


def _patches(problem: Problem, x: jax.Array) -> jax.Array:
    """Return [positions, taps * C] of an image [N, *size, C]."""
    rank, steps = problem.rank, _steps(problem)
    x = pad(x, _pads(problem))
    split = [n for pair in zip(problem.output_size, steps) for n in pair]
    x = x.reshape(x.shape[0], *split, x.shape[-1])
    for axis, (step, taps) in enumerate(zip(steps, problem.kernel_size)):
        if taps < step:
            x = lax.slice_in_dim(x, 0, taps, axis=2 + 2 * axis)
    x = x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), x.ndim - 1)
    return x.reshape(-1, prod(problem.kernel_size) * x.shape[-1])


def _image(problem: Problem, patches: jax.Array) -> jax.Array:
    """Return the image that has these patches, and zeros between them."""
    rank, steps = problem.rank, _steps(problem)
    positions, taps = problem.output_size, problem.kernel_size
    x = patches.reshape(-1, *positions, *taps, problem.in_channels)
    x = pad(x, [(0, 0)] * rank + [(0, s - k) for s, k in zip(steps, taps)])
    order = [i for axis in range(1, rank + 1) for i in (axis, axis + rank)]
    x = x.transpose(0, *order, x.ndim - 1)
    size = [o * s for o, s in zip(positions, steps)]
    x = x.reshape(-1, *size, problem.in_channels)
    return pad(x, [(-low, -high) for low, high in _pads(problem)])


def _steps(problem: Problem) -> list[int]:
    """Return the steps from window to window; if there is one alone, its size."""
    axes = zip(problem.strides, problem.kernel_size, problem.output_size)
    return [k if o == 1 else s for s, k, o in axes]


def _pads(problem: Problem) -> list[tuple[int, int]]:
    """Return the padding up to whole windows and the gaps between them."""
    sizes = zip(problem.input_size, problem.output_size, _steps(problem))
    lows = (low for low, _ in problem.padding)
    return [(low, o * s - low - n) for (n, o, s), low in zip(sizes, lows)]


def _matrix(kernel: jax.Array) -> jax.Array:
    return kernel.reshape(-1, kernel.shape[-1])


def temporary_bytes(problem: Problem) -> int:
    """Patches, of which 1x1 kernels have none."""
    if prod(problem.kernel_size) == 1:
        return 0
    patches = problem.batch * prod(problem.output_size) * prod(problem.kernel_size)
    return patches * problem.in_channels * jnp.dtype(problem.dtype).itemsize


def _product_dtype(problem: Problem, a: jax.Array) -> jnp.dtype:
    """Return that of sums; of dense layers no wider than it must be.

    Divided among devices, XLA has no batches of products of short floats with a wider
    result (jaxlib 0.10.2).
    """
    if problem.rank:
        return wide(a.dtype)
    return widest(a.dtype, problem.dtype_of(problem.result))


def _dot(problem: Problem, a, b, contracted: tuple[int, int]):
    axes = ((contracted[0],), (contracted[1],)), ((), ())
    dtype = _product_dtype(problem, a)
    return lax.dot_general(a, b, axes, problem.precision, dtype)


MATMUL = Algorithm(
    "matmul",
    unsupported_reason,
    forward,
    input_gradient,
    kernel_gradient,
    temporary_bytes=temporary_bytes,
    joins_models=True,
)
