"""Convolutions to check: random ones of few numbers, now and then a network's layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jcnn.engine.lax_arguments import Convolution
from jcnn.engine.problem import highest

from .models import Models
from .ways import ways_of

DTYPES = ("float32", "float32", "float64", "bfloat16", "complex64", "complex128")
WIDER = {  # that results may be asked for in; lax rounds to bfloat16 before float16
    "float32": ("float64",),
    "bfloat16": ("float32", "float64"),
    "complex64": ("complex128",),
}
PRECISIONS = tuple(lax.Precision)
FOR_ALL = ("auto", "primitive", "lax", "im2col")
LAYERS = 0.04  # of all examples
MANY = 33  # channels that fill the vectors of a product, and one more
MOST_OUTPUTS = {1: 64, 2: 8, 3: 4}  # along each axis where outputs are taps, by rank


class Example(NamedTuple):
    """A convolution, what it is of, and how it is computed."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    dtype: str
    convolution: Convolution
    models: Models | None = None
    way: str = "auto"
    positions: int = 0  # of the blocks that algorithms work in; 0 leaves it to them
    x64: bool = False
    as_usual: bool = False  # how it is compiled, otherwise in haste

    @property
    def arguments(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Both operands; of models those of one."""
        dtype = jnp.dtype(self.dtype)
        lhs, rhs = (jax.ShapeDtypeStruct(s, dtype) for s in (self.lhs, self.rhs))
        return lhs, rhs

    @property
    def highest(self) -> bool:
        """Whether the highest precision is asked for, for an operand at least."""
        return highest(self.convolution.precision)

    @property
    def result_dtype(self) -> str:
        return str(self.convolution.preferred_element_type or self.dtype)

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of what comes out; of models that of one."""
        c = self.convolution
        lhs, rhs, out = c.dimension_numbers
        batch = self.lhs[lhs[0]] // c.batch_group_count
        outputs = [n for _, _, n in c.sizes(*self.arguments)]
        return _placed((batch, self.rhs[rhs[0]], *outputs), out)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of lhs, rhs and the result, for all models."""
        one = [self.lhs, self.rhs, self.result]
        return one if self.models is None else self.models.stacked(one)

    @property
    def dtypes(self) -> tuple[str, str, str]:
        """Of lhs, rhs and the result."""
        return self.dtype, self.dtype, self.result_dtype


def draw(random: np.random.Generator) -> Example:
    """An example: its convolution first, then one of the ways that support it."""
    example = _layer(random) if random.random() < LAYERS else _small(random)
    ways = ways_of(*example.arguments, example.convolution)
    special = [name for name in ways if name not in FOR_ALL]
    general = [name for name in ways if name in FOR_ALL]
    wide = example.result_dtype in ("float64", "complex128")
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
    lhs_dilation = some((1, 2, 3), 0.3)
    padding = []
    for n, e, k, d, s in zip(size, lhs_dilation, taps, rhs_dilation, strides):
        window, dilated = (k - 1) * d + 1, (n - 1) * e + 1
        same = window // 2, (window - 1) // 2
        anything = one_of(range(-2, 5)), one_of(range(-2, 7))
        low, high = one_of(((0, 0), same, anything))
        high += max(window - dilated - low - high, 0)
        if batches > 1:  # outputs are taps: hundreds would compile for a minute
            high = min(high, MOST_OUTPUTS[rank] * s - 1 + window - dilated - low)
        padding.append((low, high))
    inputs, outputs = one_of((1, 2, 3, 4, MANY)), one_of((1, 2, 3, 4, MANY))
    orders = channels_last(rank)
    if random.random() < 1 / 3:
        orders = [tuple(map(int, random.permutation(rank + 2))) for _ in orders]
    dtype = one_of(DTYPES)
    return Example(
        lhs=_placed(
            (batches * one_of((1, 2, 3, 5)), features * inputs, *size), orders[0]
        ),
        rhs=_placed((features * batches * outputs, inputs, *taps), orders[1]),
        dtype=dtype,
        models=_models(random, rank) if random.random() < 0.15 else None,
        positions=one_of((0, 1, 7, 50)),
        convolution=Convolution(
            window_strides=strides,
            padding=tuple(padding),
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=lax.ConvDimensionNumbers(*orders),
            feature_group_count=features,
            batch_group_count=batches,
            precision=_precision(random),
            preferred_element_type=_preferred(random, dtype),
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
            precision=_precision(random),
        ),
    )


def _precision(random: np.random.Generator) -> Any:
    """None, one, or one for each operand, as lax and `jcnn.conv` pass them on."""
    # No algorithms of dot products, of which convolutions take no notice.
    first, second = _one_of(random, PRECISIONS), _one_of(random, PRECISIONS)
    return _one_of(random, (None, None, None, first, (first, second)))


def _preferred(random: np.random.Generator, dtype: str) -> jnp.dtype | None:
    if random.random() < 0.8:
        return None
    return jnp.dtype(_one_of(random, (dtype, *WIDER.get(dtype, ()))))


def _models(random: np.random.Generator, rank: int) -> Models:
    axes = [int(axis) for axis in random.integers(-1, rank + 3, 2)]
    lhs, rhs = _one_of(random, ((axes[0], None), (None, axes[1]), axes))
    return Models(
        number=_one_of(random, (1, 2)),
        axes=(lhs, rhs),
        together=random.random() < 0.5,
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
