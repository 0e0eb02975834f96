"""What the results of JAX's operations see: a rule for each that can be followed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from .._shapes import dilated
from .fields import (
    Field,
    View,
    accumulated,
    chained,
    each,
    over,
    padded,
    pixels,
    placed,
    reshaped,
    reversed_axis,
    shuffled,
    sliced,
    union,
    windowed,
    without,
)

Shape = tuple[int, ...]
Rule = Callable[[Field], Field | None]


def propagate(
    eqn: JaxprEqn, seen: Mapping[int, View], constants: frozenset[int], border: bool
) -> list[View]:
    """What the results of an operation see.

    Args:
      eqn: the operation.
      seen: what the operands see that depend on the image, by their numbers.
      constants: the numbers of operands that depend on no parameter either.
      border: whether it puts something round an image, which does not count.
    """
    name, params, outputs = eqn.primitive.name, eqn.params, len(eqn.outvars)
    shapes = [v.aval.shape for v in eqn.invars]  # pyright: ignore
    if not outputs:
        return []
    if name == "concatenate":
        return [_concatenated(params["dimension"], shapes, seen, border)]
    if name == "split":
        axis, sizes = params["axis"], list(map(int, params["sizes"]))
        starts = [int(n) for n in np.cumsum([0, *sizes])]
        return [each(seen[0], sliced, axis, s, 1, n) for s, n in zip(starts, sizes)]
    out = eqn.outvars[0].aval.shape  # pyright: ignore
    views = []
    for number, view in seen.items():
        rule = _rule(name, params, number, shapes, out, constants)
        views.append(None if rule is None else each(view, rule))
    return [union(views)] * outputs


def _rule(
    name: str,
    params: Mapping[str, Any],
    number: int,
    shapes: list[Shape],
    out: Shape,
    constants: frozenset[int],
) -> Rule | None:
    """How a field of one operand becomes one of the result; None if that is unknown."""
    axes = range(len(shapes[number]))
    if name in ELEMENTWISE:
        return lambda f: placed(f, axes, out)
    if name == "broadcast_in_dim":
        return lambda f: placed(f, params["broadcast_dimensions"], out)
    if name == "transpose":
        order = params["permutation"]
        return lambda f: f._replace(steps=tuple(f.steps[i] for i in order))
    if name == "squeeze":
        return lambda f: without(f, params["dimensions"])
    if name == "reshape":
        return lambda f: reshaped(f, out)
    if name == "rev":
        return lambda f: chained(f, reversed_axis, [(i,) for i in params["dimensions"]])
    if name == "slice":
        strides = params["strides"] or (1,) * len(axes)
        slices = list(zip(axes, params["start_indices"], strides, out))
        return lambda f: chained(f, sliced, slices)
    if name == "pad" and number == 0:
        pads = [
            (i, *config, out[i]) for i, config in enumerate(params["padding_config"])
        ]
        return lambda f: chained(f, padded, pads)
    if name in REDUCTIONS and "axes" in params:
        return lambda f: without(over(f, params["axes"]), params["axes"])
    if name == "jcnn_sum":  # as one that drops its axes, which then come back
        kept = [axis for axis in axes if axis not in params["axes"]]
        return lambda f: placed(
            without(over(f, params["axes"]), params["axes"]), kept, out
        )
    if name == "jcnn_broadcast":
        return lambda f: placed(f, axes, out)
    if name in SCANS:
        return lambda f: accumulated(f, params["axis"], params["reverse"])
    if name == "sort":
        return lambda f: shuffled(f, params["dimension"])
    if name == "dot_general":
        return _dot_rule(params["dimension_numbers"], number, shapes, constants)
    if name == "conv_general_dilated" and number == 0:
        return _lax_rule(params, shapes, out)
    if name == "jcnn_convolution":
        return _jcnn_rule(params["problem"], number, shapes, out)
    if name.startswith(("reduce_window_", "jcnn_window_")):
        return _pool_rule(params, out)
    return None


def _concatenated(
    axis: int, shapes: list[Shape], seen: Mapping[int, View], border: bool
) -> View:
    sizes = [shape[axis] for shape in shapes]
    parts = {i: view for i, view in seen.items() if sizes[i]}
    if border and parts:
        longest = max(parts, key=sizes.__getitem__)
        parts = {longest: parts[longest]}
    views = [
        each(view, padded, axis, sum(sizes[:i]), 0, 0, sum(sizes))
        for i, view in parts.items()
    ]
    fields = [field for view in views for field in view or ()]
    if None in views:
        return None
    if not any(field.is_moved(axis) for field in fields):
        # Each value is of one piece, but the next operation may mix them.
        view, most = union(views), max(map(pixels, views))  # pyright: ignore
        return view if pixels(view) == most else None
    # Pieces of one axis must come together again, each where it was.
    least, most = min(f.least for f in fields), max(f.most for f in fields)
    whole = {field._replace(least=least, most=most) for field in fields}
    return tuple(whole) if len(whole) == 1 else None


def _pool_rule(params: Mapping[str, Any], out: Shape) -> Rule:
    if "windows" in params:
        _, shape, strides, padding = params["windows"]
        spread = (1,) * len(out)
    else:
        shape = dilated(params["window_dimensions"], params["window_dilation"])
        strides, spread = params["window_strides"], params["base_dilation"]
        padding = params["padding"]
    lows = [low for low, _ in padding]
    windows = list(zip(range(len(out)), shape, strides, spread, lows, out))
    return lambda f: chained(f, windowed, windows)


def _dot_rule(
    numbers: Any, number: int, shapes: list[Shape], constants: frozenset[int]
) -> Rule:
    contracted, batch = numbers
    free = [
        [i for i in range(len(shape)) if i not in (*contracted[side], *batch[side])]
        for side, shape in enumerate(shapes)
    ]
    sizes = [shapes[number][i] for i in batch[number]]
    sizes += [shapes[side][i] for side in (0, 1) for i in free[side]]
    first = len(batch[0]) + (len(free[0]) if number else 0)

    def follow(field: Field) -> Field | None:
        mixed = any(map(field.is_moved, contracted[number]))
        if mixed and 1 - number in constants:
            return None  # constant matrices may be mostly zero, as those of resizing
        field = over(field, contracted[number])
        own = [*batch[number], *free[number]]
        kept = field._replace(steps=tuple(field.steps[i] for i in own))
        axes = [*range(len(batch[0])), *range(first, first + len(free[number]))]
        return placed(kept, axes, sizes)

    return follow


def _lax_rule(
    params: Mapping[str, Any], shapes: list[Shape], out: Shape
) -> Rule | None:
    if params["batch_group_count"] > 1:
        return None
    lhs, rhs, result = params["dimension_numbers"]
    taps = dilated([shapes[1][i] for i in rhs[2:]], params["rhs_dilation"])
    lows = [low for low, _ in params["padding"]]
    windows = list(zip(taps, params["window_strides"], params["lhs_dilation"], lows))
    axes = [(a, b) for i, (a, b) in enumerate(zip(lhs, result)) if i != 1]
    return _convolution_rule(axes, windows, lhs[1], params["feature_group_count"], out)


def _jcnn_rule(
    problem: Any, number: int, shapes: list[Shape], out: Shape
) -> Rule | None:
    if "kernel" in (problem.result, problem.operands[number]):
        return None
    windows = []
    for k, s, (low, _) in zip(problem.window, problem.strides, problem.padding):
        transposed = problem.op == "input_gradient"  # its input has holes
        windows.append((k, 1, s, k - 1 - low) if transposed else (k, s, 1, low))
    channels = len(shapes[number]) - 1
    batch = channels - 1 - problem.rank
    models = len(out) - 2 - problem.rank  # 1 where there is an axis of them
    axes = [(0, 0)] * (models and batch)
    axes += [(batch + i, models + i) for i in range(problem.rank + 1)]
    return _convolution_rule(axes, windows, channels, problem.groups, out)


def _convolution_rule(
    axes: Sequence[tuple[int, int]],
    windows: Sequence[tuple[int, int, int, int]],
    channels: int,
    groups: int,
    out: Shape,
) -> Rule:
    """`axes`: those that stay, in operand and result, the spatial ones last."""
    steps = [(a, *w, out[b]) for (a, b), w in zip(axes[-len(windows) :], windows)]

    def follow(field: Field) -> Field | None:
        if groups > 1 and field.is_moved(channels):
            return None
        followed = chained(over(field, [channels]), windowed, steps)
        if followed is None:
            return None
        kept = followed._replace(steps=tuple(followed.steps[a] for a, _ in axes))
        return placed(kept, [b for _, b in axes], out)

    return follow


ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
    device_put digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
    igammac imag integer_pow is_finite le lgamma log log1p logistic lt max min mul name
    ne neg nextafter not optimization_barrier or pcast polygamma population_count pow
    pvary real reduce_precision rem round rsqrt select_n sharding_constraint shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient
    sub tan tanh xor zeta""".split()
)
REDUCTIONS = frozenset(
    """argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
    reduce_xor""".split()
)
SCANS = frozenset("cumlogsumexp cummax cummin cumprod cumsum".split())
