"""Convolutions to check: random ones of few numbers, now and then a network's layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jcnn.engine.general import Convolution

from .ways import ways_of

DTYPES = ("float32", "float32", "float64", "bfloat16", "complex64", "complex128")
FOR_ALL = ("auto", "primitive", "lax", "im2col")
LAYERS = 0.04  # of all examples
MANY = 33  # channels that fill the vectors of a product, and one more


class Example(NamedTuple):
    """A convolution, what it is of, and how it is computed."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    dtype: str
    convolution: Convolution
    way: str = "auto"
    positions: int = 0  # of the blocks that algorithms work in; 0 leaves it to them
    x64: bool = False
    as_usual: bool = False  # how it is compiled, otherwise in haste

    @property
    def arguments(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        dtype = jnp.dtype(self.dtype)
        lhs, rhs = (jax.ShapeDtypeStruct(s, dtype) for s in (self.lhs, self.rhs))
        return lhs, rhs

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of what comes out."""
        c = self.convolution
        lhs, rhs, out = c.dimension_numbers
        batch = self.lhs[lhs[0]] // c.batch_group_count
        outputs = [n for _, _, n in c.sizes(*self.arguments)]
        return _placed((batch, self.rhs[rhs[0]], *outputs), out)


def draw(random: np.random.Generator) -> Example:
    """An example: its convolution first, then one of the ways that serve it."""
    example = _layer(random) if random.random() < LAYERS else _small(random)
    ways = ways_of(*example.arguments, example.convolution)
    special = [name for name in ways if name not in FOR_ALL]
    general = [name for name in ways if name in FOR_ALL]
    wide = example.dtype in ("float64", "complex128")
    return example._replace(
        way=_one_of(random, special if special and random.random() < 0.6 else general),
        x64=wide or random.random() < 0.25,
        as_usual=random.random() < 0.05,
    )


def _small(random: np.random.Generator) -> Example:
    def one_of(values: Sequence[Any]) -> Any:
        return _one_of(random, values)

    def each(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(one_of(values) for _ in range(rank))

    def some(values: Sequence[int], share: float) -> tuple[int, ...]:
        return each(values) if random.random() < share else (1,) * rank

    rank = one_of((1, 1, 2, 2, 3))
    size = each(range(1, {1: 14, 2: 9, 3: 6}[rank]))
    taps = each((1, 2, 3, 3, 4, 5)[: 7 - rank])
    groups = one_of((2, 3, 4))
    features, batches = one_of(((1, 1), (1, 1), (groups, 1), (1, groups)))
    strides, rhs_dilation = some((1, 2, 3), 0.4), some((1, 2, 3), 0.4)
    # With groups in the batch outputs are taps: hundreds would compile for a minute.
    lhs_dilation = some((1, 2, 3), 0.3 if batches == 1 else 0)
    padding = []
    for n, e, k, d in zip(size, lhs_dilation, taps, rhs_dilation):
        window, spread = (k - 1) * d + 1, (n - 1) * e + 1
        same = window // 2, (window - 1) // 2
        anything = one_of(range(-2, 5)), one_of(range(-2, 7))
        low, high = one_of(((0, 0), same, anything))
        padding.append((low, high + max(window - spread - low - high, 0)))
    inputs, outputs = one_of((1, 2, 3, 4, MANY)), one_of((1, 2, 3, 4, MANY))
    orders = channels_last(rank)
    if random.random() < 1 / 3:
        orders = [tuple(map(int, random.permutation(rank + 2))) for _ in orders]
    return Example(
        lhs=_placed(
            (batches * one_of((1, 2, 3, 5)), features * inputs, *size), orders[0]
        ),
        rhs=_placed((features * batches * outputs, inputs, *taps), orders[1]),
        dtype=one_of(DTYPES),
        positions=one_of((0, 1, 7, 50)),
        convolution=Convolution(
            window_strides=strides,
            padding=tuple(padding),
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=lax.ConvDimensionNumbers(*orders),
            feature_group_count=features,
            batch_group_count=batches,
        ),
    )


def _layer(random: np.random.Generator) -> Example:
    """As many channels and positions as networks have, in float32, padded "SAME"."""
    size, batch = _one_of(
        random, (((56,), 32), ((28, 28), 2), ((14, 15), 8), ((7, 8, 10), 2))
    )
    channels, features = (_one_of(random, (24, 32, 64, 96)) for _ in range(2))
    taps = _one_of(random, (2, 3, 3, 3, 4, 5)) if len(size) < 3 else 3
    stride = _one_of(random, (1, 1, 1, 2))
    rank = len(size)
    orders = channels_last(rank)
    return Example(
        lhs=(batch, *size, channels),
        rhs=(*(taps,) * rank, channels, features),
        dtype="float32",
        convolution=Convolution(
            window_strides=(stride,) * rank,
            padding=(((taps - 1) // 2, taps // 2),) * rank,
            lhs_dilation=(1,) * rank,
            rhs_dilation=(1,) * rank,
            dimension_numbers=lax.ConvDimensionNumbers(*orders),
        ),
    )


def _one_of(random: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def channels_last(rank: int) -> list[tuple[int, ...]]:
    image = (0, rank + 1, *range(1, rank + 1))
    return [image, (rank + 1, rank, *range(rank)), image]


def _placed(sizes: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Each size at the axis that `order` gives it."""
    shape = [0] * len(sizes)
    for size, axis in zip(sizes, order):
        shape[axis] = size
    return tuple(shape)
