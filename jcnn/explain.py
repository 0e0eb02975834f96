"""Which convolutions a JAX function consists of, and how each is computed."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from .engine.planner import plan
from .engine.primitive import convolution_p

_FACES = {
    "y": "convolution",
    "x": "gradient to the input",
    "w": "gradient to the kernel",
}


class Convolution(NamedTuple):
    """One convolution of a program."""

    face: str  # what of a convolution it computes
    operands: tuple[tuple[int, ...], tuple[int, ...]]  # their shapes
    result: tuple[int, ...]
    flops: int  # two for each product of the definition
    algorithm: str
    reason: str


def explain(function: Callable[..., Any], *args: Any) -> None:
    """Prints the convolutions of `function(*args)`, those of gradients included.

    Nothing is computed: arguments may be arrays or `jax.ShapeDtypeStruct`. It tells
    what happens on a CPU; elsewhere every convolution is lax's.

    >>> from jcnn import conv
    >>> import jax.numpy as jnp
    >>> x, w = jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
    >>> explain(lambda x: conv(x, w, impl="auto"), x)
    convolution: (8, 16, 16, 32), (3, 3, 32, 32) -> (8, 16, 16, 32)
        37.7 MFLOP by winograd: half the products, with full channels
    convolutions: 1, in all 37.7 MFLOP
    """
    rows = convolutions(function, *args)
    for row in rows:
        first, second = row.operands
        print(f"{row.face}: {first}, {second} -> {row.result}")
        print(f"    {row.flops / 1e6:,.1f} MFLOP by {row.algorithm}: {row.reason}")
    total = sum(row.flops for row in rows)
    print(f"convolutions: {len(rows)}, in all {total / 1e6:,.1f} MFLOP")


def convolutions(function: Callable[..., Any], *args: Any) -> list[Convolution]:
    """What `explain` prints, as values, in the order of the program."""
    program = jax.make_jaxpr(function)(*args)
    return [row for eqn in equations(program.jaxpr) for row in _row(eqn)]


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All operations of a program, those of its parts after the one they belong to."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def _row(eqn: JaxprEqn) -> Iterator[Convolution]:
    shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]  # pyright: ignore
    if eqn.primitive is convolution_p:
        problem = eqn.params["problem"]
        name, reason = plan(problem)
        yield Convolution(
            _FACES[problem.face],
            (shapes[0], shapes[1]),
            shapes[2],
            2 * problem.multiply_adds,
            name,
            reason,
        )
    elif eqn.primitive is lax.conv_general_dilated_p:
        kernel, axes = shapes[1], eqn.params["dimension_numbers"].rhs_spec
        products = prod(shapes[2]) * prod(kernel) // max(kernel[axes[0]], 1)
        yield Convolution(
            "convolution",
            (shapes[0], shapes[1]),
            shapes[2],
            2 * products,
            "lax",
            "it is lax's own convolution",
        )
