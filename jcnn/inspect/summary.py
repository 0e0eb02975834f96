"""What a network is made of, from shapes alone: the traced program is read, not run."""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from math import inf, prod
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from ..combine import Part, as_layers
from .field_rules import ELEMENTWISE, REDUCTIONS, SCANS, propagate
from .fields import (
    Field,
    View,
    each,
    of_pixels,
    pixels,
    placed,
    settled,
    union,
    without,
)


class Row(NamedTuple):
    """One part of a network; sizes and counts are those of one example.

    None stands for what cannot be told from the program.
    """

    name: str
    output_shape: tuple[int, ...] | None
    params: int
    multiply_adds: int | None
    receptive_field: tuple[int | None, ...]  # pixels that one value depends on, at most


def summarize(layer: Part, x: Any) -> list[Row]:
    """The parts that have parameters, do products or change the shape, in order.

    Multiply-adds are those of convolutions and matrix products. Loops count as often as
    they run, of the branches of a condition the one with most. What a program does not
    tell is None: the products of a loop that ends by its values, say, or the receptive
    field behind a gather.

    Args:
      layer: a layer or a function of one array; parts are known by the names that
        `serial` and its kin gave.
      x: [N, *spatial, C], an array or `jax.ShapeDtypeStruct`; N does not matter.

    Returns:
      Rows in the order of computation. Receptive fields are those of the forward pass
      (Araujo, Norris and Sim, "Computing Receptive Fields", 2019), at most the image;
      what padding modes put outside does not count.

    Raises:
      TypeError: if layer is neither a layer nor a function of one array.

    >>> import jax.numpy as jnp
    >>> from jcnn.models import lenet5
    >>> for row in summarize(lenet5(), jnp.zeros((1, 28, 28, 1)))[:3]:
    ...     print(row.name, row.output_shape, row.params, row.multiply_adds)
    conv1 (28, 28, 6) 156 117600
    pool1 (14, 14, 6) 0 0
    conv2 (10, 10, 16) 2416 240000
    """
    layer = as_layers({"layer": layer})["layer"]
    if not getattr(x, "shape", ()):
        raise TypeError(f"x must be an array or ShapeDtypeStruct [N, …], got {x!r}")
    x = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    program = jax.make_jaxpr(lambda p, s, x: layer.apply(p, s, x)[0])(params, state, x)
    views = tuple(of_pixels(x.shape, axis) for axis in range(1, len(x.shape) - 1))
    parameters = [_Source.PARAMETERS] * (len(program.jaxpr.invars) - 1)
    reader = _Reader(len(views))
    reader.read(program.jaxpr, [*parameters, views], "")

    counts = _parameter_counts(params, {part.name for part in reader.parts})
    rows: list[Row] = []
    shape = x.shape[1:]
    for part in reader.parts:
        count = counts.pop(part.name, 0)
        if count or part.multiply_adds != 0 or part.shape[1:] != shape:
            field = tuple(map(pixels, part.views))
            shape = part.shape[1:]
            first = part.shape[:1] == (1,)  # else the examples are along another axis
            output = shape if first else None
            rows.append(Row(part.name, output, count, part.multiply_adds, field))
    unknown = (None,) * len(views)
    rows += [Row(name, None, count, 0, unknown) for name, count in counts.items()]
    return rows


class _Source(Enum):
    """Where a value comes from that does not depend on the image."""

    CONSTANT = "neither image nor parameters"
    PARAMETERS = "parameters"


_Views = tuple[View, ...]  # what a value sees, for each spatial dimension
_Value = _Views | _Source


class _Part(NamedTuple):
    name: str
    shape: tuple[int, ...]
    multiply_adds: int | None
    views: _Views


