"""How a primitive is declared to JAX, of which each part has a table of its own.

Where a release of JAX has another table for a tool or none, the tool does not know
jcnn's primitives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from .eager import define_eager
from .sharding import type_like, vary_alike

Function = Callable[..., jax.Array]  # of operands by position and parameters by name
Series = list[Any]  # an array's Taylor coefficients but for the first


def declare(
    name: str,
    result: Callable[..., tuple[tuple[int, ...], DTypeLike]],
    batched: Callable[..., tuple[jax.Array, int]],
) -> Primitive:
    """A primitive of one result.

    Args:
      name: for those who read programs.
      result: shape and dtype, from the operands' types and the parameters.
      batched: as `jax.interpreters.batching` has it.
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
    """What a primitive computes.

    Args:
      by_parts: outside of programs, where JAX takes these apart (see `define_eager`).
      on_cpu: on CPUs, in the program that is being lowered.
      elsewhere: on other platforms.
    """

    def lower_on_cpu(context, *operands, **parameters):
        rule = mlir.lower_fun(on_cpu(context), multiple_results=False)
        return rule(context, *operands, **parameters)

    define_eager(primitive, by_parts)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")


def define_linear(primitive: Primitive, transpose: Function, others: int = 0) -> None:
    """Derivatives of a primitive that is linear in the first of its operands.

    Args:
      transpose: from the result's cotangent, the type of the first operand, the other
        operands and the parameters to the first operand's cotangent.
      others: how many operands there are beside the first.
    """

    def tangent(t, _, *rest, **parameters):
        return bind(primitive, t, *rest, **parameters)

    def transposed(cotangent, first, *rest, **parameters):
        if isinstance(cotangent, ad.Zero):
            return ad.Zero(first.aval), *[None for _ in rest]
        cotangent = transpose(cotangent, first.aval, *rest, **parameters)
        return cotangent, *[None for _ in rest]

    def taylor(operands, series, **parameters):
        terms = (bind(primitive, t, *operands[1:], **parameters) for t in series[0])
        return bind(primitive, *operands, **parameters), list(terms)

    ad.defjvp(primitive, tangent, *[None] * others)
    ad.primitive_transposes[primitive] = transposed
    define_taylor(primitive, taylor)
    define_nan_check(primitive)


def define_taylor(
    primitive: Primitive, rule: Callable[..., tuple[Any, Series]]
) -> None:
    """Gives `jax.experimental.jet` a rule, unless it has one.

    Args:
      primitive: one of jcnn's, or one of lax's that jet does not know.
      rule: from the operands, a series for each, and the primitive's parameters to the
        result and its series.
    """
    try:
        from jax.experimental.jet import jet_rules
    except ImportError:
        return
    jet_rules.setdefault(primitive, rule)


def define_nan_check(primitive: Primitive) -> None:
    """Lets `checkify` look for NaN in the primitive's result."""
    try:
        from jax._src.checkify import error_checks, nan_error_check
    except ImportError:
        return
    error_checks[primitive] = partial(nan_error_check, primitive)
