"""Receptive fields along one spatial dimension, and what operations on axes do to them.

What a value sees is a `View`: a tuple of `Field`s, or None where it is unknown.

Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
(2019), section 2, has the sums for windows.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np

Steps = tuple[tuple[int, float], ...]

_MOST_FIELDS = 8  # of one value
_MOST_POSITIONS = 1 << 22  # that are tried one by one


class Grid(NamedTuple):
    """Elements `spacing` pixels apart, of which values between them see some.

    A value that is moved by m pixels sees the elements number m / spacing - `before` to
    m / spacing + `behind`, those of them that are whole numbers.
    """

    spacing: float
    before: float
    behind: float


class Field(NamedTuple):
    """The pixels from `low` to `high`, moved by where a value stands in its array.

    Beyond `least` and `most` there are none, but padding. `steps` has for every axis of
    the array (size, move in pixels) of its positions; of an axis into which a reshape
    has put several, those of all, in row-major order. Behind a transposed convolution
    `low` and `high` are those of an element of the `grid`.
    """

    low: float
    high: float
    steps: tuple[Steps, ...]
    least: float
    most: float
    grid: Grid | None = None

    def reach(self, axes: Iterable[int] | None = None) -> tuple[float, float]:
        """How far down and up the positions along (all) axes lie from the first."""
        steps = self.steps if axes is None else [self.steps[axis] for axis in axes]
        ends = [(n - 1) * j for n, j in chain(*steps)]
        return sum(e for e in ends if e < 0), sum(e for e in ends if e > 0)

    def is_moved(self, axis: int) -> bool:
        """Whether values along an axis see other pixels."""
        return any(j for _, j in self.steps[axis])

    def seen(self, move: Any) -> tuple[Any, Any]:
        """The first and last pixel that values see which are moved so far."""
        low, high = move, move
        if self.grid is not None:
            spacing, before, behind = self.grid
            low = np.ceil(move / spacing - before) * spacing
            high = np.floor(move / spacing + behind) * spacing
        low = np.maximum(low + self.low, self.least)
        return low, np.minimum(high + self.high, self.most)

    def ends(self) -> tuple[float, float]:
        """The first and last pixel that any value sees."""
        down, up = self.reach()
        return self.seen(down)[0], self.seen(up)[1]

    def extended(self, down: float, up: float) -> "Field":
        """Of values that see also what those see which lie so far below and above."""
        if self.grid is None:
            return self._replace(low=self.low + down, high=self.high + up)
        spacing, before, behind = self.grid
        grid = Grid(spacing, before - down / spacing, behind + up / spacing)
        return self._replace(grid=grid)


View = tuple[Field, ...] | None


def of_pixels(shape: Sequence[int], axis: int) -> View:
    """What the pixels of an image see along one axis: themselves."""
    steps = [_evenly(n, i == axis) for i, n in enumerate(shape)]
    return (Field(0, 0, tuple(steps), 0, shape[axis] - 1),)


def union(views: Iterable[View]) -> View:
    """What is seen by a value that is computed of several at one place."""
    kept: list[Field] = []
    for view in views:
        if view is None:
            return None
        for field in view:
            for other in kept:
                if field[2:] == other[2:]:
                    kept.remove(other)
                    low, high = min(other.low, field.low), max(other.high, field.high)
                    field = field._replace(low=low, high=high)
                    break
            kept.append(field)
    return tuple(kept) if len(kept) <= _MOST_FIELDS else None


def each(view: View, follow: Callable[..., Field | None], *args: Any) -> View:
    """Each of the fields, followed; unknown if one of them is."""
    if view is None:
        return None
    fields = [follow(field, *args) for field in view]
    return union([None if field is None else (field,) for field in fields])


def settled(view: View) -> View:
    """The view, in one form if one field sees in all places all that any field sees."""
    if not view:
        return view
    lows, highs = zip(*(field.ends() for field in view))
    least, most = min(lows), max(highs)
    for field in view:
        down, up = field.reach()
        if field.seen(up)[0] <= least and field.seen(down)[1] >= most:
            still = tuple(_evenly(_size(steps), 0) for steps in field.steps)
            return (Field(least, most, still, least, most),)
    return view


def pixels(view: View) -> int | None:
    """How many pixels that value sees which sees most."""
    if view is None:
        return None
    axes = [i for i in range(len(view[0].steps)) if any(f.is_moved(i) for f in view)]
    if prod(_size(view[0].steps[axis]) for axis in axes) > _MOST_POSITIONS:
        return None
    lows, highs = [], []
    for field in view:
        moves = np.zeros(())
        for n, j in chain(*(field.steps[axis] for axis in axes)):
            moves = np.add.outer(moves, j * np.arange(n))
        low, high = field.seen(moves.ravel())
        lows.append(np.where(low <= high, low, np.inf))  # where it sees anything
        highs.append(np.where(low <= high, high, -np.inf))
    seen = np.maximum.reduce(highs) - np.minimum.reduce(lows)
    return int(seen.max(initial=-1)) + 1


# --- operations on one field; None: it cannot be followed ---


def chained(
    field: Field, follow: Callable[..., Field | None], steps: Iterable[Sequence[Any]]
) -> Field | None:
    """The field after one step for each entry of `steps`."""
    for step in steps:
        followed = follow(field, *step)
        if followed is None:
            return None
        field = followed
    return field


def over(field: Field, axes: Iterable[int]) -> Field:
    """Of values computed from all positions along some axes."""
    return field.extended(*field.reach(axes))


def accumulated(field: Field, axis: int, from_the_end: bool) -> Field:
    """Of values computed from all positions before them along an axis, or behind."""
    down, up = field.reach([axis])
    field = _bounded(field)
    return field.extended(down, up) if from_the_end else field.extended(-up, -down)


def without(field: Field, axes: Iterable[int]) -> Field:
    gone = set(axes)
    kept = (steps for i, steps in enumerate(field.steps) if i not in gone)
    return field._replace(steps=tuple(kept))


def placed(field: Field, axes: Sequence[int], out: Sequence[int]) -> Field:
    """With its axes among others, along which all positions see the same."""
    steps = [_evenly(n, 0) for n in out]
    for axis, own in zip(axes, field.steps):
        if _size(own) == out[axis]:
            steps[axis] = own
    return field._replace(steps=tuple(steps))


def reshaped(field: Field, out: Sequence[int]) -> Field | None:
    if 0 in out:
        return placed(field, (), out)
    left = list(chain(*field.steps))
    axes = []
    for size in out:
        steps: list[tuple[int, float]] = []
        while size > 1:
            n, j = left.pop(0)
            if n > size:  # the rest belongs to the next axis
                if n % size:
                    return None
                left.insert(0, (n // size, j))
                n, j = size, j * (n // size)
            elif size % n:
                return None
            steps.append((n, j))
            size //= n
        axes.append(_joined(steps))
    return field._replace(steps=tuple(axes))


def reversed_axis(field: Field, axis: int) -> Field:
    steps = list(field.steps)
    end = sum((n - 1) * j for n, j in steps[axis])
    steps[axis] = tuple((n, -j) for n, j in steps[axis])
    return _moved(field._replace(steps=tuple(steps)), end)


def shuffled(field: Field, axis: int) -> Field:
    """Of values that may have come from any position along the axis."""
    return _spaced(over(field, [axis]), axis, _size(field.steps[axis]), 0)


def sliced(field: Field, axis: int, start: int, stride: int, out: int) -> Field | None:
    steps = field.steps[axis]
    if start == 0 and stride == 1 and _size(steps) == out:
        return field
    if out == 1:
        for n, j in reversed(steps):
            start, digit = divmod(start, n)
            field = _moved(field, digit * j)
        return _spaced(field, axis, 1, 0)
    if len(steps) > 1:
        return None if field.is_moved(axis) else _spaced(field, axis, out, 0)
    return windowed(field, axis, 1, stride, 1, -start, out)


def padded(
    field: Field, axis: int, low: int, high: int, holes: int, out: int
) -> Field | None:
    if holes and field.is_moved(axis):
        return None
    return windowed(field, axis, 1, 1, 1, low, out)


def windowed(
    field: Field, axis: int, window: int, stride: int, spread: int, low: int, out: int
) -> Field | None:
    """Of windows along an axis that is padded before, its positions `spread` apart."""
    steps = field.steps[axis]
    if window == stride == spread == 1 and low == 0 and _size(steps) == out:
        return field
    if not field.is_moved(axis):
        return _spaced(field, axis, out, 0)
    if len(steps) > 1:
        return None
    jump, grid = steps[0][1], field.grid  # pyright: ignore
    if spread > 1 and (jump < 0 or grid is not None and not _divides(grid, jump)):
        return None
    field = _bounded(field)
    if spread > 1 and grid is None:
        field = field._replace(grid=Grid(jump, 0, 0))
    jump /= spread
    ends = -low * jump, (window - 1 - low) * jump
    return _spaced(field.extended(min(ends), max(ends)), axis, out, jump * stride)


def _divides(grid: Grid, jump: float) -> bool:
    """Whether all values see those elements that lie on a grid of `jump` pixels."""
    places = grid.spacing, grid.before * grid.spacing, grid.behind * grid.spacing
    return all((place / jump).is_integer() for place in places)


def _evenly(n: int, jump: float) -> Steps:
    return ((n, float(jump)),) if n != 1 else ()


def _joined(steps: Iterable[tuple[int, float]]) -> Steps:
    """Steps of more than one position; evenly spaced ones as one."""
    joined: list[tuple[int, float]] = []
    for n, j in steps:
        if joined and joined[-1][1] == n * j:
            n *= joined.pop()[0]
        joined.append((n, j))
    return tuple(joined)


def _size(steps: Steps) -> int:
    return prod(n for n, _ in steps)


def _spaced(field: Field, axis: int, n: int, jump: float) -> Field:
    steps = list(field.steps)
    steps[axis] = _evenly(n, jump)
    return field._replace(steps=tuple(steps))


def _moved(field: Field, by: float) -> Field:
    return field.extended(by, by)


def _bounded(field: Field) -> Field:
    """With the bounds of its array, beyond which nothing is seen."""
    least, most = field.ends()
    return field._replace(least=least, most=most)
