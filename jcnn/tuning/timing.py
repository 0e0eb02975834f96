"""Times of all algorithms on all convolutions of a function."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..engine.choices import Choices, key_of
from ..engine.general import Convolution, pose
from ..engine.lowering import solve
from ..engine.planner import ALGORITHMS, plan, suits
from ..engine.primitive import convolution_p
from ..engine.problem import Problem
from ..explanation import equations

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float64)  # what the algorithms are tested for
WORTHWHILE = 0.95  # of the time by rule: less is noise, and choices should be stable
HOPELESS = 3.0  # times the fastest: such an algorithm is not called any more
LEAST_ROUNDS = 5


class Measured(NamedTuple):
    """One convolution, and how long its algorithms take."""

    problem: Problem
    milliseconds: dict[str, float]  # medians, by algorithm
    algorithm: str  # the choice


def tune(
    function: Callable[..., Any],
    *args: Any,
    seconds: float = 1.0,
    compiler_options: Mapping[str, str | bool] | None = None,
) -> Choices:
    """The fastest algorithm on this CPU for every convolution of `function(*args)`.

    The function should be what is to be fast, a whole training step say: convolutions
    of gradients are measured as they stand in it. Those of `conv` should have
    `impl="auto"`, and then get the choices as their `impl`. lax's own convolutions,
    of whatever library, are measured as `jcnn.acceleration` would replace them.

    The choice of the planner's rules is kept where no other algorithm is faster by
    more than 5 %.

    Args:
      function: any function that JAX can trace; it is not run.
      args: its arguments, arrays or `jax.ShapeDtypeStruct`.
      seconds: how long the algorithms of one convolution are called in turn. With
        their compilation it takes some seconds more.
      compiler_options: what the function will be compiled with (as for `jax.jit`).

    Raises:
      ValueError: if `seconds` is no finite number above 0.

    >>> import jax.numpy as jnp
    >>> from jcnn import conv
    >>> x, w = jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
    >>> choices = tune(lambda x: conv(x, w, impl="auto"), x, seconds=0.01)
    >>> len(choices), conv(x, w, impl=choices).shape
    (1, (8, 16, 16, 32))
    """
    rows = measure(function, *args, seconds=seconds, compiler_options=compiler_options)
    return Choices({row.problem: row.algorithm for row in rows})


def measure(
    function: Callable[..., Any],
    *args: Any,
    seconds: float = 1.0,
    compiler_options: Mapping[str, str | bool] | None = None,
) -> Iterator[Measured]:
    """What `tune` goes by, convolution by convolution as they are measured.

    Those come first of which others consist: a gradient to the input of a strided
    convolution is made of convolutions without strides, for example.

    >>> import jax.numpy as jnp
    >>> x, w = jnp.ones((1, 1, 9)), jnp.ones((1, 1, 3))
    >>> rows = measure(lambda x: lax.conv(x, w, (1,), "SAME"), x, seconds=0.01)
    >>> [{"im2col", "lax", "winograd"} <= set(row.milliseconds) for row in rows]
    [True]
    """
    if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise ValueError(f"seconds must be a finite number above 0, got {seconds!r}")
    algorithms: dict[Problem, str] = {}
    for problem in _problems(function, *args):
        functions = {
            # With the choices made so far for the parts that an algorithm consists of.
            name: _compiled(problem, {**algorithms, problem: name}, compiler_options)
            for name in _candidates(problem)
        }
        milliseconds = _medians(functions, seconds)
        rule, fastest = (
            plan(problem).name,
            min(milliseconds, key=milliseconds.__getitem__),
        )
        gained = milliseconds[fastest] < WORTHWHILE * milliseconds[rule]
        algorithms[problem] = fastest if gained else rule
        yield Measured(problem, milliseconds, algorithms[problem])


def _problems(function: Callable[..., Any], *args: Any) -> list[Problem]:
    """Its convolutions, each once, and before each those that algorithms make of it."""
    found: dict[Problem, None] = {}

    def add(problem: Problem) -> None:
        if problem in found:
            return
        for name in _candidates(problem):
            by_name = partial(solve, problem=replace(problem, impl=name))
            for part in _convolutions(by_name, *_operands(problem)):
                add(part)
        found[problem] = None

    for problem in _convolutions(function, *args, posed=True):
        add(problem)
    return list(found)


def _convolutions(
    function: Callable[..., Any], *args: Any, posed: bool = False
) -> Iterator[Problem]:
    """jcnn's convolutions, and if they are to be posed as problems lax's too."""
    for equation, _ in equations(jax.make_jaxpr(function)(*args).jaxpr):
        problem = None
        if equation.primitive is convolution_p:
            problem = equation.params["problem"]
        elif posed and equation.primitive is lax.conv_general_dilated_p:
            lhs, rhs = (variable.aval for variable in equation.invars)
            found = pose(lhs, rhs, Convolution.of(equation.params))
            problem = found and found.problem
        if problem is not None and jnp.dtype(problem.dtype) in DTYPES:
            yield key_of(problem)


def _candidates(problem: Problem) -> list[str]:
    """The algorithms that suit, without one that is fast only in some places."""
    names = [name for name in ALGORITHMS if suits(name, problem)]
    # `accelerate` would leave lax's gradients to kernels as they stand, which XLA
    # computes some thirty times slower in a loop than ours: no choice may lead there.
    if problem.face == "w" and plan(problem).name != "lax":
        names.remove("lax")
    return names


def _operands(problem: Problem) -> list[jax.ShapeDtypeStruct]:
    return [
        jax.ShapeDtypeStruct(problem.shape(face), problem.face_dtype(face))
        for face in problem.operands
    ]


def _compiled(
    problem: Problem,
    algorithms: Mapping[Problem, str],
    compiler_options: Mapping[str, str | bool] | None,
) -> Callable[[], object]:
    """The problem with random operands on the CPU, ready to be called."""
    random, cpu = np.random.default_rng(0), jax.devices("cpu")[0]
    operands = [
        jax.device_put(random.standard_normal(a.shape, np.float32).astype(a.dtype), cpu)
        for a in _operands(problem)
    ]
    options = None if compiler_options is None else dict(compiler_options)
    function = jax.jit(
        partial(solve, problem=replace(problem, impl=Choices(algorithms))),
        compiler_options=options,
    )
    compiled = function.lower(*operands).compile()
    return lambda: jax.block_until_ready(compiled(*operands))


def _medians(
    functions: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, float]:
    """Milliseconds a call, all called in turn so that noise hits them alike."""
    for function in functions.values():
        function()  # the first call takes memory from the system
    samples = {
        name: [_milliseconds(function) for _ in range(2)]
        for name, function in functions.items()
    }
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        rounds += 1
        limit = HOPELESS * min(map(min, samples.values()))
        for name, function in functions.items():
            if min(samples[name]) <= limit:
                samples[name].append(_milliseconds(function))
    return {name: statistics.median(values) for name, values in samples.items()}


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)
