"""Receptive fields: which pixels each value of an array depends on.

A view of an array [*shape], along one spatial dimension of the image, is an integer
array [*shape, 2]: the first pixel that a value depends on and minus the last one, so
the union of two views is their minimum. Its size is 1 along axes where all values see
the same. A view is None where it is unknown. For chains of windows Araujo, Norris and
Sim, "Computing Receptive Fields of Convolutional Neural Networks" (2019), derive closed
forms.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from .jaxprs import ELEMENTWISE, REDUCTIONS, SCANS, shapes

View = np.ndarray | None
_NOTHING = 1 << 29  # in place of both bounds of a value that sees no pixel
_MOST = 1 << 24  # values of a view


def image_view(shape: Sequence[int], axis: int) -> View:
    """Return the view of an image along one of its axes: each pixel sees itself."""
    pixels = np.arange(shape[axis], dtype=np.int32)
    sizes = [n if i == axis else 1 for i, n in enumerate(shape)]
    return np.stack([pixels, -pixels], -1).reshape(*sizes, 2)


def union(views: Sequence[View]) -> View:
    """Return the view of values that are computed from several at the same place."""
    known = [view for view in views if view is not None]
    if len(known) < len(views):
        return None
    if prod(np.broadcast_shapes(*(v.shape for v in known))) > 2 * _MOST:
        return None
    return reduce(np.minimum, known)


def to_rank(view: View, rank: int) -> View:
    """Return the view with axes of size 1 put before its own."""
    if view is None:
        return None
    return view.reshape(*(1,) * (rank + 1 - view.ndim), *view.shape)


def num_pixels(view: View) -> int | None:
    """Return the most pixels that any value sees, from the first to the last."""
    return None if view is None else int((1 - view.sum(-1)).max(initial=0))


def propagate(
    eqn: JaxprEqn, seen: Mapping[int, View], constants: frozenset[int], border: bool
) -> list[View]:
    """Return the views of an equation's results.

    Args:
        eqn: The equation.
        seen: The views of the operands that depend on the image, by position.
        constants: Positions of operands that depend on neither image nor parameters.
        border: Whether a concatenation extends an image, which is not to count.
    """
    if eqn.primitive.name == "split":
        axis, sizes = eqn.params["axis"], list(map(int, eqn.params["sizes"]))
        starts = [int(n) for n in np.cumsum([0, *sizes])]
        parts = [np.arange(s, s + n)[:, None] for s, n in zip(starts, sizes)]
        view = seen[0]
        return [None if view is None else _take(view, axis, part) for part in parts]
    if eqn.primitive.name == "concatenate" and border:
        lengths = [shape[eqn.params["dimension"]] for shape in shapes(eqn.invars)]
        longest = max(seen, key=lengths.__getitem__)
        seen = {longest: seen[longest]}
    views = []
    for number, view in seen.items():
        followed = None if view is None else _follow(view, eqn, number, constants)
        views.append(followed)
    view = union(views)
    rank = len(shapes(eqn.outvars)[0])
    return [_compact(to_rank(view, rank))] * len(eqn.outvars)


def _follow(
    view: np.ndarray, eqn: JaxprEqn, number: int, constants: frozenset[int]
) -> View:
    """Return the view of the result, as far as it depends on one operand."""
    name, params, operands = eqn.primitive.name, eqn.params, shapes(eqn.invars)
    shape, out = operands[number], shapes(eqn.outvars)[0]
    if name in ELEMENTWISE or name == "jcnn_broadcast":
        return view
    if name == "broadcast_in_dim":
        sizes = dict(zip(params["broadcast_dimensions"], view.shape))
        return view.reshape(*(sizes.get(i, 1) for i in range(len(out))), 2)
    if name == "transpose":
        return view.transpose(*params["permutation"], len(out))
    if name == "squeeze":
        return view.squeeze(tuple(params["dimensions"]))
    if name == "reshape":
        return _reshape(view, shape, out)
    if name in REDUCTIONS and "axes" in params:
        return _reduce(view, params["axes"]).squeeze(tuple(params["axes"]))
    if name == "jcnn_sum":
        return _reduce(view, params["axes"])
    if name == "sort":
        return _reduce(view, [params["dimension"]])
    if name in SCANS:
        axis = params["axis"]
        back = np.flip(view, axis) if params["reverse"] else view
        scanned = np.minimum.accumulate(back, axis)
        return np.flip(scanned, axis) if params["reverse"] else scanned
    if name == "dot_general":
        return _dot(view, params, number, operands, constants)
    if name == "conv_general_dilated" and number == 0:
        return _lax_convolution(view, params, operands, out)
    if name == "jcnn_convolution":
        return _jcnn_convolution(view, params["problem"], number, shape, out)
    windows = _windows(name, params, number, operands)
    return None if windows is None else _slide(view, shape, out, windows)


class _Window(NamedTuple):
    """A window along one axis, whose entries lie `holes` apart after padding."""

    taps: int = 1
    stride: int = 1
    dilation: int = 1
    holes: int = 1
    low: int = 0

    def entries(self, n: int, positions: int) -> np.ndarray:
        """Return which of n entries each tap meets, -1 if none: [positions, taps]."""
        start = np.arange(positions)[:, None] * self.stride - self.low
        place = start + np.arange(self.taps) * self.dilation
        entry, rest = np.divmod(place, self.holes)
        return np.where((rest == 0) & (entry >= 0) & (entry < n), entry, -1)


def _windows(
    name: str,
    params: Mapping[str, Any],
    number: int,
    operands: list[tuple[int, ...]],
) -> list[_Window] | None:
    """Return the windows of what takes values from other positions axis by axis."""
    shape = operands[number]
    windows = [_Window() for _ in shape]
    if name == "rev":
        for axis in params["dimensions"]:
            windows[axis] = _Window(stride=-1, low=1 - shape[axis])
        return windows
    if name == "slice":
        axes = zip(params["strides"] or (1,) * len(shape), params["start_indices"])
        return [_Window(stride=stride, low=-start) for stride, start in axes]
    if name == "pad" and number == 0:
        config = params["padding_config"]
        return [_Window(low=low, holes=1 + inside) for low, _, inside in config]
    if name == "concatenate":
        axis = params["dimension"]
        windows[axis] = _Window(low=sum(other[axis] for other in operands[:number]))
        return windows
    if name in ("jcnn_window_sums", "jcnn_window_maxima"):
        _, taps, strides, padding = params["windows"]
        axes = zip(taps, strides, padding)
        return [_Window(k, stride, low=low) for k, stride, (low, _) in axes]
    if name.startswith("reduce_window_"):
        axes = zip(
            params["window_dimensions"],
            params["window_strides"],
            params["window_dilation"],
            params["base_dilation"],
            (low for low, _ in params["padding"]),
        )
        return [_Window(*axis) for axis in axes]
    return None


def _slide(
    view: np.ndarray,
    sizes: Sequence[int],
    positions: Sequence[int],
    windows: Sequence[_Window],
    first: int = 0,
) -> np.ndarray:
    """Return the view of windows along as many axes, from the first on."""
    for axis, window in enumerate(windows, first):
        view = _take(view, axis, window.entries(sizes[axis], positions[axis]))
    return view


def _dot(
    view: np.ndarray,
    params: Mapping[str, Any],
    number: int,
    operands: list[tuple[int, ...]],
    constants: frozenset[int],
) -> View:
    contracted, batch = params["dimension_numbers"]
    mixed = any(view.shape[axis] > 1 for axis in contracted[number])
    if mixed and 1 - number in constants:
        return None  # a constant matrix may be mostly zero, as that of a resize
    free = [
        [i for i in range(len(shape)) if i not in (*contracted[side], *batch[side])]
        for side, shape in enumerate(operands)
    ]
    kept = [*batch[number], *free[number]]
    view = _reduce(view, contracted[number]).transpose(
        *kept, *contracted[number], view.ndim - 1
    )
    sizes, others = [*view.shape[: len(kept)]], [1] * len(free[1 - number])
    place = len(sizes) if number == 0 else len(batch[0])
    return view.reshape(*sizes[:place], *others, *sizes[place:], 2)


def _lax_convolution(
    view: np.ndarray,
    params: Mapping[str, Any],
    operands: list[tuple[int, ...]],
    out: tuple[int, ...],
) -> View:
    lhs, rhs, result = params["dimension_numbers"]
    grouped = params["feature_group_count"] > 1 and view.shape[lhs[1]] > 1
    if grouped or params["batch_group_count"] > 1:
        return None
    # To the order of the result; its channels are one.
    view = _reduce(view, [lhs[1]])
    order = [lhs[result.index(i)] for i in range(len(out))]
    view, sizes = view.transpose(*order, len(out)), [operands[0][i] for i in order]
    axes = zip(
        (operands[1][axis] for axis in rhs[2:]),
        params["window_strides"],
        params["rhs_dilation"],
        params["lhs_dilation"],
        (low for low, _ in params["padding"]),
    )
    for axis, window in zip(result[2:], axes):
        view = _slide(view, sizes, out, [_Window(*window)], axis)
    return view


def _jcnn_convolution(
    view: np.ndarray,
    problem: Any,
    number: int,
    shape: tuple[int, ...],
    out: tuple[int, ...],
) -> View:
    grouped = problem.groups > 1 and view.shape[-2] > 1
    if grouped or "kernel" in (problem.result, problem.operands[number]):
        return None
    view = _reduce(view, [len(shape) - 1])
    lows = [low for low, _ in problem.padding]
    if problem.op == "forward":
        axes = zip(problem.kernel_size, problem.strides, problem.dilation)
        windows = [_Window(*axis, low=low) for axis, low in zip(axes, lows)]
    else:  # the input gradient: a transposed convolution
        lows = [k - 1 - low for k, low in zip(problem.window, lows)]
        axes = zip(problem.kernel_size, problem.dilation, problem.strides, lows)
        windows = [_Window(k, 1, *others) for k, *others in axes]
    out = out[-len(shape) :]  # an axis of models may be the result's alone
    return _slide(view, shape, out, windows, len(shape) - 1 - problem.rank)


def _reshape(view: np.ndarray, shape: Sequence[int], out: Sequence[int]) -> View:
    """Expand only those groups of axes that are split or merged and vary."""
    if 0 in out:
        return np.full((*out, 2), _NOTHING, np.int32)
    full, new = [], []
    i = j = 0
    while i < len(shape) or j < len(out):
        first, of_out, m, n = i, j, 1, 1
        while True:
            if m <= n and i < len(shape):
                m, i = m * shape[i], i + 1
            else:
                n, j = n * out[j], j + 1
            if m == n:
                break
        own, other = range(first, i), range(of_out, j)
        varies = any(view.shape[axis] > 1 for axis in own)
        full += [shape[axis] if varies else 1 for axis in own]
        new += [out[axis] if varies else 1 for axis in other]
    if prod(full) > _MOST:
        return None
    return np.broadcast_to(view, (*full, 2)).reshape(*new, 2)


def _reduce(view: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return the view of values that depend on all positions along some axes."""
    axes = tuple(axes)
    return np.minimum.reduce(view, axis=axes, keepdims=True, initial=_NOTHING)


def _take(view: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    """Return the view of windows along an axis, whose entries `index` names."""
    if view.shape[axis] == 1:  # all entries see the same
        some = (index >= 0).any(1)
        sizes = [-1 if i == axis else 1 for i in range(view.ndim)]
        return view if some.all() else np.where(some.reshape(sizes), view, _NOTHING)
    around = [(0, int(i == axis)) for i in range(view.ndim)]
    view = np.pad(view, around, constant_values=_NOTHING)  # entry -1
    return reduce(np.minimum, (view.take(tap, axis) for tap in index.T))


def _compact(view: View) -> View:
    if view is None:
        return None
    for axis in range(view.ndim - 1):
        if view.shape[axis] > 1:
            first = view.take([0], axis)
            view = first if (view == first).all() else view
    return view
