"""`lax.conv_general_dilated`, kept from windows over which XLA ends the process.

Where it makes the window smaller, XLA lets the operands of a convolution change places.
It leaves axes alone that stand for groups: k pixels spread by k, under a window of k
that moves by k - 1, without padding. But it does not count the pixels (`is_group_dim`
in xla/hlo/transforms/simplifiers/conv_operand_swapper.cc, jaxlib 0.10.2). Where there
are not k of them what it makes is no convolution ("Window dimensions do not match RHS
shape"), and a failed check ends the process. With k = 2 the gradient to the input of a
convolution with strides of 2 can be such.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.interpreters import mlir
from jax.lax import conv_general_dilated as of_lax  # a user may replace `lax`'s

from .._shapes import Pairs

_MARK = {"jcnn": "lax"}


class Steps(NamedTuple):
    """How far pixels, taps and outputs lie apart along one axis."""

    pixels: int
    taps: int
    outputs: int


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Pairs,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    **others: Any,
) -> jax.Array:
    """As lax's; not so the gradients that JAX derives from it (see `endangered`).

    One zero more behind the pixels makes an axis that is misread an ordinary one. The
    output that it may add is cut off. What it calls is marked, as its gradients are, so
    that it stays lax's under `accelerate`.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    size = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
    taps = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]]
    if not all(isinstance(n, int) for pair in padding for n in pair):
        # lax takes padding that depends on sizes not known yet by its name only.
        around = [(0, 0, 0)] * lhs.ndim
        for axis, (low, high), d in zip(numbers.lhs_spec[2:], padding, lhs_dilation):
            around[axis] = (low, high, d - 1)
        lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), around)
        padding, lhs_dilation = ((0, 0),) * len(taps), (1,) * len(taps)
        size = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
    steps = list(map(Steps, lhs_dilation, rhs_dilation, window_strides))
    wrong = [misread(*axis) for axis in zip(size, taps, steps, padding)]
    with set_xla_metadata(**_MARK):
        y = of_lax(
            lhs,
            rhs,
            window_strides,
            [(low, high + more) for (low, high), more in zip(padding, wrong)],
            lhs_dilation,
            rhs_dilation,
            numbers,
            **others,
        )
    for axis, cut, n, k, step in zip(numbers.out_spec[2:], wrong, size, taps, steps):
        if cut:
            outputs = ((n - 1) * step.pixels + 1 - k) // step.outputs + 1
            y = lax.slice_in_dim(y, 0, outputs, axis=axis)
    return y


def is_marked(context: mlir.LoweringRuleContext) -> bool:
    """Whether the convolution that is lowered was called by the function above."""
    marks = getattr(context.jaxpr_eqn_ctx, "xla_metadata", None) or {}
    return marks.items() >= _MARK.items()


def misread(pixels: int, taps: int, steps: Steps, pads: Sequence[int]) -> bool:
    """Whether XLA takes an axis for groups that stands for none."""
    return tuple(pads) == (0, 0) and _like_groups(pixels, taps, steps)


def endangered(sizes: Sequence[tuple[int, int, int]], steps: Sequence[Steps]) -> bool:
    """Whether a derivative of a convolution, of any order, might have a misread axis.

    Derivatives are convolutions too: of the same pixels, taps and outputs, their parts
    exchanged. Their padding is not looked at.

    Args:
      sizes: along each axis how many pixels, taps and outputs there are.
      steps: along each axis how far apart they lie.
    """
    for axis in zip(sizes, steps):
        for parts in permutations(zip(*axis)):
            (pixels, taps, _), apart = zip(*parts)
            if _like_groups(pixels, taps, Steps(*apart)):
                return True
    return False


def _like_groups(pixels: int, taps: int, steps: Steps) -> bool:
    grouped = steps == Steps(pixels=taps, taps=1, outputs=taps - 1)
    return grouped and pixels not in (0, taps)
