"""Declaration of primitives and their rules to JAX."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from .._jax_internals import define_nan_check, define_taylor
from .eager import programs, taken_apart
from .sharding import type_like, vary_alike

Function = Callable[..., jax.Array]  # of operands by position and parameters by name
Series = list[Any]  # an array's Taylor coefficients but for the first


def declare(
    name: str,
    result: Callable[..., tuple[tuple[int, ...], DTypeLike]],
    batched: Callable[..., tuple[jax.Array, int]],
) -> Primitive:
    """Declare a primitive of one result.

    Args:
        name: As programs print it.
        result: Shape and dtype, from the operands' types and the parameters.
        batched: As `jax.interpreters.batching` has it.
    """
    primitive = Primitive(name)

    @primitive.def_abstract_eval
    def abstract(first, *others, **parameters):
        return type_like(first, *result(first, *others, **parameters))

    batching.primitive_batchers[primitive] = batched
    return primitive


def bind(primitive: Primitive, *operands: jax.Array, **parameters: Any) -> jax.Array:
    return primitive.bind(*vary_alike(*operands), **parameters)


def define_lowering(
    primitive: Primitive,
    by_parts: Function,
    on_cpu: Callable[[mlir.LoweringRuleContext], Function],
    elsewhere: Function,
) -> None:
    """Define what a primitive computes. Outside of `jax.jit` it compiles itself.

    Args:
        primitive: Of `declare`.
        by_parts: Computes it on CPUs where JAX takes programs apart (`jax.disable_jit`,
            `jax_debug_nans`): the primitive would become itself, without end.
        on_cpu: Returns what computes it in the program that is being lowered.
        elsewhere: Computes it on other platforms.
    """
    program = programs(primitive.bind)

    @primitive.def_impl
    def compute(*operands, **parameters):
        if taken_apart():
            run = by_parts if _on_cpu(operands) else elsewhere
            return run(*operands, **parameters)
        return program(**parameters)(*operands)

    def lower_on_cpu(context, *operands, **parameters):
        rule = mlir.lower_fun(on_cpu(context), multiple_results=False)
        with wide_types(*context.avals_in):
            return rule(context, *operands, **parameters)

    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")


def wide_types(*operands: Any) -> AbstractContextManager[Any]:
    """Return a context that allows 64 bits if operands have them.

    XLA lowers parts of divided programs in threads that do not know JAX's settings.
    """
    wide = any(jnp.dtype(a.dtype).itemsize == 8 for a in operands)
    return jax.enable_x64(True) if wide else nullcontext()


def _on_cpu(operands: tuple[Any, ...]) -> bool:
    devices = (a.devices() for a in operands if isinstance(a, jax.Array))
    return all(device.platform == "cpu" for d in devices for device in d)


def define_linear(primitive: Primitive, transpose: Function, others: int = 0) -> None:
    """Define the derivatives of a primitive that is linear in its first operand.

    Args:
        primitive: Of `declare`.
        transpose: (the result's cotangent, the first operand's type, *others,
            **parameters) -> the first operand's cotangent.
        others: The number of operands beside the first.
    """

    def tangent(t, _, *rest, **parameters):
        return bind(primitive, t, *rest, **parameters)

    def transposed(cotangent, first, *rest, **parameters):
        if isinstance(cotangent, ad.Zero):
            return ad.Zero(first.aval), *[None for _ in rest]
        cotangent = transpose(cotangent, first.aval, *rest, **parameters)
        return cotangent, *[None for _ in rest]

    def taylor(operands, series, **parameters):
        terms = [bind(primitive, t, *operands[1:], **parameters) for t in series[0]]
        return bind(primitive, *operands, **parameters), terms

    ad.defjvp(primitive, tangent, *[None] * others)
    ad.primitive_transposes[primitive] = transposed
    define_taylor(primitive, taylor)
    define_nan_check(primitive)
