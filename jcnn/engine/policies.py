"""Policies of `jax.checkpoint` decide on jcnn's convolution as they would on lax's.

They know lax's primitive, by its identity and parameters, and are asked about that.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import Recompute, Saveable, checkpoint_name
from jax.extend.core import JaxprEqn, Var
from jax.extend.core.primitives import closed_call_p

from .._jax_internals import partial_eval_rules
from .lowering import solve
from .primitive import convolution_p, convolve
from .problem import Problem


def _partial_eval(policy, unknown, available, equation: JaxprEqn):
    """Evaluate as JAX does by default, but for the question to the policy.

    Returns:
        The equations of the forward and the backward pass, or None; whether each result
        is unknown in the former and available in the latter; the operands to hand on.
    """
    operands = zip(equation.invars, available)
    needed = [v for v, there in operands if isinstance(v, Var) and not there]
    if any(unknown):
        return None, equation, [True], [True], needed
    types = [v.aval for v in equation.invars]
    answer = _asked(policy, *types, **equation.params)
    if answer is False or answer is Recompute:
        return equation, equation, [False], [True], needed
    if answer is True or answer is Saveable:
        return equation, None, [False], [False], []
    # To be kept elsewhere, for which JAX adds equations: a call can hold them all.
    program = jax.make_jaxpr(partial(_named, **equation.params))(*types)
    call = equation.replace(primitive=closed_call_p, params={"call_jaxpr": program})
    return partial_eval_rules()[closed_call_p](
        lambda *_, name=None, **__: answer if name == _NAME else False,
        unknown,
        available,
        call,
    )


def _asked(policy, *types, problem: Problem) -> Any:
    """Return the policy's answer for lax's convolution."""
    by_lax = partial(solve, problem=replace(problem, impl="lax"))
    program = jax.make_jaxpr(by_lax)(*types)
    for equation in program.eqns:
        if equation.primitive in (lax.conv_general_dilated_p, lax.dot_general_p):
            types = [v.aval for v in equation.invars]
            return policy(equation.primitive, *types, **equation.params)
    return False  # of no models


_NAME = "jcnn_convolution"


def _named(first, second, *, problem: Problem):
    """Return the convolution, and its result with a name that a policy sees."""
    return checkpoint_name(convolve(problem, first, second), _NAME)


partial_eval_rules()[convolution_p] = _partial_eval