class _Reader:
    """Follows an image through a program and notes what each named part does to it."""

    def __init__(self, rank: int):
        self.rank = rank  # how many spatial dimensions the image has
        self.parts: list[_Part] = []

    def read(
        self, jaxpr: Jaxpr, inputs: Sequence[_Value], scope: str, border: bool = False
    ) -> list[_Value]:
        """The values of the results, `border` if they put something round an image."""
        known: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs))
        for eqn in jaxpr.eqns:
            operands = [_value(known, v) for v in eqn.invars]
            name = _joined(scope, eqn.source_info.name_stack.stack)
            if any(isinstance(value, tuple) for value in operands):
                known |= zip(eqn.outvars, self._results(eqn, operands, name, border))
            elif _Source.PARAMETERS in operands:
                known |= dict.fromkeys(eqn.outvars, _Source.PARAMETERS)
        return [_value(known, v) for v in jaxpr.outvars]

    def _results(
        self, eqn: JaxprEqn, operands: list[_Value], name: str, border: bool
    ) -> list[_Value]:
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
        if len(inner) == 1 and _shapes(inner[0].invars) == _shapes(eqn.invars):
            # What `jnp.pad` puts round an image by its modes is the image's border.
            pads = params.get("name") == "_pad" and _shapes(eqn.invars)[1:] == [()]
            return self.read(inner[0], operands, name, border or pads)
        constants = [i for i, v in enumerate(operands) if v is _Source.CONSTANT]
        results, outputs = [], len(eqn.outvars)
        for dimension in range(self.rank):
            seen = {
                i: v[dimension] for i, v in enumerate(operands) if isinstance(v, tuple)
            }
            views = propagate(eqn, seen, frozenset(constants), border)
            results.append(list(map(settled, views)))
        values: list[_Value] = [*zip(*results)] if self.rank else [()] * outputs
        if values:
            shape = _shapes(eqn.outvars)[0]
            self._note(_Part(name, shape, _multiply_adds(eqn), values[0]))  # pyright: ignore
        return values

    def _note(self, part: _Part) -> None:
        if self.parts and self.parts[-1].name == part.name:
            before = self.parts.pop().multiply_adds
            part = part._replace(multiply_adds=_sum([before, part.multiply_adds]))
        self.parts.append(part)

    def _apart(self, *args: Any) -> tuple[list[_Value], list[_Part]]:
        """What `read` returns, and the parts that it would have noted."""
        reader = _Reader(self.rank)
        return reader.read(*args), reader.parts

    def _scan(self, params, operands, name) -> list[_Value]:
        consts, carry = params["num_consts"], params["num_carry"]
        body, length = params["jaxpr"].jaxpr, params["length"]
        slices = [_each(v, _unstacked) for v in operands[consts + carry :]]
        state, results, parts = operands[consts : consts + carry], [], []
        for _ in range(length):
            inputs = [*operands[:consts], *state, *slices]
            results, parts = self._apart(body, inputs, name)
            if results[:carry] == state:
                break
            state = results[:carry]
        examples = length == 1 and any(isinstance(v, tuple) for v in slices)
        for part in parts:
            times = part.multiply_adds and part.multiply_adds * length
            shape = (1, *part.shape) if examples else part.shape
            self._note(part._replace(multiply_adds=times, shape=shape))
        stacks = [_each(v, _stacked, length) for v in results[carry:]]
        return [*state, *(stacks or [_Source.CONSTANT] * (len(body.outvars) - carry))]

    def _while(self, params, operands: list[_Value], name) -> list[_Value]:
        """Nobody knows how often: what changes from time to time is unknown."""
        tests, consts = params["cond_nconsts"], params["body_nconsts"]
        state = operands[tests + consts :]
        condition, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        while True:
            (ends,), _ = self._apart(condition, [*operands[:tests], *state], name)
            inputs = [*operands[tests : tests + consts], *state]
            results, parts = self._apart(body, inputs, name)
            stays = not isinstance(ends, tuple)  # the image does not decide how often
            new: list[_Value] = [
                before if stays and before == after else (None,) * self.rank
                for before, after in zip(state, results)
            ]
            if new == state:
                break
            state = new
        for part in parts:
            products = 0 if part.multiply_adds == 0 else None
            self._note(part._replace(multiply_adds=products))
        return state

    def _cond(self, eqn, operands, name) -> list[_Value]:
        which, *operands = operands
        branches = [
            self._apart(branch.jaxpr, operands, name)
            for branch in eqn.params["branches"]
        ]
        totals = [_sum([p.multiply_adds for p in parts]) for _, parts in branches]
        most = max(totals, key=lambda total: inf if total is None else total)
        for part in branches[totals.index(most)][1]:
            self._note(part)
        results = []
        for shape, *values in zip(_shapes(eqn.outvars), *(r for r, _ in branches)):
            seen = [v for v in values if isinstance(v, tuple)]
            seen += [_each(which, placed, (), shape)] * isinstance(which, tuple)
            if seen:
                results.append(tuple(map(union, zip(*seen))))
                self._note(_Part(name, shape, 0, results[-1]))
            else:
                results.append(max(values, key=_Source.PARAMETERS.__eq__))
        return results


