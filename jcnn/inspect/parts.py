"""The named parts of a function: their outputs, and the function with one changed.

A part is a named scope of the traced program, as `serial` and Flax's modules make them:
"stage2/conv1". Its output is that of the last operation in it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from .jaxprs import scope_of

_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2")
_Place = tuple[int, ...]  # of an equation: its index, and those of the calls around it


def part_outputs(function: Callable[[Any], Any], x: Any) -> dict[str, jax.Array]:
    """Return the output of each named part of a function.

    Args:
        function: Of one array, such as `lambda x: layer.apply(params, state, x)[0]`.
        x: Its argument.

    Returns:
        Arrays by path, in the order of computation. What is inside of loops is not
        among them.

    >>> import jax.numpy as jnp
    >>> from jcnn import serial
    >>> net = serial(twice=lambda x: 2 * x, more=lambda x: x + 1)
    >>> part_outputs(lambda x: net.apply({}, {}, x)[0], jnp.float32(3))
    {'twice': Array(6., dtype=float32), 'more': Array(7., dtype=float32)}
    """
    return evaluate(function, x)[1]


def evaluate(
    function: Callable[[Any], Any], x: Any, added: Mapping[str, jax.Array] | None = None
) -> tuple[Any, dict[str, jax.Array]]:
    """Return function(x) and the outputs of its parts.

    Args:
        function, x: As for `part_outputs`.
        added: What is added to the outputs of parts, before they are used. The gradient
            to it at 0 is that to the output.

    Raises:
        ValueError: If there is no such part.
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(x)
    lasts = {path: place for place, path in _lasts(program.jaxpr)}
    added = added or {}
    if unknown := [name for name in added if name not in lasts]:
        raise ValueError(f"part must be one of {', '.join(lasts)}, got {unknown[0]!r}")
    terms = {lasts[name]: term for name, term in added.items()}
    watched: dict[_Place, jax.Array] = dict.fromkeys(lasts.values())  # pyright: ignore
    results = _run(program.jaxpr, program.consts, jax.tree.leaves(x), terms, watched)
    outputs = {path: watched[place] for path, place in lasts.items()}
    return jax.tree.unflatten(jax.tree.structure(shape), results), outputs


def _lasts(jaxpr: Jaxpr) -> list[tuple[_Place, str]]:
    """Return each part with the place of its last equation, in this order."""
    last: dict[str, _Place] = {}
    for place, path in _places(jaxpr, "", ()):
        names = path.split("/") if path else []
        for n in range(1, len(names) + 1):
            part = "/".join(names[:n])
            last.pop(part, None)
            last[part] = place
    return [(place, path) for path, place in last.items()]


def _places(jaxpr: Jaxpr, outside: str, at: _Place) -> Iterator[tuple[_Place, str]]:
    for index, eqn in enumerate(jaxpr.eqns):
        path = scope_of(eqn, outside)
        inner = _called(eqn)
        if inner is None:
            yield (*at, index), path
        else:
            yield from _places(inner, path, (*at, index))


def _called(eqn: JaxprEqn) -> Jaxpr | None:
    """Return the program that an equation calls once, with its operands."""
    if eqn.primitive.name not in _CALLS:
        return None
    (inner,) = jaxprs_in_params(eqn.params)
    return inner


def _run(
    jaxpr: Jaxpr,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    terms: Mapping[_Place, jax.Array],
    watched: dict[_Place, jax.Array],
    at: _Place = (),
) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments]))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for index, eqn in enumerate(jaxpr.eqns):
        place, operands = (*at, index), [value(v) for v in eqn.invars]
        inner = _called(eqn)
        if inner is not None:
            closed = eqn.params["jaxpr"]
            results = _run(
                inner, getattr(closed, "consts", ()), operands, terms, watched, place
            )
        else:
            params = eqn.primitive.get_bind_params(eqn.params)
            results = eqn.primitive.bind(*operands, **params)
            results = results if eqn.primitive.multiple_results else [results]
        if place in terms:
            results = [results[0] + terms[place], *results[1:]]
        if place in watched:
            watched[place] = results[0]
        values.update(zip(eqn.outvars, results))
    return [value(v) for v in jaxpr.outvars]
