"""What a network consists of: its traced program is read, nothing is computed."""

from collections.abc import Callable, Sequence
from enum import Enum
from math import inf, prod
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from ..combine import Part, as_layers
from .fields import View, image_view, num_pixels, propagate, to_rank, union
from .jaxprs import multiply_adds, scope_of, shapes


class Row(NamedTuple):
    """One part of a network, with the sizes and counts of one example.

    None stands for what the program does not determine.
    """

    name: str
    output_shape: tuple[int, ...] | None
    params: int
    multiply_adds: int | None
    receptive_field: tuple[int | None, ...]  # pixels that one value depends on, at most


def summarize(layer: Part, x: Any) -> list[Row]:
    """Return the parts that have parameters, sum products or change the shape.

    Multiply-adds are those of convolutions and matrix products, in loops as often as
    they run, of the branches of a condition those of the most expensive one. What the
    program does not determine is None: the products of a while loop, or the receptive
    field behind a gather.

    Args:
        layer: A layer or a function of one array. Its parts have the names that
            `serial` and `parallel` gave them.
        x: Input [N, *spatial, C], an array or `jax.ShapeDtypeStruct`; N does not
            matter.

    Returns:
        Rows in the order of computation. Receptive fields are those of the forward pass
        (Araujo, Norris and Sim, "Computing Receptive Fields", 2019), at most the image;
        pixels that padding modes add do not count.

    Raises:
        TypeError: If layer is neither a layer nor a function of one array.

    >>> import jax.numpy as jnp
    >>> from jcnn.models import lenet5
    >>> for row in summarize(lenet5(), jnp.zeros((1, 28, 28, 1)))[:3]:
    ...     print(row.name, row.output_shape, row.params, row.multiply_adds)
    conv1 (28, 28, 6) 156 117600
    pool1 (14, 14, 6) 0 0
    conv2 (10, 10, 16) 2416 240000
    """
    params, parts = _read(layer, x)
    counts = _parameter_counts(params, {part.name for part in parts})
    rows: list[Row] = []
    shape = x.shape[1:]
    for part in parts:
        count = counts.pop(part.name, 0)
        if count or part.multiply_adds != 0 or part.shape[1:] != shape:
            field = tuple(map(num_pixels, part.views))
            shape = part.shape[1:]
            first = part.shape[:1] == (1,)  # else the examples are along another axis
            output = shape if first else None
            rows.append(Row(part.name, output, count, part.multiply_adds, field))
    unknown = (None,) * (len(x.shape) - 2)
    rows += [Row(name, None, count, 0, unknown) for name, count in counts.items()]
    return rows


def receptive_field(
    layer: Part, x: Any, part: str, position: Sequence[int]
) -> tuple[slice, ...]:
    """Return the pixels that one position of a part's output depends on.

    Args:
        layer, x: As for `summarize`.
        part: Path of the part, such as "stage2/conv1".
        position: Of its output, an index for each spatial dimension; none if the output
            has no such dimensions.

    Returns:
        A slice for each spatial dimension of x, from the first to the last of them.

    Raises:
        TypeError: As `summarize`.
        ValueError: If there is no such part or position, or what it depends on is not
            known.

    >>> import jax.numpy as jnp
    >>> from jcnn.models import lenet5
    >>> receptive_field(lenet5(), jnp.zeros((1, 28, 28, 1)), "conv2", (0, 9))
    (slice(0, 12, None), slice(16, 28, None))
    """
    _, parts = _read(layer, x)
    found = {p.name: p for p in parts}
    if part not in found:
        raise ValueError(f"part must be one of {', '.join(found)}, got {part!r}")
    _, shape, _, views = found[part]
    size, position = shape[1 : 1 + len(position)], tuple(position)
    inside = all(0 <= i < n for i, n in zip(position, size))
    if len(position) not in (0, len(shape) - 2) or not inside:
        raise ValueError(
            f"position must be within {shape[1:-1]}, the positions of {part}, "
            f"got {position}"
        )
    slices = []
    for view in views:
        if view is None:
            raise ValueError(f"part must see pixels that are known, {part} does not")
        at = [0 if n == 1 else i for i, n in zip(position, view.shape[1:])]
        bounds = view[(slice(None), *at)].reshape(-1, 2).min(0)
        slices.append(slice(int(bounds[0]), int(1 - bounds[1])))
    return tuple(slices)


