"""Reading of a program: what each equation does to an image that goes through it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from .._jax_internals import scan_operands
from .explanation import operation_of
from .fields import View, propagate, to_rank, union
from .jaxprs import multiply_adds, scope_of, shapes

Leaves = frozenset[int]  # arrays that a value depends on, which are not the image
Views = tuple[View, ...]  # of one value, for each axis of the image but the first
Value = Views | Leaves
CONSTANT: Leaves = frozenset()
CONVOLUTIONS = ("conv_general_dilated", "jcnn_convolution")


class Step(NamedTuple):
    """One equation that the image goes through."""

    primitive: str
    scope: str
    output: Any  # its shape and dtype
    views: Views
    multiply_adds: int | None = 0
    leaves: Leaves = CONSTANT  # that it reads beside the image
    algorithm: str = ""  # of a convolution


@dataclass
class Reader:
    """Follows an image through a program and records its steps.

    Attributes:
        rank: Axes of the image but the first.
        accelerated: As for `explain`.
        examples: How many there are for each one of the program.
    """

    rank: int
    accelerated: bool
    examples: int = 1
    steps: list[Step] = field(default_factory=list)

    def read(
        self, jaxpr: Jaxpr, inputs: Sequence[Value], scope: str, border: bool = False
    ) -> list[Value]:
        """Return the values of the results; `border` as for `propagate`."""
        known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs))

        def value(variable: Any) -> Value:
            constant = isinstance(variable, Literal)
            return CONSTANT if constant else known.get(variable, CONSTANT)

        for eqn in jaxpr.eqns:
            operands = [value(v) for v in eqn.invars]
            name = scope_of(eqn, scope)
            if any(isinstance(operand, tuple) for operand in operands):
                known |= zip(eqn.outvars, self._results(eqn, operands, name, border))
            else:
                known |= dict.fromkeys(eqn.outvars, _leaves(operands))
        return [value(v) for v in jaxpr.outvars]

    def _results(
        self, eqn: JaxprEqn, operands: list[Value], name: str, border: bool
    ) -> list[Value]:
        kind, params = eqn.primitive.name, eqn.params
        if kind == "scan":
            return self._scan(params, operands, name)
        if kind == "while":
            return self._while(params, operands, name)
        if kind == "cond":
            return self._cond(eqn, operands, name)
        if kind in ("optimization_barrier", "device_put"):
            return operands
        inner = list(jaxprs_in_params(params))
        if len(inner) == 1 and shapes(inner[0].invars) == shapes(eqn.invars):
            # `jnp.pad` extends the image by its padding modes.
            pads = params.get("name") == "_pad" and shapes(eqn.invars)[1:] == [()]
            return self.read(inner[0], operands, name, border or pads)
        if not eqn.outvars:
            return []
        constants = frozenset(i for i, v in enumerate(operands) if v == CONSTANT)
        images = {i: v for i, v in enumerate(operands) if isinstance(v, tuple)}
        by_dimension = [
            propagate(eqn, {i: v[d] for i, v in images.items()}, constants, border)
            for d in range(self.rank)
        ]
        values: list[Views] = [*zip(*by_dimension)] or [()] * len(eqn.outvars)
        dense = kind == "jcnn_convolution" and not params["problem"].rank
        what = "dot_general" if dense else kind
        step = Step(what, name, eqn.outvars[0].aval, values[0], multiply_adds(eqn))
        leaves, algorithm = _leaves(operands), self._algorithm(eqn)
        self.steps.append(step._replace(leaves=leaves, algorithm=algorithm))
        return [*values]

    def _algorithm(self, eqn: JaxprEqn) -> str:
        convolves = eqn.primitive.name in CONVOLUTIONS
        if not convolves or jax.default_backend() != "cpu":
            return ""
        operation = operation_of(eqn, self.accelerated, self.examples)
        return operation.algorithm if operation else ""

    def _apart(self, *args: Any, examples: int = 0) -> tuple[list[Value], list[Step]]:
        """Return the results of `read` and the steps that it would record."""
        reader = Reader(self.rank, self.accelerated, examples or self.examples)
        return reader.read(*args), reader.steps

    def _scan(
        self, params: dict[str, Any], operands: list[Value], name: str
    ) -> list[Value]:
        consts, carry = scan_operands(params)
        body, length = params["jaxpr"].jaxpr, params["length"]
        slices = [_each(v, _slice) for v in operands[consts + carry :]]
        state, results, steps = operands[consts : consts + carry], [], []
        mapped = length == 1 and any(isinstance(v, tuple) for v in slices)
        examples = 1 if mapped else self.examples
        for _ in range(length):
            inputs = [*operands[:consts], *state, *slices]
            results, steps = self._apart(body, inputs, name, examples=examples)
            if _equal(results[:carry], state):
                break
            state = results[:carry]
        for step in steps:
            times = step.multiply_adds and step.multiply_adds * length
            shape = (1,) * mapped + step.output.shape
            output = step.output.update(shape=shape)
            self.steps.append(step._replace(multiply_adds=times, output=output))
        stacks = [_each(v, lambda view: view[None]) for v in results[carry:]]
        return [*state, *(stacks or [CONSTANT] * (len(body.outvars) - carry))]

    def _while(
        self, params: dict[str, Any], operands: list[Value], name: str
    ) -> list[Value]:
        """Return unknown views for all that changes: the number of runs is unknown."""
        tests, consts = params["cond_nconsts"], params["body_nconsts"]
        state = operands[tests + consts :]
        condition, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        while True:
            (ends,), _ = self._apart(condition, [*operands[:tests], *state], name)
            inputs = [*operands[tests : tests + consts], *state]
            results, steps = self._apart(body, inputs, name)
            stays = not isinstance(ends, tuple)  # the image does not decide how often
            new: list[Value] = [
                before if stays and _equal([before], [after]) else (None,) * self.rank
                for before, after in zip(state, results)
            ]
            if _equal(new, state):
                break
            state = new
        for step in steps:
            products = 0 if step.multiply_adds == 0 else None
            self.steps.append(step._replace(multiply_adds=products))
        return state

    def _cond(self, eqn: JaxprEqn, operands: list[Value], name: str) -> list[Value]:
        which, *operands = operands
        branches = [
            self._apart(branch.jaxpr, operands, name)
            for branch in eqn.params["branches"]
        ]
        totals = [total([s.multiply_adds for s in steps]) for _, steps in branches]
        most = max(totals, key=lambda n: inf if n is None else n)
        self.steps += branches[totals.index(most)][1]
        results = []
        for variable, *values in zip(eqn.outvars, *(r for r, _ in branches)):
            seen = [v for v in values if isinstance(v, tuple)]
            if isinstance(which, tuple):
                rank = len(variable.aval.shape)
                seen.append(tuple(to_rank(view, rank) for view in which))
            if seen:
                results.append(tuple(map(union, zip(*seen))))
                self.steps.append(Step("cond", name, variable.aval, results[-1]))
            else:
                results.append(_leaves(values))
        return results


def total(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(counts)  # pyright: ignore


def _leaves(values: Sequence[Value]) -> Leaves:
    return CONSTANT.union(*(v for v in values if isinstance(v, frozenset)))


def _each(value: Value, change: Callable[[np.ndarray], View]) -> Value:
    if isinstance(value, frozenset):
        return value
    return tuple(None if view is None else change(view) for view in value)


def _slice(view: np.ndarray) -> View:
    """Return the view of the slices along the first axis, if they all see the same."""
    return view[0] if len(view) == 1 else None


def _equal(values: Sequence[Value], others: Sequence[Value]) -> bool:
    def keys(value: Value) -> Any:
        if isinstance(value, frozenset):
            return value
        return [None if view is None else view.tolist() for view in value]

    return list(map(keys, values)) == list(map(keys, others))
