"""What the primitive computes: the plan's choice on a CPU, lax's convolution elsewhere.

In programs that XLA divides among CPUs each computes a part by its own plan. A portable
algorithm that is named computes everywhere.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from .._dtypes import wide, widest
from .._jax_internals import lower_with_mesh, mesh_of
from .algorithm import Algorithm
from .algorithms.lax import ELSEWHERE, LAX
from .algorithms.matmul import MATMUL
from .declaration import define_lowering
from .onednn.support import keeps_programs
from .partitioning import solve_by_parts
from .planner import ALGORITHMS, plan
from .primitive import convolution_p
from .problem import Problem
from .sharding import is_divided


def solve(
    first: jax.Array, second: jax.Array, *, problem: Problem, portable: bool = False
) -> jax.Array:
    """Compute a problem by its plan; for `portable` see there."""
    if problem.models is not None:
        return _solve_models(first, second, problem=problem, portable=portable)
    algorithm = plan(problem, portable=portable).algorithm
    return _by(algorithm, problem, first, second)


def _solve_models(first, second, *, problem: Problem, portable: bool):
    """Compute one product or one pass over memory by vmap, others one by one.

    A model fills the cores by itself, and its blocks stay in the cache.
    """
    if problem.models == 0:
        return jnp.zeros(
            problem.shape(problem.result), problem.dtype_of(problem.result)
        )
    one = partial(solve, problem=problem.one_model(), portable=portable)
    axes = problem.model_axes(first, second)
    algorithm = plan(problem, portable=portable).algorithm
    if problem.impl == "lax" or algorithm.joins_models and axes == (0, 0):
        return jax.vmap(one, axes)(first, second)

    def model(index):
        pairs = zip((first, second), axes)
        return one(*(a if axis is None else _at(index, a) for a, axis in pairs))

    return lax.map(model, jnp.arange(problem.models, dtype=jnp.int32))


def _solve_elsewhere(first, second, *, problem: Problem):
    if problem.impl != "auto" and ALGORITHMS[problem.impl].portable:
        return solve(first, second, problem=problem, portable=True)
    if problem.models is not None:
        # XLA-FAULT divided groups: vmap makes groups of models.
        one = problem.one_model()
        algorithm = (
            MATMUL if prod(one.kernel_size) == 1 and MATMUL.supports(one) else LAX
        )
        run = partial(_by, algorithm, one)
        return jax.vmap(run, problem.model_axes(first, second))(first, second)
    return _by(ELSEWHERE, problem, first, second)


def _at(index: jax.Array, a: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(a, index, keepdims=False)


def _by(algorithm: Algorithm, problem: Problem, first, second):
    result_dtype = jnp.dtype(problem.dtype_of(problem.result))
    dtype = widest(first.dtype, second.dtype)
    if result_dtype.itemsize > wide(dtype).itemsize:  # sums are not taken that wide
        dtype = result_dtype
    result = algorithm.compute(problem, first.astype(dtype), second.astype(dtype))
    return result.astype(result_dtype)


def _by_parts(first, second, *, problem: Problem):
    return solve(first, second, problem=problem, portable=keeps_programs())


def _on_cpu(context: mlir.LoweringRuleContext):
    for_export = context.module_context.lowering_parameters.for_export
    if is_divided(context):
        by_parts = mesh_of(context) and not for_export
        return _divided if by_parts else _solve_elsewhere
    return partial(solve, portable=for_export or keeps_programs())


def _divided(first, second, *, problem: Problem):
    def whole(first, second):
        return _solve_elsewhere(first, second, problem=problem)

    if problem.impl == "lax":
        return whole(first, second)
    part = partial(solve, portable=keeps_programs())
    return solve_by_parts(first, second, problem=problem, solve=part, whole=whole)


define_lowering(convolution_p, _by_parts, _on_cpu, _solve_elsewhere)
lower_with_mesh(convolution_p)