def _read(layer: Part, x: Any) -> tuple[Any, "list[_Part]"]:
    """Return the shapes of the parameters, and the parts."""
    layer = as_layers({"layer": layer})["layer"]
    if not getattr(x, "shape", ()):
        raise TypeError(f"x must be an array or ShapeDtypeStruct [N, …], got {x!r}")
    x = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    program = jax.make_jaxpr(lambda p, s, x: layer.apply(p, s, x)[0])(params, state, x)
    views = tuple(image_view(x.shape, axis) for axis in range(1, len(x.shape) - 1))
    parameters = [_Source.PARAMETERS] * (len(program.jaxpr.invars) - 1)
    reader = _Reader(len(views))
    reader.read(program.jaxpr, [*parameters, views], "")
    return params, reader.parts


class _Source(Enum):
    """The origin of a value that does not depend on the image."""

    CONSTANT = "neither image nor parameters"
    PARAMETERS = "parameters"


_Views = tuple[View, ...]  # of one value, for each spatial dimension
_Value = _Views | _Source


class _Part(NamedTuple):
    name: str
    shape: tuple[int, ...]
    multiply_adds: int | None
    views: _Views


class _Reader:
    """Follows an image through a program and records what each named part does."""

    def __init__(self, rank: int):
        self.rank = rank  # spatial dimensions of the image
        self.parts: list[_Part] = []

    def read(
        self, jaxpr: Jaxpr, inputs: Sequence[_Value], scope: str, border: bool = False
    ) -> list[_Value]:
        """Return the values of the results; `border` as for `propagate`."""
        known: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs))

        def value(variable: Any) -> _Value:
            constant = isinstance(variable, Literal)
            return _CONSTANT if constant else known.get(variable, _CONSTANT)

        for eqn in jaxpr.eqns:
            operands = [value(v) for v in eqn.invars]
            name = scope_of(eqn, scope)
            if any(isinstance(operand, tuple) for operand in operands):
                known |= zip(eqn.outvars, self._results(eqn, operands, name, border))
            elif _Source.PARAMETERS in operands:
                known |= dict.fromkeys(eqn.outvars, _Source.PARAMETERS)
        return [value(v) for v in jaxpr.outvars]

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
        if len(inner) == 1 and shapes(inner[0].invars) == shapes(eqn.invars):
            # `jnp.pad` extends the image by its padding modes.
            pads = params.get("name") == "_pad" and shapes(eqn.invars)[1:] == [()]
            return self.read(inner[0], operands, name, border or pads)
        if not eqn.outvars:
            return []
        constants = frozenset(i for i, v in enumerate(operands) if v is _CONSTANT)
        images = {i: v for i, v in enumerate(operands) if isinstance(v, tuple)}
        by_dimension = [
            propagate(eqn, {i: v[d] for i, v in images.items()}, constants, border)
            for d in range(self.rank)
        ]
        values: list[_Views] = [*zip(*by_dimension)] or [()] * len(eqn.outvars)
        shape = shapes(eqn.outvars)[0]
        self._record(_Part(name, shape, multiply_adds(eqn), values[0]))
        return [*values]

    def _record(self, part: _Part) -> None:
        if self.parts and self.parts[-1].name == part.name:
            before = self.parts.pop().multiply_adds
            part = part._replace(multiply_adds=_sum([before, part.multiply_adds]))
        self.parts.append(part)

    def _apart(self, *args: Any) -> tuple[list[_Value], list[_Part]]:
        """Return the results of `read` and the parts that it would record."""
        reader = _Reader(self.rank)
        return reader.read(*args), reader.parts

    def _scan(
        self, params: dict[str, Any], operands: list[_Value], name: str
    ) -> list[_Value]:
        consts, carry = params["num_consts"], params["num_carry"]
        body, length = params["jaxpr"].jaxpr, params["length"]
        slices = [_each(v, _slice) for v in operands[consts + carry :]]
        state, results, parts = operands[consts : consts + carry], [], []
        for _ in range(length):
            inputs = [*operands[:consts], *state, *slices]
            results, parts = self._apart(body, inputs, name)
            if _equal(results[:carry], state):
                break
            state = results[:carry]
        examples = length == 1 and any(isinstance(v, tuple) for v in slices)
        for part in parts:
            times = part.multiply_adds and part.multiply_adds * length
            shape = (1, *part.shape) if examples else part.shape
            self._record(part._replace(multiply_adds=times, shape=shape))
        stacks = [_each(v, lambda view: view[None]) for v in results[carry:]]
        return [*state, *(stacks or [_CONSTANT] * (len(body.outvars) - carry))]

    def _while(
        self, params: dict[str, Any], operands: list[_Value], name: str
    ) -> list[_Value]:
        """Return unknown views for all that changes: the number of runs is unknown."""
        tests, consts = params["cond_nconsts"], params["body_nconsts"]
        state = operands[tests + consts :]
        condition, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        while True:
            (ends,), _ = self._apart(condition, [*operands[:tests], *state], name)
            inputs = [*operands[tests : tests + consts], *state]
            results, parts = self._apart(body, inputs, name)
            stays = not isinstance(ends, tuple)  # the image does not decide how often
            new: list[_Value] = [
                before if stays and _equal([before], [after]) else (None,) * self.rank
                for before, after in zip(state, results)
            ]
            if _equal(new, state):
                break
            state = new
        for part in parts:
            products = 0 if part.multiply_adds == 0 else None
            self._record(part._replace(multiply_adds=products))
        return state

    def _cond(self, eqn: JaxprEqn, operands: list[_Value], name: str) -> list[_Value]:
        which, *operands = operands
        branches = [
            self._apart(branch.jaxpr, operands, name)
            for branch in eqn.params["branches"]
        ]
        totals = [_sum([p.multiply_adds for p in parts]) for _, parts in branches]
        most = max(totals, key=lambda total: inf if total is None else total)
        for part in branches[totals.index(most)][1]:
            self._record(part)
        results = []
        for shape, *values in zip(shapes(eqn.outvars), *(r for r, _ in branches)):
            seen = [v for v in values if isinstance(v, tuple)]
            if isinstance(which, tuple):
                seen.append(tuple(to_rank(view, len(shape)) for view in which))
            if seen:
                results.append(tuple(map(union, zip(*seen))))
                self._record(_Part(name, shape, 0, results[-1]))
            else:
                results.append(max(values, key=_Source.PARAMETERS.__eq__))
        return results


_CONSTANT = _Source.CONSTANT


def _each(value: _Value, change: Callable[[np.ndarray], View]) -> _Value:
    if isinstance(value, _Source):
        return value
    return tuple(None if view is None else change(view) for view in value)


def _slice(view: np.ndarray) -> View:
    """Return the view of the slices along the first axis, if they all see the same."""
    return view[0] if len(view) == 1 else None


def _equal(values: Sequence[_Value], others: Sequence[_Value]) -> bool:
    def keys(value: _Value) -> Any:
        if isinstance(value, _Source):
            return value
        return [None if view is None else view.tolist() for view in value]

    return list(map(keys, values)) == list(map(keys, others))


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(counts)  # pyright: ignore


def _parameter_counts(params: Any, parts: set[str]) -> dict[str, int]:
    """Return the parameters of each part: that of their path, or the one around it."""
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [str(getattr(entry, "key", entry)) for entry in path[:-1]]
        while names and "/".join(names) not in parts:
            names.pop()
        name = "/".join(names)
        counts[name] = counts.get(name, 0) + prod(leaf.shape)
    return counts
