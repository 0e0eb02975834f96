"""One example: its numbers, what is computed of them, and how far that is off."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jcnn.engine.blocks import blocks_of
from jcnn.engine.planner import ALGORITHMS

from .bounds import BOUNDS, MANY_RESULTS, allowed
from .definition import Results, by_pytorch, defined
from .drawing import Example, draw
from .ways import Way, ways_of

VALUES = 2  # how often an example is computed, with other numbers: that costs little

# XLA's options for code that runs for microseconds: they save two thirds of all time.
IN_HASTE: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version__.startswith("0.10."):  # later ones always use them
    IN_HASTE["xla_cpu_use_fusion_emitters"] = False


class Error(NamedTuple):
    """How far a result is off, as a share of what is allowed."""

    way: str
    what: str
    dtype: str
    share: float


def drawn(seed: int, number: int) -> tuple[Example, np.random.Generator]:
    """An example, and the random numbers to compute it with."""
    random = np.random.default_rng([seed, number])
    return draw(random), random


def check(example: Example, random: np.random.Generator) -> Iterator[Error]:
    """The errors of an example, all of which should be at most 1.

    Raises:
      AssertionError: if the oracles differ, or a result has a wrong shape or dtype.
    """
    way = ways_of(*example.arguments, example.convolution)[example.way]
    program = _program(way, example)
    for time in range(VALUES):
        operands = [_normal(random, *a) for a in zip(example.shapes, example.dtypes)]
        expected = _for_models(defined, example, operands)
        if time == 0 and importlib.util.find_spec("torch"):
            _assert_same(expected, _for_models(by_pytorch, example, operands))
        # What is patched and configured counts while the first call is traced.
        with jax.enable_x64(example.x64), _blocks_of(example.positions):
            actual = jax.device_get(program(*operands))
        sums = _for_models(defined, example, list(map(np.abs, operands)))
        yield from errors(example, way, operands, actual, expected, sums)


def errors(
    example: Example,
    way: Way,
    operands: list[np.ndarray],
    actual: list[np.ndarray | None],
    expected: Results,
    sums: Results,
) -> Iterator[Error]:
    """Of each result that the way computes, and of the identities between them.

    Args:
      operands: the convolution's, and the cotangent of its result.
      actual: f, gx and gw; None for what another algorithm computes.
      expected: what they must be.
      sums: the sums of absolute products that they are.
    """
    of_largest = BOUNDS[example.way].of_largest
    *gradients, result = example.dtypes
    summed = example.models.summed if example.models else (False,) * 3
    exact, units = [], []
    for name, a, b, s, dtype, parts in zip(
        way.results, actual, expected, sums, (result, *gradients), summed
    ):
        if a is None:
            continue
        assert a.shape == b.shape and str(a.dtype) == dtype, (a.shape, a.dtype)
        exact.append(a.astype(b.dtype))
        units.append(
            allowed(
                example.way,
                dtype,
                result,
                roundings=1 + parts,
                highest=example.highest,
            )
        )
        off = np.abs(exact[-1] - b).max()
        yield _error(example, str(name), off, units[-1] * s.max())
        if of_largest and dtype == result == "float32" and b.size >= MANY_RESULTS:
            largest = of_largest * np.abs(b).max()
            yield _error(example, f"{name} of largest", off, largest)
    if len(exact) == 3:
        # <f, g> = <x, gx> = <w, gw>: all are the sum of all products.
        x, w, g = (a.astype(b.dtype) for a, b in zip(operands, (exact * 2)[1:]))
        fg, *others = (np.sum(a * b) for a, b in zip(exact, (g, x, w)))
        everything = np.sum(sums.f * np.abs(g))
        off = max(abs(product - fg) for product in others)
        # Each of two products is off by so much.
        yield _error(example, "adjoint", off, 2 * max(units) * everything)


def _error(example: Example, what: str, off: float, most: float) -> Error:
    # Where nothing meets anything, and where NaN came out.
    share = off / most if most else np.where(off == 0, 0, np.inf)
    return Error(example.way, what, example.dtype, float(share))


def _program(way: Way, example: Example):
    """f, gx and gw, those that another algorithm computes left out."""
    function, models = way.function, example.models
    if models and models.together:
        function = models.mapped(function)

    def compute(lhs, rhs, g) -> list[jax.Array | None]:
        f, pull_back = jax.vjp(function, lhs, rhs)
        results = (f, *pull_back(g))
        return [a if name else None for a, name in zip(results, way.results)]

    if models and not models.together:
        compute = models.mapped(compute)
    return jax.jit(compute, compiler_options={} if example.as_usual else IN_HASTE)


def _for_models(define: Callable, example: Example, operands) -> Results:
    """What is defined, of models as the program gives it."""

    def one(operands) -> Results:
        return define(operands, example.convolution)

    if example.models is None:
        return one(operands)
    return example.models.defined(one, operands)


def _normal(random: np.random.Generator, shape: tuple[int, ...], dtype) -> np.ndarray:
    values = random.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * random.standard_normal(shape)
    return values.astype(jnp.dtype(dtype))


def _assert_same(ours: Results, theirs: Results) -> None:
    for name, a, b in zip(Results._fields, ours, theirs):
        most = 1e-12 * max(np.abs(a).max(), 1)
        assert np.abs(a - b).max() <= most, f"the oracles of {name} differ"


def _blocks_of(positions: int) -> ExitStack:
    """Blocks of so many positions: by their own choice, examples are one block each."""
    stack = ExitStack()

    def small(problem: Any, _: int):
        return blocks_of(problem, positions)

    for algorithm in ALGORITHMS.values():
        some = algorithm.forward or algorithm.input_gradient  # of its file
        module = sys.modules[some.__module__]
        if positions and hasattr(module, "blocks_of"):
            stack.enter_context(mock.patch.object(module, "blocks_of", small))
    return stack
