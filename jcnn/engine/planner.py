"""Which algorithm computes a problem, and why: from shapes and dtype alone.

The rules hold for CPUs; elsewhere lax's convolution is taken. They are read from above,
the first that fits decides. `experiments/benchmarks/conv.py` measures what they choose.
"""

from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp

from .algorithms import depthwise, grouped, im2col, lax, matmul, phases, winograd
from .problem import Problem

ALGORITHMS = {
    "lax": lax,
    "im2col": im2col,
    "winograd": winograd,
    "matmul": matmul,
    "depthwise": depthwise,
    "grouped": grouped,
    "phases": phases,
}

FULL_CHANNELS = 32  # fewer leave the vectors of a product half empty


class Plan(NamedTuple):
    """An algorithm, by its name, and the reason for it."""

    name: str
    reason: str

    @property
    def algorithm(self) -> ModuleType:
        return ALGORITHMS[self.name]


def plan(problem: Problem) -> Plan:
    """The algorithm that computes a problem on a CPU."""
    if not _static(problem):
        return Plan("lax", "a size is not known before the program runs")
    if problem.multiply_adds == 0:
        return Plan("lax", "there is nothing to compute")
    if problem.impl != "auto" and serves(problem.impl, problem):
        return Plan(problem.impl, "asked for by name")
    if jnp.dtype(problem.dtype) not in (jnp.float32, jnp.bfloat16, jnp.float64):
        return Plan("lax", f"the dtype is {problem.dtype}")
    if serves("matmul", problem):
        return Plan("matmul", "a 1x1 kernel makes it one matrix product")
    if serves("depthwise", problem):
        return Plan("depthwise", "one channel a group leaves no matrix product")
    if serves("phases", problem):
        return Plan("phases", "no product with the zeros that the strides put in y")
    if problem.groups > 1:
        if serves("grouped", problem):
            return Plan("grouped", "each group is a convolution of its own")
        return Plan("lax", "there are too many groups")
    return _dense(problem)


def serves(name: str, problem: Problem) -> bool:
    return ALGORITHMS[name].refusal(problem) is None


def _dense(problem: Problem) -> Plan:
    """Dense convolutions that are not 1x1 nor spread by strides."""
    narrow = min(problem.in_channels, problem.out_channels)
    if narrow >= FULL_CHANNELS and serves("winograd", problem):
        return Plan("winograd", "half the products, with full channels")
    if problem.face == "w":
        return Plan("im2col", "one product for all taps")
    if narrow < FULL_CHANNELS:
        return Plan("lax", f"{narrow} channels do not fill a product")
    return Plan("im2col", "one product for all taps")


def _static(problem: Problem) -> bool:
    return all(isinstance(n, int) for n in (*problem.shape("x"), *problem.shape("y")))
