"""Maps between an array and its windows as primitives of JAX.

A linear one goes from values of the array to values of its windows, and its transpose
goes back.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from ..declaration import Function, bind, declare, define_linear, define_lowering
from .windows import Windows


def linear_pair(
    name: str,
    others: int,
    there: Function,
    back: Function,
    by_lax: Function,
) -> tuple[Function, Function]:
    """Two functions that are each other's transpose, as primitives of JAX.

    All functions take `(a, *others, windows=...)` and are linear in `a`; the others are
    of the array's size. An output has the dtype of `a`.

    Args:
        name: Of the primitives, for those who read programs.
        others: How many operands there are beside `a`.
        there: From an array to its windows, on CPUs.
        back: Its transpose, on CPUs.
        by_lax: What `there` is on other platforms, by operations of lax.

    Returns:
        `there` and `back`, which can be differentiated and batched.
    """

    def back_by_lax(a, *others, windows):
        x = jax.ShapeDtypeStruct(windows.size, a.dtype)
        function = partial(by_lax, windows=windows)
        return jax.linear_transpose(lambda x: function(x, *others), x)(a)[0]

    there_p = define(f"jcnn_{name}", lambda w: w.outputs, there, by_lax)
    back_p = define(f"jcnn_{name}_transposed", lambda w: w.size, back, back_by_lax)

    def transpose(primitive):
        return lambda t, a, *others, windows: bind(
            primitive, t, *others, windows=windows
        )

    define_linear(there_p, transpose(back_p), others)
    define_linear(back_p, transpose(there_p), others)
    return partial(bind, there_p), partial(bind, back_p)


def define(
    name: str,
    shape: Callable[[Windows], tuple[int, ...]],
    on_cpu: Function,
    elsewhere: Function,
) -> Primitive:
    """Return a primitive of arrays and `windows`, but for its derivatives.

    Its operands are of one size; the first gives the dtype.

    Args:
        shape: Of the result.
        on_cpu: What it is on CPUs, for windows that are computed `by_taps`.
        elsewhere: What it is else, and operation by operation: by operations of lax, so
            that who looks for NaN there sees none that lax has not.
    """

    def result(a, *others, windows):
        return shape(windows), a.dtype

    def batched(operands, axes, *, windows):
        length = next(
            a.shape[axis] for a, axis in zip(operands, axes) if axis is not None
        )
        operands = [
            jnp.broadcast_to(a, (length, *a.shape))
            if axis is None
            else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(operands, axes)
        ]
        size, window, strides, padding = windows
        wider = Windows(
            (length, *size), (1, *window), (1, *strides), ((0, 0), *padding)
        )
        return bind(primitive, *operands, windows=wider), 0

    def by_taps(*operands, windows):
        compute = on_cpu if windows.by_taps else elsewhere
        return compute(*operands, windows=windows)

    primitive = declare(name, result, batched)
    define_lowering(primitive, elsewhere, lambda context: by_taps, elsewhere)
    return primitive
