"""Maps between an array and its windows as primitives of JAX."""

from collections.abc import Callable
from functools import partial

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching

from ..declaration import Function, bind, declare, define_linear, define_lowering
from .windows import Windows


def linear_pair(
    name: str,
    others: int,
    there: Function,
    back: Function,
    by_lax: Function,
) -> tuple[Function, Function]:
    """Return two functions that are each other's transpose, as primitives of JAX.

    All functions take `(a, *others, windows=...)` and are linear in `a`; the others are
    of the array's size. The result has the dtype of `a`.

    Args:
        name: Of the primitives.
        others: The number of operands beside `a`.
        there: From an array to its windows, on CPUs.
        back: Its transpose, on CPUs.
        by_lax: As `there`, by operations of lax.
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
    """Return a primitive of arrays of one size and `windows`, without derivatives.

    Args:
        name: As programs print it.
        shape: Of the result; the first operand gives the dtype.
        on_cpu: Computes it on CPUs, for windows that are computed `by_taps`.
        elsewhere: Computes it otherwise, and operation by operation. By operations of
            lax, so that a search for NaN finds none that lax has not.
    """

    def result(a, *others, windows):
        return shape(windows), a.dtype

    def batched(operands, axes, *, windows):
        pairs = list(zip(operands, axes))
        length = next(a.shape[axis] for a, axis in pairs if axis is not None)
        operands = [batching.bdim_at_front(a, axis, length) for a, axis in pairs]
        return bind(primitive, *operands, windows=windows.batched(length)), 0

    def by_taps(*operands, windows):
        compute = on_cpu if windows.by_taps else elsewhere
        return compute(*operands, windows=windows)

    primitive = declare(name, result, batched)
    define_lowering(primitive, elsewhere, lambda context: by_taps, elsewhere)
    return primitive
