"""Faults of XLA on CPUs, and workarounds.

Each has the tag "XLA-FAULT", also where it is worked around in another file. A
workaround goes when no supported jaxlib has the fault; `python -m jcnn doctor` shows
most of them (`jcnn.doctor.faults`).

XLA-FAULT negative padding: the float32 convolution reads outside its buffer where low
padding is negative, as it is in the gradient if padding exceeds the window
(openxla/xla#48713; jaxlib 0.10.2, not seen with 0.12.0.1). `split_padding`.

XLA-FAULT like groups: to make the window smaller, XLA exchanges the operands of a
convolution, but not along axes that stand for groups: k pixels dilated by k, under a
window of k that moves by k - 1, without padding. It does not check that there are k
pixels (`is_group_dim` in conv_operand_swapper.cc; jaxlib 0.10.2 and 0.12.0.1), and a
failed check ends the process ("Window dimensions do not match RHS shape"). With k = 2
an input gradient with strides of 2 can be such. `conv_general_dilated`,
`derivative_like_groups`, and `pad_apart`, since XLA takes dilation by padding into the
window (FoldConvInputPad in algebraic_simplifier.cc).

XLA-FAULT layouts in loops: XLA brings operands of a convolution to layouts that are
fast only in the outermost part of a program, and up to 30 times slower in a loop
(ConvCanonicalization; jaxlib 0.10.2 and 0.12.0.1). `algorithms/lax.py`.

XLA-FAULT divided groups: XLA divides groups among devices wrongly in 1x1 convolutions
and, in lax's layouts, in kernel gradients of one example a group (jaxlib 0.10.2).
`vmap` over kernels or of kernel gradients makes groups. `lowering.py`.

XLA-FAULT sums by YNNPACK: their order depends on the number of threads, and some are
wrong (jax#39103, jax#40412; jaxlib 0.10.2, not seen with 0.12.0.1). `sums.py`.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.interpreters import mlir
from jax.lax import conv_general_dilated as of_lax  # a user may replace `lax`'s

from .._jax_internals import metadata
from .._shapes import Pairs
from .padding import pad

_MARK = {"jcnn": "lax"}


def split_padding(pads: Pairs, window: Sequence[int]) -> tuple[Pairs, Pairs]:
    """Split padding into a part to do first and one from 0 to the window less one."""
    left = tuple(
        (min(max(low, 0), k - 1), min(max(high, 0), k - 1))
        for (low, high), k in zip(pads, window)
    )
    now = tuple((a - c, b - d) for (a, b), (c, d) in zip(pads, left))
    return now, left


def pad_apart(
    lhs: jax.Array, pads: Pairs, dilation: Sequence[int], axes: Sequence[int]
) -> jax.Array:
    """Dilate and pad lhs by an operation that no convolution takes in."""
    padded = pad(lhs, pads, dilation, axes)
    return lax.optimization_barrier(padded) if any(d > 1 for d in dilation) else padded


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
    """Return lax's convolution; see `derivative_like_groups` for its gradients.

    One zero more behind the pixels makes an axis that is like groups an ordinary one;
    the output that it may add is cut off. The mark keeps it and its gradients lax's
    under `accelerate`.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    axes, rank = numbers.lhs_spec[2:], lhs.ndim - 2
    if not all(isinstance(n, int) for pair in padding for n in pair):
        # lax takes padding that depends on sizes not known yet by its name only.
        lhs = pad(lhs, padding, lhs_dilation, axes)
        padding, lhs_dilation = ((0, 0),) * rank, (1,) * rank
    size = [lhs.shape[axis] for axis in axes]
    taps = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]]
    steps = list(map(Steps, lhs_dilation, rhs_dilation, window_strides))
    wrong = [like_groups(*axis) for axis in zip(size, taps, steps, padding)]
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
    """Return whether the function above called the convolution being lowered."""
    return metadata(context).items() >= _MARK.items()


def like_groups(pixels: int, taps: int, steps: Steps, pads: Sequence[int]) -> bool:
    """Return whether XLA takes an axis for groups that stands for none."""
    return tuple(pads) == (0, 0) and _like_groups(pixels, taps, steps)


def derivative_like_groups(
    sizes: Sequence[tuple[int, int, int]], steps: Sequence[Steps]
) -> bool:
    """Return whether a derivative, of any order, might have an axis like groups.

    Derivatives are convolutions of the same pixels, taps and outputs (`sizes`), which
    exchange their parts. Their padding is not looked at.
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
