"""The convolution in a program that XLA divides among devices: each computes its part.

Models, the batch and channels may be divided; any other axis that is divided is
gathered first. What both operands have and the result lacks is summed over devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .declaration import wide_types
from .problem import Problem, Tensor

# The axes of all three tensors that may be divided, and a problem's sizes of them.
_FIELDS = {
    "batch": "batch",
    "models": "models",
    "inputs": "in_channels",
    "outputs": "out_channels",
}
_Axes = tuple[str, ...]
_Division = dict[str, tuple[str, ...]]  # axes of the mesh that divide an axis


def solve_by_parts(
    first: jax.Array,
    second: jax.Array,
    *,
    problem: Problem,
    solve: Callable[..., jax.Array],
    whole: Callable[..., jax.Array],
) -> jax.Array:
    """Compute a problem of which XLA gives each device a part.

    Args:
        first, second: Operands, as for `convolve`.
        problem: Of the undivided arrays.
        solve: Computes a part from both and from its problem.
        whole: Computes all from both, where XLA divides nothing.
    """
    axes = [
        *(
            _axes(problem, tensor, problem.shared(a))
            for tensor, a in zip(problem.operands, (first, second))
        ),
        _axes(problem, problem.result),
    ]
    summed = (set(axes[0]) & set(axes[1])) - set(axes[2])
    every = dict.fromkeys(axis for tensor in axes for axis in tensor)
    program = custom_partitioning(whole)
    program.def_partition(
        partition=partial(_partition, solve, problem, axes, summed),
        infer_sharding_from_operands=partial(_infer, problem, axes),
        sharding_rule="{}, {} -> {}".format(*map(" ".join, axes)),
        need_replication_factors=tuple(a for a in every if a not in _fields(problem)),
        reduction_factors=tuple(a for a in every if a in summed & _fields(problem)),
    )
    return program(first, second)


def _fields(problem: Problem) -> set[str]:
    """Return the axes that may be divided."""
    return {"batch", "models"} if problem.groups > 1 else set(_FIELDS)


def _axes(problem: Problem, tensor: Tensor, shared: bool = False) -> _Axes:
    """Return the names of a tensor's axes; those of pixels are its own."""
    pixels = [f"{tensor}{i}" for i in range(problem.rank)]
    axes = {
        "x": ("batch", *pixels, "inputs"),
        "kernel": (*pixels, "inputs" if problem.groups == 1 else "seen", "outputs"),
        "y": ("batch", *pixels, "outputs"),
    }[tensor]
    return axes if problem.models is None or shared else ("models", *axes)


def _divide(
    problem: Problem, axes: Sequence[_Axes], mesh: Mesh, arrays: Sequence[Any]
) -> _Division:
    """Return how the arrays are divided; the batch comes before what contradicts it."""
    division: _Division = {}
    for axis in _FIELDS:
        for names, array in zip(axes, arrays):
            if axis not in names or axis not in _fields(problem):
                continue
            by = array.sharding.spec[names.index(axis)] or ()
            by = by if isinstance(by, tuple) else (by,)
            size = getattr(problem, _FIELDS[axis])
            used = {name for names in division.values() for name in names}
            if by and not used & {*by} and size % _parts(mesh, by) == 0:
                division.setdefault(axis, by)
    return division


def _parts(mesh: Mesh, by: tuple[str, ...]) -> int:
    return prod(mesh.shape[name] for name in by)


def _sharding(axes: _Axes, division: _Division, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(division.get(axis) for axis in axes)))


def _partition(
    solve: Callable[..., jax.Array],
    problem: Problem,
    axes: Sequence[_Axes],
    summed: set[str],
    mesh: Mesh,
    operands: Sequence[Any],
    result: Any,
):
    division = _divide(problem, axes, mesh, (*operands, result))
    sizes = {
        _FIELDS[axis]: getattr(problem, _FIELDS[axis]) // _parts(mesh, by)
        for axis, by in division.items()
    }
    part = replace(problem, **sizes)
    over = tuple(name for axis in summed for name in division.get(axis, ()))

    def compute(first, second):
        with wide_types(first, second):
            y = solve(first, second, problem=part)
        return lax.psum(y, over) if over else y

    *given, found = (_sharding(names, division, mesh) for names in axes)
    return mesh, compute, found, tuple(given)


def _infer(problem: Problem, axes: Sequence[_Axes], mesh: Mesh, operands, _):
    """Return the result's sharding (for GSPMD; Shardy has the rule)."""
    return _sharding(axes[2], _divide(problem, axes, mesh, operands), mesh)
