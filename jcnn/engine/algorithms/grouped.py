"""Grouped convolution group by group, each planned as a convolution of its own.

Groups of few channels are joined first: a product over 32 channels, with zeros in the
kernel between the groups, takes no longer than one over 4.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from ..algorithm import Algorithm
from ..primitive import convolve
from ..problem import Problem

FULL_CHANNELS = 32  # fewer do not fill a vector product
MOST_PARTS = 16  # more make a long program


def unsupported_reason(problem: Problem) -> str | None:
    if problem.groups == 1:
        return "it needs more than 1 group"
    parts = problem.groups // _joined(problem)
    if parts > MOST_PARTS:
        return f"it would be {parts} convolutions, more than {MOST_PARTS}"
    return None


def compute(problem: Problem, first: jax.Array, second: jax.Array) -> jax.Array:
    """Compute any of the three operations, part by part."""
    part, join = _part(problem), _joined(problem)
    parts = problem.groups // join
    results = []
    for pair in zip(*(jnp.split(a, parts, axis=-1) for a in (first, second))):
        operands = (
            _block_diagonal(a, join) if name == "kernel" else a
            for name, a in zip(problem.operands, pair)
        )
        result = convolve(part, *operands)
        if problem.result == "kernel":
            result = _diagonal_blocks(result, join)
        results.append(result)
    return jnp.concatenate(results, axis=-1)


def _joined(problem: Problem) -> int:
    """Return how many groups make one part, of at most 32 channels."""
    channels = max(problem.in_channels, problem.out_channels) // problem.groups
    most = max(FULL_CHANNELS // channels, 1)
    return max(n for n in range(1, most + 1) if problem.groups % n == 0)


def _part(problem: Problem) -> Problem:
    parts = problem.groups // _joined(problem)
    return replace(
        problem,
        in_channels=problem.in_channels // parts,
        out_channels=problem.out_channels // parts,
        groups=1,
        impl="auto" if problem.impl == "grouped" else problem.impl,
    )


def _block_diagonal(kernel, join: int):
    """Change [*size, I, join * O] to [*size, join * I, join * O], zero between."""
    if join == 1:
        return kernel
    *size, inputs, outputs = kernel.shape
    kernel = kernel.reshape(*size, 1, inputs, join, outputs // join)
    same = jnp.eye(join, dtype=bool)[:, None, :, None]
    same = same.reshape((1,) * len(size) + same.shape)
    return jnp.where(same, kernel, 0).reshape(*size, join * inputs, outputs)


def _diagonal_blocks(kernel, join: int):
    """Change [*size, join * I, join * O] to [*size, I, join * O], the inverse."""
    if join == 1:
        return kernel
    *size, inputs, outputs = kernel.shape
    kernel = kernel.reshape(*size, join, inputs // join, join, outputs // join)
    blocks = [kernel[..., i, :, i, :] for i in range(join)]
    return jnp.concatenate(blocks, axis=-1)


GROUPED = Algorithm("grouped", unsupported_reason, compute, compute, compute)
