"""The choice of an algorithm for a convolution on a CPU, and the reason.

The first rule that holds decides, among the algorithms that support the convolution and
keep to the bounds: a program grows by at most `MOST_OPERATIONS` operations, and needs
at most `MOST_BYTES` more memory than with lax. The rules reason by the width of the
processor's vectors; `experiments/benchmarks/conv.py` measures them.
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

_ALL = (LAX, IM2COL, ONEDNN, WINOGRAD, MATMUL, DEPTHWISE, GROUPED, POLYPHASE)
ALGORITHMS = {algorithm.name: algorithm for algorithm in _ALL}

MOST_OPERATIONS = 64
MOST_BYTES = 64 << 20
LEAST_POSITIONS = 1024  # fewer do not pay for Winograd's transformed kernel
MOST_LANES = 8  # in wider vectors oneDNN's products take less than half of XLA's
LONG_FILTER = 16  # taps a channel, from which on lax's filters of signals are faster
FEW_PAIRS = {1: 512, 2: 8}  # of an input and an output channel, by dimensions
ENOUGH_CHANNELS = 24  # to sum over: from there on Winograd's gains on lax's


def check_impl(impl: str) -> None:
    """Check that it is "auto" or an algorithm's name."""
    known = ("auto", *ALGORITHMS)
    if impl not in known:
        raise ValueError(f"impl must be one of {', '.join(known)}, got {impl!r}")


def check_supported(problem: Problem) -> None:
    """Check that the algorithm that is named, if any, can compute the problem."""
    if reason := unsupported_reason(problem):
        what = "convolution" if problem.rank else "dense layer"
        raise ValueError(
            f"impl={problem.impl!r} does not support this {what}: {reason}"
        )


def unsupported_reason(problem: Problem) -> str | None:
    """Return why the algorithm that is named cannot compute it; None if it can."""
    algorithm = ALGORITHMS.get(problem.impl)
    return algorithm and algorithm.unsupported_reason(problem)


class Plan(NamedTuple):
    """An algorithm and the reason for it."""

    algorithm: Algorithm
    reason: str


class Rule(NamedTuple):
    """An algorithm, why it is fast, and for which convolutions it is."""

    algorithm: Algorithm
    reason: str
    holds: Callable[[Problem], bool] = lambda problem: True


def plan(problem: Problem, *, portable: bool = False) -> Plan:
    """Choose the algorithm that computes a problem on a CPU; of models that of each.

    Args:
        problem: What is to be computed.
        portable: Whether JAX's own operations must compute it, even where another
            algorithm was named.
    """
    problem = problem.one_model()
    sizes = (*problem.shape("x"), *problem.shape("y"))
    if not all(isinstance(n, int) for n in sizes):
        return Plan(LAX, "a size is not known before the program runs")
    if problem.multiply_adds == 0:
        return Plan(LAX, "there is nothing to compute")
    named = ALGORITHMS.get(problem.impl)
    if named and named.supports(problem) and (named.portable or not portable):
        return Plan(named, "asked for by name")
    rules, otherwise = RULES, "no other algorithm computes it within the bounds"
    if jnp.dtype(problem.dtype) not in (jnp.float32, jnp.bfloat16, jnp.float64):
        rules, otherwise = RULES[:1], f"the dtype is {problem.dtype}"
    exact = highest(problem.precision)
    for algorithm, reason, holds in rules:
        if (
            (algorithm.portable or not portable)
            and (algorithm.exact or not exact)
            and algorithm.supports(problem)
            and holds(problem)
            and algorithm.operations(problem) <= MOST_OPERATIONS
            and algorithm.temporary_bytes(problem) <= MOST_BYTES
        ):
            return Plan(algorithm, reason)
    return Plan(LAX, otherwise)


# --- which convolutions a rule is for ---


def _short(problem: Problem) -> bool:
    return jnp.dtype(problem.dtype).itemsize < 4


def _pointwise(problem: Problem) -> bool:
    """Return whether a pixel, or the whole image, is a patch as it lies."""
    return prod(problem.kernel_size) == 1 or prod(problem.output_size) == 1


def _many_channels(problem: Problem) -> bool:
    """Return whether products take longer than Winograd's transforms.

    A position takes in_channels * out_channels products a tap, and the transforms pass
    over in_channels + out_channels values; wider vectors make products cheaper. For the
    kernel gradient oneDNN has to transpose, so less is enough.
    """
    vectors = 2 if problem.op == "kernel_gradient" else 5
    products = problem.in_channels * problem.out_channels
    values = problem.in_channels + problem.out_channels
    enough = products >= vectors * lanes() * values
    return enough and lanes() <= MOST_LANES and _large(problem)


def _large(problem: Problem) -> bool:
    return problem.batch * prod(problem.output_size) >= LEAST_POSITIONS


def _tiny_kernel_gradient(problem: Problem) -> bool:
    """Return whether laying x and y out takes longer than their product.

    The fewer dimensions, the fewer taps share what was laid out.
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
    x = problem.in_channels
    read = problem.out_channels if problem.op == "input_gradient" else x
    return _large(problem) and (read >= ENOUGH_CHANNELS or problem.rank == 3)


def _slow_by_lax(problem: Problem) -> bool:
    return problem.op == "kernel_gradient" or problem.rank == 3


RULES = (
    Rule(ONEDNN, "the processor multiplies short floats faster than float32", _short),
    Rule(MATMUL, "it is one matrix product", _pointwise),
    Rule(WINOGRAD, "half the products, which are most of the work", _many_channels),
    Rule(LAX, "few channels leave no product worth making", _tiny_kernel_gradient),
    Rule(ONEDNN, "oneDNN's kernels fit the processor", _fills_vectors),
    Rule(MATMUL, "windows that do not overlap make it one matrix product"),
    Rule(
        DEPTHWISE,
        "one channel a group leaves no matrix product",
        lambda p: p.groups > 1,
    ),
    Rule(POLYPHASE, "no products with the zeros that strides put into y"),
    Rule(GROUPED, "each group is a convolution of its own"),
    Rule(WINOGRAD, "half the products", _without_onednn),
    Rule(IM2COL, "one matrix product for all taps", _slow_by_lax),
)
