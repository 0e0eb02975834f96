"""Draws convolutions and gradients for oneDNN, each of which could end the process.

Each is named on standard error before it is computed, and compared with lax's. What
the algorithm cannot serve is not computed.
"""

import sys
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import tyro

from jcnn.engine.algorithms.lax import LAX
from jcnn.engine.algorithms.onednn import ONEDNN
from jcnn.engine.problem import Problem
from jcnn.experiment import Count, refuses

UNITS = 4  # of eps times the largest sum of absolute products


@dataclass(frozen=True)
class Config:
    examples: Count = 5000
    """How many are drawn."""
    seed: int = 0
    """Of all together."""


def main(config: Config) -> int:
    if refuses(config):
        return 2
    computed = 0
    for number in range(config.examples):
        rng = np.random.default_rng([config.seed, number])
        problem = draw(rng)
        print(number, problem, file=sys.stderr, flush=True)
        if ONEDNN.serves(problem):
            computed += 1
            if (share := error(problem, rng)) > 1:
                print(f"{number}: {share:.2f} of the error that is allowed: {problem}")
                return 1
    print(f"{config.examples} drawn, {computed} of them computed, all right")
    return 0


def draw(rng: np.random.Generator) -> Problem:
    rank = int(rng.integers(1, 4))
    kernel, strides, dilation = (_sizes(rng, rank, 1, most) for most in (5, 3, 3))
    window = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = tuple(int(rng.integers(1, 9)) + w for w in window)
    face = str(rng.choice(["y", "y", "x", "w"]))
    most = 1 if face == "y" else -1  # beyond the window; gradients are asked for within
    pads = tuple(_sizes(rng, 2, 0, w + most) for w in window)
    groups = int(rng.choice([1, 1, 1, 2, 3, 8]))
    inputs, outputs = (groups * int(rng.choice([1, 1, 2, 5, 16])) for _ in range(2))
    dtype = str(rng.choice(["float32", "float32", "bfloat16", "float16"]))
    return Problem(
        face=face,  # pyright: ignore
        batch=int(rng.choice([1, 2, 3, 4, 17, 40])),
        input_size=size,
        output_size=tuple(
            (n + sum(pair) - w) // s + 1
            for n, pair, w, s in zip(size, pads, window, strides)
        ),
        kernel_size=kernel,
        in_channels=inputs,
        out_channels=outputs,
        strides=strides,
        padding=pads,  # pyright: ignore
        dilation=dilation,
        groups=groups,
        dtype=dtype,
        output_dtype=str(rng.choice([dtype, "float32"])) if face == "y" else dtype,
    )


def error(problem: Problem, rng: np.random.Generator) -> float:
    """The largest one, as a share of what is allowed."""
    operation = {"y": "forward", "x": "input_gradient", "w": "kernel_gradient"}
    ours, by_lax = (getattr(a, operation[problem.face]) for a in (ONEDNN, LAX))
    first, second = (
        jnp.asarray(rng.normal(size=problem.shape(face)), problem.dtype)
        for face in problem.operands
    )
    found = ours(problem, first, second).astype("float32")
    first, second = first.astype("float32"), second.astype("float32")
    off = jnp.abs(found - by_lax(problem, first, second)).max()
    most = by_lax(problem, jnp.abs(first), jnp.abs(second)).max()
    allowed = UNITS * 2.0**-23
    if problem.dtype != "float32":
        allowed += float(jnp.finfo(problem.dtype).eps)
    return float(off / (most * allowed))


def _sizes(rng: np.random.Generator, count: int, low: int, high: int):
    return tuple(int(n) for n in rng.integers(low, high + 1, count))


if __name__ == "__main__":
    program = "python -m experiments.draw_onednn"
    sys.exit(main(tyro.cli(Config, prog=program, description=__doc__)))
