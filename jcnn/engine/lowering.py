"""What the primitive computes: the plan's choice on a CPU, lax's convolution elsewhere.

An algorithm that is asked for by name is taken on every platform.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from .._dtypes import wide
from .._eager import define_eager
from .algorithms import lax as by_lax
from .planner import plan
from .primitive import convolution_p
from .problem import Problem, is_name


def solve(
    first: jax.Array, second: jax.Array, *, problem: Problem, portable: bool = False
) -> jax.Array:
    """The face, by the algorithm that the planner takes; see there for `portable`."""
    if problem.models is not None:
        return _solve_models(first, second, problem=problem, portable=portable)
    algorithm = plan(problem, portable=portable).algorithm
    return _by(getattr(algorithm, _FUNCTIONS[problem.face]), problem, first, second)


def _solve_models(first, second, *, problem: Problem, portable: bool):
    """At once what is one product or one pass over memory, all else one by one.

    Each model fills the cores by itself, and one by one their blocks stay in the cache.
    """
    if problem.models == 0:
        return jnp.zeros(problem.shape(problem.face), problem.face_dtype(problem.face))
    one = partial(solve, problem=problem.one_model(), portable=portable)
    axes = _model_axes(problem, first, second)
    name = plan(problem, portable=portable).name
    at_once = name == "depthwise" or (name == "matmul" and axes == (0, 0))
    if at_once or problem.impl == "lax":
        return jax.vmap(one, axes)(first, second)

    def model(index):
        pairs = zip((first, second), axes)
        return one(*(a if axis is None else _at(index, a) for a, axis in pairs))

    return lax.map(model, jnp.arange(problem.models, dtype=jnp.int32))


def _solve_elsewhere(first, second, *, problem: Problem):
    if is_name(problem.impl):
        return solve(first, second, problem=problem)
    if problem.models is not None:
        one = partial(_solve_elsewhere, problem=problem.one_model())
        return jax.vmap(one, _model_axes(problem, first, second))(first, second)
    return _by(_ELSEWHERE[problem.face], problem, first, second)


def _model_axes(problem: Problem, *operands: jax.Array) -> tuple[int | None, ...]:
    """For each operand the axis that counts models; None if they share it."""
    return tuple(None if problem.shared(a) else 0 for a in operands)


def _at(index: jax.Array, a: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(a, index, keepdims=False)


def _by(compute: Callable[..., jax.Array], problem: Problem, first, second):
    result_dtype = jnp.dtype(problem.face_dtype(problem.face))
    dtype = max(first.dtype, second.dtype, key=lambda dtype: dtype.itemsize)
    if result_dtype.itemsize > wide(dtype).itemsize:  # sums are not taken that wide
        dtype = result_dtype
    result = compute(problem, first.astype(dtype), second.astype(dtype))
    return result.astype(result_dtype)


_FUNCTIONS = {"y": "forward", "x": "input_gradient", "w": "kernel_gradient"}
_ELSEWHERE = {
    "y": by_lax.forward,
    "x": by_lax.input_gradient,
    "w": by_lax.kernel_gradient_elsewhere,
}


def is_portable(context: mlir.LoweringRuleContext) -> bool:
    """Whether a program must be made of JAX's own operations: those that are exported,
    and those of many devices, where XLA's partitioner gathers what others compute.
    """
    module = context.module_context
    axes: Any = module.axis_context
    if hasattr(axes, "num_devices"):
        automatic = axes.num_devices != 1
    else:  # shard_map, of all axes or only of some
        mesh = getattr(axes, "mesh", None)
        automatic = mesh is None or set(axes.manual_axes) != set(mesh.axis_names)
    # Such programs cannot be kept: an error, if the user wants one (see `onednn`).
    strict = jax.config.jax_raise_persistent_cache_errors  # pyright: ignore
    return module.lowering_parameters.for_export or automatic or strict


def _lower_on_cpu(context, first, second, *, problem: Problem):
    compute = partial(solve, problem=problem, portable=is_portable(context))
    return mlir.lower_fun(compute, multiple_results=False)(context, first, second)


define_eager(convolution_p, solve)
mlir.register_lowering(
    convolution_p, mlir.lower_fun(_solve_elsewhere, multiple_results=False)
)
mlir.register_lowering(convolution_p, _lower_on_cpu, platform="cpu")
