"""The convolutions and pools of a JAX function, and how each is computed."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import JaxprEqn

from ..engine import acceleration
from ..engine.canonical import canonicalize
from ..engine.lax_arguments import Convolution
from ..engine.onednn.support import keeps_programs
from ..engine.planner import plan
from ..engine.primitive import convolution_p
from ..engine.problem import Problem
from ..engine.sharding import sharded_by_type
from .jaxprs import equations, shapes

_POOLS = {  # by the names of primitives
    "reduce_window_max": "window maxima",
    "reduce_window_min": "window minima",
    "reduce_window_sum": "window sums",
    "select_and_gather_add": "tangent of maxima",
    "select_and_scatter_add": "gradient of maxima",
    "jcnn_window_sums": "window sums",
    "jcnn_window_sums_transposed": "gradient of sums",
    "jcnn_window_maxima": "window maxima",
    "jcnn_max_windows": "tangent of maxima",
    "jcnn_max_windows_transposed": "gradient of maxima",
}


class Operation(NamedTuple):
    """A convolution, or an operation of a pool or of its gradient."""

    what: str
    operands: tuple[tuple[int, ...], ...]  # their shapes
    result: tuple[int, ...]
    algorithm: str
    reason: str
    flops: int = 0  # of a convolution: two for each product
    times: int | None = 1  # that it runs; None in a while loop
    dtype: str = "float32"  # of the operands


def explain(
    function: Callable[..., Any], *args: Any, accelerated: bool | None = None
) -> None:
    """Print the convolutions and pools of `function(*args)`, and of its gradients.

    Nothing is computed. The algorithms are those of a CPU; elsewhere all are lax's.

    Args:
        function: What `jax.make_jaxpr` takes, such as `jax.grad` of a loss.
        *args: Its arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.
        accelerated: Whether lax's own operations run as under `jcnn.accelerate()`;
            None: as they do now.

    >>> from jcnn import conv
    >>> x, w = jax.numpy.ones((8, 16, 16, 32)), jax.numpy.ones((1, 1, 32, 64))
    >>> explain(lambda x: conv(x, w, impl="auto"), x)
    what         of                       gives       MFLOP  by      because
    convolution  8x16x16x32 by 1x1x32x64  8x16x16x64    8.4  matmul
        it is one matrix product
    convolutions: 1, in all 8.4 MFLOP
    """
    rows = operations(function, *args, accelerated=accelerated)
    if rows:
        _print_table([_HEADER, *map(_cells, rows)])
    flops = sum(row.flops * (row.times or 1) for row in rows)
    number = sum(row.times or 1 for row in rows if row.flops)
    print(f"convolutions: {number}, in all {flops / 1e6:,.1f} MFLOP")


def operations(
    function: Callable[..., Any], *args: Any, accelerated: bool | None = None
) -> list[Operation]:
    """Return what `explain` prints, in the order of the program."""
    if accelerated is None:
        accelerated = acceleration.in_force()
    program = jax.make_jaxpr(function)(*args)
    found = []
    for eqn, times in equations(program.jaxpr):
        operation = operation_of(eqn, accelerated)
        if operation is not None:
            found.append(operation._replace(times=times))
    return found


def operation_of(
    eqn: JaxprEqn, accelerated: bool, examples: int = 1
) -> Operation | None:
    """Return what an equation is, and its algorithm for so many times the batch."""
    if eqn.primitive is convolution_p:
        return _planned(eqn, eqn.params["problem"], examples)
    if eqn.primitive is lax.conv_general_dilated_p:
        return _convolution_of_lax(eqn, accelerated, examples)
    what = _POOLS.get(eqn.primitive.name)
    if what is None:
        return None
    windows = eqn.params.get("windows")
    if windows:
        return _named(eqn, what, *(_BY_TAPS if windows.by_taps else _BY_LAX))
    for replacement in acceleration.replacements() if accelerated else ():
        if replacement.primitive is eqn.primitive:
            supported = replacement.faster(*_types(eqn), **eqn.params) is not None
            return _named(eqn, what, *(_BY_TAPS if supported else _LEFT_TO_LAX))
    return _named(eqn, what, *_BY_LAX)


_BY_LAX = ("lax", "it is lax's own")
_LEFT_TO_LAX = ("lax", "no fast algorithm supports it")
_BY_TAPS = ("taps", "whole arrays, one for each pixel of a window")


def _convolution_of_lax(eqn: JaxprEqn, accelerated: bool, examples: int) -> Operation:
    lhs, rhs = _types(eqn)
    canonical = canonicalize(lhs, rhs, Convolution.of(eqn.params))
    if canonical is None:
        kernel, features = rhs.shape, eqn.params["dimension_numbers"].rhs_spec[0]
        outputs = prod(shapes(eqn.outvars)[0])
        flops = 2 * outputs * prod(kernel) // max(kernel[features], 1)
        plan_ = _LEFT_TO_LAX if accelerated else _BY_LAX
        return _named(eqn, "convolution", *plan_, flops)
    what, flops = _name(canonical.problem), 2 * canonical.problem.multiply_adds
    if not accelerated:
        return _named(eqn, what, *_BY_LAX, flops)
    if sharded_by_type(lhs, rhs):
        return _named(eqn, what, *_LEFT_TO_LAX, flops)
    return _planned(eqn, canonical.problem, examples)


def _planned(eqn: JaxprEqn, problem: Problem, examples: int) -> Operation:
    many = replace(problem, batch=problem.batch * examples)
    algorithm, reason = plan(many, portable=keeps_programs())
    flops = 2 * problem.multiply_adds
    return _named(eqn, _name(problem), algorithm.name, reason, flops)


def _name(problem: Problem) -> str:
    op = "convolution" if problem.rank else "dense"
    if problem.op != "forward":
        op = problem.op.replace("_", " ")
    return op if problem.models is None else f"{op}, {problem.models} models"


def _named(
    eqn: JaxprEqn, what: str, algorithm: str, reason: str, flops: int = 0
) -> Operation:
    operands, (result, *_) = tuple(shapes(eqn.invars)), shapes(eqn.outvars)
    dtype = _types(eqn)[0].dtype.name
    return Operation(what, operands, result, algorithm, reason, flops, dtype=dtype)


def _types(eqn: JaxprEqn) -> list[Any]:
    return [v.aval for v in eqn.invars]


_HEADER = ("what", "dtype", "of", "gives", "times", "MFLOP", "by", "because")


def _cells(row: Operation) -> tuple[str, ...]:
    return (
        row.what,
        row.dtype,
        " by ".join(map(_sizes, row.operands)),
        _sizes(row.result),
        "?" if row.times is None else str(row.times),
        f"{row.flops / 1e6:,.1f}" if row.flops else "",
        row.algorithm,
        row.reason,
    )


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _print_table(rows: list[tuple[str, ...]]) -> None:
    ordinary = {"dtype": {"float32"}, "times": {"1"}}  # omitted
    columns = [c for c in zip(*rows) if set(c[1:]) != ordinary.get(c[0])]
    aligned = []
    for column in columns:
        width = max(map(len, column))
        right = column[0] in ("times", "MFLOP")
        aligned.append([f"{c:>{width}}" if right else f"{c:<{width}}" for c in column])
    for row in zip(*aligned):
        print("  ".join(row).rstrip())