def _each(value: _Value, change: Callable[..., Field | None], *args: Any) -> _Value:
    if isinstance(value, _Source):
        return value
    return tuple(each(view, change, *args) for view in value)


def _unstacked(field: Field) -> Field | None:
    """Of the slices along the first axis, if they all see the same."""
    return None if field.is_moved(0) else without(field, [0])


def _stacked(field: Field, length: int) -> Field:
    """Of slices that see the same, along a new first axis."""
    first = ((length, 0.0),) if length != 1 else ()
    return field._replace(steps=(first, *field.steps))


def _value(known: dict[Any, _Value], variable: Any) -> _Value:
    if isinstance(variable, Literal):
        return _Source.CONSTANT
    return known.get(variable, _Source.CONSTANT)


def _joined(scope: str, stack: Sequence[Any]) -> str:
    """The path of a part, without the transformations that it stands under."""
    names = [entry.name for entry in stack if type(entry).__name__ == "Scope"]
    # An einsum names its operations by its formula.
    return "/".join(n for n in [scope, *names] if n and "->" not in n)


def _shapes(variables: Iterable[Any]) -> list[tuple[int, ...]]:
    return [v.aval.shape for v in variables]


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(counts)  # pyright: ignore


def _multiply_adds(eqn: JaxprEqn) -> int | None:
    """None of what is not known to do no products."""
    name, output = eqn.primitive.name, prod(_shapes(eqn.outvars)[0])
    operands = _shapes(eqn.invars)
    if name == "conv_general_dilated":
        features = operands[1][eqn.params["dimension_numbers"][1][0]]
        holes = prod(eqn.params["lhs_dilation"])
        return output * prod(operands[1]) // (features * holes) if features else 0
    if name == "jcnn_convolution":
        return eqn.params["problem"].multiply_adds
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return output * prod(operands[0][i] for i in contracted)
    free = name in ELEMENTWISE | REDUCTIONS | SCANS | _WITHOUT_PRODUCTS
    return 0 if free or name.startswith(("reduce_window", "scatter")) else None


_WITHOUT_PRODUCTS = frozenset(
    """bitcast_convert_type broadcast_in_dim concatenate dynamic_slice
    dynamic_update_slice gather jcnn_window_maxima jcnn_window_sums pad reshape rev
    slice sort split squeeze stack tile top_k transpose unstack""".split()
)


def _parameter_counts(params: Any, parts: set[str]) -> dict[str, int]:
    """Sizes by the part that uses them: that of their path, or what it is within."""
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [str(getattr(entry, "key", entry)) for entry in path[:-1]]
        while names and "/".join(names) not in parts:
            names.pop()
        name = "/".join(names)
        counts[name] = counts.get(name, 0) + prod(leaf.shape)
    return counts
