"""What a network is made of, from shapes alone: the traced program is read, not run."""

from collections.abc import Iterator
from math import ceil, prod
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from ._shapes import dilated
from .layers import Layer


class Row(NamedTuple):
    """One part of a network; sizes and counts are those of one example."""

    name: str
    output_shape: tuple[int, ...]
    params: int
    multiply_adds: int
    receptive_field: tuple[int, ...]  # pixels of the input that one value depends on


def summarize(layer: Layer, x: Any) -> list[Row]:
    """The parts that have parameters, do products or change the shape, in order.

    Args:
      layer: a layer; parts are known by the names that `serial` and its kin gave.
      x: [N, *spatial, C], an array or `jax.ShapeDtypeStruct`; N does not matter.

    Returns:
      Rows in the order of computation. Receptive fields are those of the forward pass
      (Araujo, Norris and Sim, "Computing Receptive Fields", 2019), at most the image.

    >>> import jax.numpy as jnp
    >>> from jcnn.models import lenet5
    >>> for row in summarize(lenet5(), jnp.zeros((1, 28, 28, 1)))[:3]:
    ...     print(row.name, row.output_shape, row.params, row.multiply_adds)
    conv1 (28, 28, 6) 156 117600
    pool1 (14, 14, 6) 0 0
    conv2 (10, 10, 16) 2416 240000
    """
    x = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    program = jax.make_jaxpr(lambda p, s, x: layer.apply(p, s, x)[0])(params, state, x)
    counts = _parameter_counts(params)
    sight = _Sight(x.shape)
    before = [None] * (len(program.jaxpr.invars) - 1)
    sight.follow(program.jaxpr, [*before, _Field.of_pixel(x.shape)])

    rows: list[Row] = []
    shape = x.shape[1:]
    for part in sight.parts:
        count = counts.pop(part.name, 0)
        if count or part.multiply_adds or part.shape[1:] != shape:
            field = tuple(min(ceil(f), n) for f, n in zip(part.field, x.shape[1:-1]))
            shape = part.shape[1:]
            rows.append(Row(part.name, shape, count, part.multiply_adds, field))
    return rows


class _Field(NamedTuple):
    """What one value sees of the input, and how far its neighbour's view is moved."""

    size: tuple[float, ...]
    jump: tuple[float, ...]

    @staticmethod
    def of_pixel(shape: tuple[int, ...]) -> "_Field":
        ones = (1.0,) * (len(shape) - 2)
        return _Field(ones, ones)

    def through(self, window, strides, spread) -> "_Field":
        """The field of a window's result; `spread` is the dilation of its input."""
        # Of an input with holes, a window meets so many pixels besides the first.
        seen = [(k - 1) // d for k, d in zip(window, spread)]
        size = [f + k * j for f, k, j in zip(self.size, seen, self.jump)]
        jump = [j * s / d for j, s, d in zip(self.jump, strides, spread)]
        return _Field(tuple(size), tuple(jump))

    def union(self, other: "_Field") -> "_Field":
        return _Field(*(tuple(map(max, a, b)) for a, b in zip(self, other)))


class _Part(NamedTuple):
    name: str
    shape: tuple[int, ...]
    multiply_adds: int
    field: tuple[float, ...]


class _Sight:
    """Follows the input through a program and notes what each named part does to it."""

    def __init__(self, shape: tuple[int, ...]):
        self.image = tuple(float(n) for n in shape[1:-1])
        self.parts: list[_Part] = []

    def follow(self, jaxpr: Jaxpr, fields: list, scope: str = "") -> list:
        known = dict(zip(jaxpr.invars, fields))
        for eqn in jaxpr.eqns:
            inputs = [
                None if isinstance(v, Literal) else known.get(v) for v in eqn.invars
            ]
            name = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
            inner = next(_inner_jaxprs(eqn), None)
            if inner is not None and len(inner.invars) == len(inputs):
                outputs = self.follow(inner, inputs, name)
            else:
                field = self._field(eqn, inputs)
                outputs = [field] * len(eqn.outvars)
                if field is not None:
                    self._note(name, eqn, field)
            known.update(zip(eqn.outvars, outputs))
        return [None if isinstance(v, Literal) else known.get(v) for v in jaxpr.outvars]

    def _note(self, name: str, eqn: JaxprEqn, field: _Field) -> None:
        products = _multiply_adds(eqn)
        if self.parts and self.parts[-1].name == name:
            products += self.parts.pop().multiply_adds
        self.parts.append(_Part(name, _shape(eqn.outvars[0]), products, field.size))

    def _field(self, eqn: JaxprEqn, inputs: list) -> _Field | None:
        fields = [f for f in inputs if f is not None]
        if not fields:
            return None
        field = fields[0]
        for other in fields[1:]:
            field = field.union(other)
        window = _window(eqn)
        if window is not None:
            return field.through(*window)
        if eqn.primitive.name in ("pad", "slice", "concatenate", "rev"):
            return field
        # What keeps the spatial axes where they are works on each position alone.
        seen = next(_shape(v) for v, f in zip(eqn.invars, inputs) if f is not None)
        spatial = slice(0, len(self.image) + 1)
        if _shape(eqn.outvars[0])[spatial] == seen[spatial]:
            return field
        return _Field(self.image, field.jump)


def _inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for value in eqn.params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _window(eqn: JaxprEqn) -> tuple | None:
    """Window, strides and input dilation of what looks through a window."""
    params = eqn.params
    if eqn.primitive.name == "conv_general_dilated":
        taps = [_shape(eqn.invars[1])[i] for i in params["dimension_numbers"][1][2:]]
        window = dilated(taps, params["rhs_dilation"])
        return window, params["window_strides"], params["lhs_dilation"]
    if eqn.primitive.name == "jcnn_convolution" and params["problem"].face != "w":
        problem = params["problem"]
        ones = (1,) * problem.rank
        if problem.face == "x":  # a transposed convolution: its input is spread
            return problem.window, ones, problem.strides
        return problem.window, problem.strides, ones
    if eqn.primitive.name == "jcnn_window_sums":
        windows, inner = params["windows"], slice(1, -1)
        ones = (1,) * (len(windows.shape) - 2)
        return windows.shape[inner], windows.strides[inner], ones
    if eqn.primitive.name.startswith("reduce_window"):
        inner = slice(1, -1)
        window = dilated(params["window_dimensions"], params["window_dilation"])
        strides, spread = params["window_strides"], params["base_dilation"]
        return window[inner], strides[inner], spread[inner]
    return None


def _multiply_adds(eqn: JaxprEqn) -> int:
    output = prod(_shape(eqn.outvars[0]))
    if eqn.primitive.name == "conv_general_dilated":
        kernel = _shape(eqn.invars[1])
        features = kernel[eqn.params["dimension_numbers"][1][0]]
        holes = prod(eqn.params["lhs_dilation"])
        return output * prod(kernel) // (features * holes) if features else 0
    if eqn.primitive.name == "jcnn_convolution":
        return eqn.params["problem"].multiply_adds
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return output * prod(_shape(eqn.invars[0])[i] for i in contracted)
    return 0


def _parameter_counts(params: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = "/".join(str(entry.key) for entry in path[:-1])
        counts[name] = counts.get(name, 0) + prod(leaf.shape)
    return counts
