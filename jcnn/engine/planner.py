"""Which algorithm computes a problem, and why: from shapes, dtype and precision.

The rules hold for CPUs; elsewhere lax's convolution is taken. They are read from above,
the first that fits decides. `experiments/benchmarks/conv.py` measures what they choose.
"""

from math import prod
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp

from .algorithms import (
    depthwise,
    grouped,
    im2col,
    lax,
    matmul,
    onednn,
    phases,
    winograd,
)
from .problem import Problem, highest

ALGORITHMS = {
    "lax": lax,
    "im2col": im2col,
    "onednn": onednn,
    "winograd": winograd,
    "matmul": matmul,
    "depthwise": depthwise,
    "grouped": grouped,
    "phases": phases,
}

FULL_CHANNELS = 32  # fewer leave the vectors of a product half empty
ENOUGH_CHANNELS = 24  # to sum over: there Winograd's patches are what costs
LEAST_POSITIONS = 1024  # fewer do not pay for the transformed kernel
MOST_TAPS = 256  # more take long to compile, each being an operation of its own
LEAST_PHASES = 10**8  # multiply-adds; fewer do not pay for taking a product apart
LEAST_STRIDED = 6 * 10**8  # multiply-adds; with fewer lax's operands stay in the cache
STRIDED_TAPS = 9  # more take longer to gather than lax to multiply
LINE_CHANNELS = 64  # read and written in one dimension, where lax is faster than in two


class Plan(NamedTuple):
    """An algorithm, by its name, and the reason for it."""

    name: str
    reason: str

    @property
    def algorithm(self) -> ModuleType:
        return ALGORITHMS[self.name]


def plan(problem: Problem, *, portable: bool = False) -> Plan:
    """The algorithm that computes a problem on a CPU; of models that of each.

    Args:
      problem: what is to be computed.
      portable: whether it must be made of JAX's own operations, even where another
        algorithm was named or measured.
    """
    problem = problem.one_model()
    if not _static(problem):
        return Plan("lax", "a size is not known before the program runs")
    if problem.multiply_adds == 0:
        return Plan("lax", "there is nothing to compute")
    if asked := _asked_for(problem, portable):
        return asked
    if jnp.dtype(problem.dtype) not in (jnp.float32, jnp.bfloat16, jnp.float64):
        return Plan("lax", f"the dtype is {problem.dtype}")
    if serves("matmul", problem):
        return Plan("matmul", "a 1x1 kernel makes it one matrix product")
    if problem.groups > 1 and serves("depthwise", problem):
        return Plan("depthwise", "one channel a group leaves no matrix product")
    if problem.rank == 1 and problem.face != "w" and problem.strides != (1,):
        return Plan("lax", "in one dimension its strides are fast")
    if serves("phases", problem) and (
        problem.multiply_adds >= LEAST_PHASES or problem.rank == 3 or problem.groups > 1
    ):
        return Plan("phases", "no product with the zeros that the strides put in y")
    if problem.groups > 1:
        if serves("grouped", problem):
            return Plan("grouped", "each group is a convolution of its own")
        return Plan("lax", "there are too many groups")
    if prod(problem.kernel_size) > MOST_TAPS:
        return Plan("lax", "there are too many taps")
    return _kernel_gradient(problem) if problem.face == "w" else _dense(problem)


def serves(name: str, problem: Problem) -> bool:
    return ALGORITHMS[name].refusal(problem) is None


def suits(name: str, problem: Problem) -> bool:
    """Whether it serves those too who have not asked for it by name.

    Winograd's does not where the highest precision is asked for: its errors are larger
    than lax's.
    """
    exact = name != "winograd" or not highest(problem.precision)
    return exact and serves(name, problem)


def _asked_for(problem: Problem, portable: bool) -> Plan | None:
    """What was named or measured, where it serves."""
    if isinstance(problem.impl, str):
        asked = Plan(problem.impl, "asked for by name")
    else:
        asked = Plan(problem.impl.get(problem, "auto"), "measured by the tuner")
    left_open = asked.name == "auto" or not serves(asked.name, problem)
    left_open = left_open or (portable and asked.name == "onednn")
    return None if left_open else asked


def _kernel_gradient(problem: Problem) -> Plan:
    if (
        (problem.in_channels >= ENOUGH_CHANNELS or problem.rank == 3)
        and problem.rank > 1
        and _positions(problem) >= LEAST_POSITIONS
        and suits("winograd", problem)
    ):
        return Plan("winograd", "half the products, summed over all positions")
    return Plan("im2col", "one product for all taps")


def _dense(problem: Problem) -> Plan:
    """Dense convolutions and their input gradients that no rule above has taken."""
    channels, written = problem.in_channels, problem.out_channels
    if problem.face == "x":
        channels, written = written, channels
    if written == 1:
        return Plan("lax", "one channel does not fill a product")
    if problem.rank == 1 and (
        problem.kernel_size[0] < 4 or min(channels, written) < LINE_CHANNELS
    ):
        return Plan("lax", "in one dimension few taps or channels are fast")
    if suits("winograd", problem) and _positions(problem) >= LEAST_POSITIONS:
        if channels >= FULL_CHANNELS:
            return Plan("winograd", "half the products, with full channels")
        if problem.rank == 3:
            return Plan("winograd", "half the products; lax is slow in 3 dimensions")
    if problem.rank == 3:
        return Plan("im2col", "one product for all taps; lax is slow in 3 dimensions")
    if channels < FULL_CHANNELS:
        return Plan("lax", f"{channels} channels do not fill a product")
    if (
        problem.face == "y"
        and max(problem.strides) > 1
        and prod(problem.kernel_size) <= STRIDED_TAPS
        and problem.multiply_adds >= LEAST_STRIDED
    ):
        return Plan("im2col", "one product for all taps")
    return Plan("lax", "no other algorithm is known to be faster")


def _positions(problem: Problem) -> int:
    return problem.batch * prod(problem.output_size)


def _static(problem: Problem) -> bool:
    return all(isinstance(n, int) for n in (*problem.shape("x"), *problem.shape("y")))
