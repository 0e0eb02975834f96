"""The convolution as a JAX primitive that is closed under differentiation.

One primitive for three operations. Each is bilinear: its derivative along an operand is
the same operation, and its transpose is the operation that gives that operand. So all
derivatives of any order follow, and each convolution among them has its own plan.
"""

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jax.sharding import NamedSharding, PartitionSpec

from .._jax_internals import define_nan_check, define_taylor
from .declaration import bind, declare
from .problem import Problem
from .sharding import compiled_as


def convolve(problem: Problem, first: jax.Array, second: jax.Array) -> jax.Array:
    """Return the result, from the other two tensors in the order x, kernel, y."""
    return bind(convolution_p, first, second, problem=problem)


# --- how it differentiates ---


def _transpose(operand: int, cotangent, first, second, *, problem: Problem):
    """Return the operand's cotangent, from the result's and the other operand."""
    known = second if operand == 0 else first
    tensors = {problem.result: cotangent, problem.operands[1 - operand]: known}
    sought = problem.giving(problem.operands[operand])
    result = convolve(sought, *(tensors[name] for name in sought.operands))
    shared = problem.shared((first, second)[operand].aval)
    return result.sum(0) if shared else result


# --- how it batches ---


def _batch(operands, axes, *, problem: Problem):
    """Fold what was mapped into the batch, or into models, which share the rest."""
    pairs = [(a, axis) for a, axis in zip(operands, axes) if axis is not None]
    size = next(a.shape[axis] for a, axis in pairs)
    mapped = {name for name, axis in zip(problem.operands, axes) if axis is not None}
    shardings = {jax.typeof(a).sharding.spec[axis] for a, axis in pairs} - {None}
    if shardings:
        mesh = jax.typeof(pairs[0][0]).sharding.mesh
        by_lax = partial(_batch, axes=axes, problem=replace(problem, impl="lax"))
        result = compiled_as(
            NamedSharding(mesh, PartitionSpec(shardings.pop())),
            lambda *operands: by_lax(operands)[0],
            *operands,
        )
        return result, 0
    operands = [
        a if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(operands, axes)
    ]
    if problem.models is None and problem.result != "kernel" and mapped <= {"x", "y"}:
        return _fold_into_batch(problem, size, operands), 0
    if problem.models is None:
        return convolve(replace(problem, models=size), *operands), 0
    counts = size, problem.models
    flat = [
        _all_models(a, counts, mapped=axis is not None, rank=problem.rank)
        for a, axis in zip(operands, axes)
    ]
    result = convolve(replace(problem, models=prod(counts)), *flat)
    return result.reshape(*counts, *result.shape[1:]), 0


def _fold_into_batch(problem: Problem, size: int, operands: list[Any]):
    flat = [
        a if name == "kernel" else a.reshape(size * problem.batch, *a.shape[2:])
        for name, a in zip(problem.operands, operands)
    ]
    result = convolve(replace(problem, batch=size * problem.batch), *flat)
    return result.reshape(size, problem.batch, *result.shape[1:])


def _all_models(
    a: jax.Array, counts: tuple[int, int], *, mapped: bool, rank: int
) -> jax.Array:
    """Return an operand with both counts in one axis, or as it is if shared."""
    shared = a.ndim - mapped == rank + 2
    if shared and not mapped:
        return a
    if shared:
        a = a[:, None]
    if not mapped:
        a = a[None]
    a = jnp.broadcast_to(a, (*counts, *a.shape[2:]))
    return a.reshape(prod(counts), *a.shape[2:])


# --- what Taylor mode makes of it ---


def _taylor(operands, series, *, problem: Problem):
    """Return the product of two power series, term by term."""
    first, second = ([a, *terms] for a, terms in zip(operands, series))
    result, *terms = (
        sum(convolve(problem, first[i], second[n - i]) for i in range(n + 1))
        for n in range(len(first))
    )
    return result, terms


def _taylor_of_barrier(operands, series):
    return list(lax.optimization_barrier(operands)), [
        [lax.optimization_barrier(term) for term in terms] for terms in series
    ]


def _type(first, second, *, problem: Problem):
    return problem.shape(problem.result), problem.dtype_of(problem.result)


convolution_p = declare("jcnn_convolution", _type, _batch)
ad.defbilinear(convolution_p, partial(_transpose, 0), partial(_transpose, 1))
define_taylor(convolution_p, _taylor)
define_taylor(lax.optimization_barrier_p, _taylor_of_barrier)  # stands before some
define_nan_check(convolution_p)
