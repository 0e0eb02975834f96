"""oneDNN's direct convolution, the forward one and input gradients without strides.

The gradient to the input is a forward convolution of y with the kernel turned round.
"""

import jax

from .. import onednn
from ..mirror import mirrored, turned
from ..problem import Problem


def refusal(problem: Problem) -> str | None:
    if problem.face == "w":
        return "it computes no gradients to the kernel"
    if problem.face == "x" and any(s > 1 for s in problem.strides):
        return "it computes gradients to the input only without strides"
    return onednn.unsupported_reason(_forward(problem.one_model()))


def forward(problem: Problem, x: jax.Array, w: jax.Array) -> jax.Array:
    return onednn.convolution(problem, x, w)


def input_gradient(problem: Problem, w: jax.Array, y: jax.Array) -> jax.Array:
    return onednn.convolution(mirrored(problem), y, turned(w, problem.groups))


def _forward(problem: Problem) -> Problem:
    return mirrored(problem) if problem.face == "x" else problem
