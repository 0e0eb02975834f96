"""The ways to compute a convolution and its gradients: every algorithm for it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax

from jcnn.engine.canonical import Canonical, canonicalize
from jcnn.engine.general import convolve_general
from jcnn.engine.lax_arguments import Convolution
from jcnn.engine.planner import ALGORITHMS
from jcnn.engine.primitive import convolve

NAMES = {"y": "f", "x": "gx", "kernel": "gw"}  # of what gives each tensor


class Way(NamedTuple):
    """A function of both operands, and the names of what it and its gradients are.

    A name is None where the algorithm does not support it: the planner takes another.
    A dilated input makes the function itself a gradient: hence the names.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    results: tuple[str | None, ...]


def ways_of(
    lhs: jax.ShapeDtypeStruct, rhs: jax.ShapeDtypeStruct, convolution: Convolution
) -> dict[str, Way]:
    """By name: "auto" and lax's primitive as users ask for them, then algorithms."""
    canonical = canonicalize(lhs, rhs, convolution)
    tensors = ("y", "x", "kernel")
    if canonical is not None:
        tensors = (canonical.problem.result, *canonical.problem.operands)
    names = tuple(NAMES[tensor] for tensor in tensors)

    def asked_for(impl: str) -> Way:
        function = partial(convolve_general, convolution=convolution, impl=impl)
        return Way(function, names)

    ways = {"auto": asked_for("auto"), "primitive": asked_for("lax")}
    if canonical is None:  # not without dilating first, as `impl` does
        return ways | {"im2col": asked_for("im2col")}
    for name, algorithm in ALGORITHMS.items():
        problem = replace(canonical.problem, impl=name)
        supported = [algorithm.supports(problem.giving(tensor)) for tensor in tensors]
        if any(supported):
            function = partial(_canonical, canonical._replace(problem=problem))
            named = (f if ours else None for f, ours in zip(names, supported))
            ways[name] = Way(function, tuple(named))
    return ways


def _canonical(canonical: Canonical, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return canonical.result(convolve(canonical.problem, *canonical.operands(lhs, rhs)))
