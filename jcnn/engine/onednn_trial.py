"""A trial of oneDNN's convolution, in a process that may die: `python -m` this module.

It prints "passed" if all kinds of convolutions give what lax gives.
"""

import sys
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from . import onednn
from .algorithms import lax as by_lax
from .problem import Problem


def problems() -> list[Problem]:
    """One of each kind: every rank, with strides, dilation, padding and groups."""
    kinds = {
        "plain": {},
        "strided": {"strides": 2},
        "dilated": {"dilation": 2},
        "padded": {"padding": (2, 1)},
        "grouped": {"groups": 2},
        "multiplied": {"groups": 8},
        "pointwise": {"taps": 1},
    }
    return [_problem(rank, **kind) for rank, kind in product((1, 2, 3), kinds.values())]


def _problem(rank, *, strides=1, dilation=1, padding=(0, 0), groups=1, taps=3):
    size, window = 9, dilation * (taps - 1) + 1
    outputs = (size + sum(padding) - window) // strides + 1
    return Problem(
        face="y",
        batch=2,
        input_size=(size,) * rank,
        output_size=(outputs,) * rank,
        kernel_size=(taps,) * rank,
        in_channels=8,
        out_channels=16,
        strides=(strides,) * rank,
        padding=(padding,) * rank,
        dilation=(dilation,) * rank,
        groups=groups,
        dtype="float32",
        output_dtype="float32",
    )


def main() -> int:
    rng = np.random.default_rng(0)
    for problem in problems():
        x, w = (
            jnp.asarray(rng.normal(size=problem.shape(face)), "float32")
            for face in ("x", "w")
        )
        found = jax.jit(lambda x, w, p=problem: onednn.convolution(p, x, w))(x, w)
        expected = by_lax.forward(problem, x, w)
        if not np.allclose(found, expected, rtol=1e-4, atol=1e-4):
            return 1
    print("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
