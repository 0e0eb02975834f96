"""Which algorithm computes a convolution on a CPU, and why; elsewhere lax's does.

The first rule that holds decides, among the algorithms that can compute it and keep to
the bounds: a program grows by at most `MOST_OPERATIONS` operations a convolution, and
needs at most `MOST_BYTES` more memory than with lax. What holds where is reasoned by
the width of the processor's vectors; `experiments/benchmarks/conv.py` measures it.
"""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import jax.numpy as jnp

from .algorithm import Algorithm
from .algorithms.depthwise import DEPTHWISE
from .algorithms.grouped import GROUPED
from .algorithms.im2col import IM2COL
from .algorithms.lax import LAX
from .algorithms.matmul import MATMUL
from .algorithms.onednn import ONEDNN
from .algorithms.polyphase import POLYPHASE
from .algorithms.winograd import WINOGRAD
from .problem import Problem, highest
from .processor import lanes

ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        LAX,
        IM2COL,
        ONEDNN,
        WINOGRAD,
        MATMUL,
        DEPTHWISE,
        GROUPED,
        POLYPHASE,
    )
}

MOST_OPERATIONS = 64
MOST_BYTES = 64 << 20
LEAST_POSITIONS = 1024  # fewer do not pay for Winograd's transformed kernel
LONG_FILTER = 16  # taps a channel, from which on lax's filters of signals are faster
FEW_PAIRS = {1: 512, 2: 8}  # of an input and an output channel, by dimensions
ENOUGH_CHANNELS = 24  # to sum over: from there on Winograd's gains on lax's


def check_impl(impl: str) -> None:
    """That it is "auto" or an algorithm's name."""
    known = ("auto", *ALGORITHMS)
    if impl not in known:
        raise ValueError(f"impl must be one of {', '.join(known)}, got {impl!r}")


class Plan(NamedTuple):
    """An algorithm and the reason for it."""

    algorithm: Algorithm
    reason: str

    @property
    def name(self) -> str:
        return self.algorithm.name


class Rule(NamedTuple):
    """An algorithm, the convolutions that it is for, and why."""

    algorithm: Algorithm
    holds: Callable[[Problem], bool]
    reason: str


def plan(problem: Problem, *, portable: bool = False) -> Plan:
    """The algorithm that computes a problem on a CPU; of models that of each.

    Args:
      problem: what is to be computed.
      portable: whether it must be made of JAX's own operations, even where another
        algorithm was named.
    """
    problem = problem.one_model()
    if not _static(problem):
        return Plan(LAX, "a size is not known before the program runs")
    if problem.multiply_adds == 0:
        return Plan(LAX, "there is nothing to compute")
    if asked := _asked_for(problem, portable):
        return asked
    rules, otherwise = RULES, "no other algorithm computes it within the bounds"
    if jnp.dtype(problem.dtype) not in (jnp.float32, jnp.bfloat16, jnp.float64):
        rules, otherwise = RULES[:1], f"the dtype is {problem.dtype}"
    for algorithm, holds, reason in rules:
        if (
            (algorithm.portable or not portable)
            and is_eligible(algorithm, problem)
            and holds(problem)
            and algorithm.operations(problem) <= MOST_OPERATIONS
            and algorithm.temporary_bytes(problem) <= MOST_BYTES
        ):
            return Plan(algorithm, reason)
    return Plan(LAX, otherwise)


def is_eligible(algorithm: Algorithm, problem: Problem) -> bool:
    """Whether it may be chosen where it was not asked for by name.

    Winograd's may not where the highest precision is asked for: its errors are larger
    than lax's.
    """
    exact_enough = algorithm.exact or not highest(problem.precision)
    return exact_enough and algorithm.supports(problem)


def _asked_for(problem: Problem, portable: bool) -> Plan | None:
    """What was named, where it supports the problem."""
    algorithm = ALGORITHMS.get(problem.impl)
    if algorithm is None or not algorithm.supports(problem):
        return None
    if portable and not algorithm.portable:
        return None
    return Plan(algorithm, "asked for by name")


# --- which convolutions a rule is for ---


def _any(problem: Problem) -> bool:
    return True


def _short(problem: Problem) -> bool:
    return jnp.dtype(problem.dtype).itemsize < 4


def _pointwise(problem: Problem) -> bool:
    """A pixel, or the whole image, is a patch as it lies."""
    return prod(problem.kernel_size) == 1 or prod(problem.output_size) == 1


def _many_channels(problem: Problem) -> bool:
    """Whether products take longer than what Winograd's transforms take.

    A position takes in_channels * out_channels products a tap, and the transforms pass
    over in_channels + out_channels values; the wider the vectors, the cheaper are the
    products. To the kernel's gradient oneDNN has to transpose, so less is enough.
    """
    vectors = 2 if problem.op == "kernel_gradient" else 5
    products = problem.in_channels * problem.out_channels
    values = problem.in_channels + problem.out_channels
    return products >= vectors * lanes() * values and _large(problem)


def _large(problem: Problem) -> bool:
    return problem.batch * prod(problem.output_size) >= LEAST_POSITIONS


def _tiny_kernel_gradient(problem: Problem) -> bool:
    """Bringing x and y to a product takes longer than so little of it.

    The fewer dimensions, the fewer taps share what was brought.
    """
    pairs = problem.in_channels * problem.out_channels
    few = FEW_PAIRS.get(problem.rank, 0)
    return problem.op == "kernel_gradient" and pairs <= few


def _fills_vectors(problem: Problem) -> bool:
    """Not long filters of signals of few channels, nor patches smaller than y."""
    if problem.op == "kernel_gradient":
        taps = prod(problem.kernel_size)
        return problem.in_channels > 1 or problem.out_channels <= taps
    fewest = min(problem.in_channels, problem.out_channels)
    return problem.rank > 1 or problem.kernel_size[0] <= LONG_FILTER * fewest


def _without_onednn(problem: Problem) -> bool:
    read = (
        problem.out_channels if problem.op == "input_gradient" else problem.in_channels
    )
    return _large(problem) and (read >= ENOUGH_CHANNELS or problem.rank == 3)


def _grouped(problem: Problem) -> bool:
    return problem.groups > 1


def _slow_by_lax(problem: Problem) -> bool:
    return problem.op == "kernel_gradient" or problem.rank == 3


RULES = (
    Rule(ONEDNN, _short, "the processor multiplies short floats faster than float32"),
    Rule(MATMUL, _pointwise, "it is one matrix product"),
    Rule(WINOGRAD, _many_channels, "half the products, which are most of the work"),
    Rule(LAX, _tiny_kernel_gradient, "few channels leave no product worth making"),
    Rule(ONEDNN, _fills_vectors, "oneDNN's kernels fit the processor"),
    Rule(MATMUL, _any, "windows that do not overlap make it one matrix product"),
    Rule(DEPTHWISE, _grouped, "one channel a group leaves no matrix product"),
    Rule(POLYPHASE, _any, "no products with the zeros that strides put into y"),
    Rule(GROUPED, _any, "each group is a convolution of its own"),
    Rule(WINOGRAD, _without_onednn, "half the products"),
    Rule(IM2COL, _slow_by_lax, "one matrix product for all taps"),
)


def _static(problem: Problem) -> bool:
    return all(isinstance(n, int) for n in (*problem.shape("x"), *problem.shape("y")))
