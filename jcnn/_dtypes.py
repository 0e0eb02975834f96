"""The dtype rules of all functions and layers.

- A result has x's dtype (`conv` and `dense`: `preferred_element_type`). x is floating
  point of 8 bits or more; linear functions take complex numbers too.
- A kernel has x's dtype. Bias, scale and statistics may be of any real dtype (or
  complex, if x is); integers among them count as float32. Statistics keep their dtype.
- Layers keep parameters in `param_dtype` and cast kernels to x's dtype: given bfloat16,
  a model computes in it, and gradients come in `param_dtype`.
- Sums are taken in float32 at least, those of gradients too: `wide`. Parameters that
  are broadcast are added and multiplied in it, so that their gradients' sums are wide.
- Numbers (momentum, epsilon, rate) are Python's, NumPy's, arrays' without axes, or
  traced, and change no dtype.
"""

from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike


def wide(dtype: DTypeLike) -> jnp.dtype:
    """Return the dtype of sums: float32 for shorter floats, else the dtype itself."""
    short = jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32 if short else dtype)


def widest(*dtypes: DTypeLike) -> jnp.dtype:
    """Return the largest dtype; of equal ones the first."""
    return max((jnp.dtype(d) for d in dtypes), key=lambda dtype: dtype.itemsize)


def floating(name: str, value: ArrayLike) -> jax.Array:
    """Return `value` as an array of floating-point (or complex) numbers."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be floating point, got {array.dtype}: convert images first, "
            f"for example {name}.astype(jnp.float32) / 255"
        )
    if not _is_signed_byte_or_more(array.dtype):
        raise TypeError(
            f"{name} must be floating point of 8 bits or more with a sign, "
            f"got {array.dtype}"
        )
    return array


def _is_signed_byte_or_more(dtype: DTypeLike) -> bool:
    return jnp.finfo(dtype).bits >= 8 and dtype != jnp.float8_e8m0fnu


def real(name: str, value: ArrayLike) -> jax.Array:
    """Return `value` as an array of real floating-point numbers."""
    array = floating(name, value)
    if jnp.iscomplexobj(array):
        raise TypeError(
            f"{name} must be real, got {array.dtype}: take the real and the imaginary "
            "part as channels"
        )
    return array


def beside(name: str, value: ArrayLike, x: jax.Array) -> jax.Array:
    """Return a parameter or statistic of x as an array; integers as float32."""
    array = jnp.asarray(value)
    allowed = jnp.number if jnp.iscomplexobj(x) else jnp.floating
    if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == bool:
        array = array.astype(jnp.float32)
    if not jnp.issubdtype(array.dtype, allowed):
        raise TypeError(f"{name} must be real as x is, got {array.dtype}")
    return array


def same(name: str, value: ArrayLike, x: jax.Array) -> jax.Array:
    """Return `value` as an array, which must have x's dtype."""
    array = jnp.asarray(value)
    if array.dtype != x.dtype:
        raise TypeError(f"{name} must be of x's dtype {x.dtype}, got {array.dtype}")
    return array


def param_dtype(value: Any) -> jnp.dtype:
    """Return the dtype in which a layer keeps its parameters."""
    try:
        dtype = None if value is None else jnp.dtype(value)
    except TypeError:
        dtype = None
    floating_point = dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
    if dtype is None or not floating_point or not _is_signed_byte_or_more(dtype):
        raise TypeError(f"param_dtype must be a floating-point dtype, got {value!r}")
    return dtype


def result_dtype(preferred: DTypeLike | None, x: jax.Array) -> jnp.dtype | None:
    """Return `preferred_element_type` as a dtype, if it is allowed for x."""
    if preferred is None:
        return None
    try:
        dtype = jnp.dtype(preferred)
    except TypeError:
        raise TypeError(
            f"preferred_element_type must be None or a dtype, got {preferred!r}"
        ) from None
    kind = jnp.complexfloating if jnp.iscomplexobj(x) else jnp.floating
    if not jnp.issubdtype(dtype, kind) or dtype.itemsize < x.dtype.itemsize:
        raise ValueError(
            f"preferred_element_type must not be narrower than x's {x.dtype} nor of "
            f"another kind, got {dtype}"
        )
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"preferred_element_type may be {dtype} only where jax_enable_x64 is set"
        )
    return dtype


def precisions(precision: Any) -> Any:
    """Return None, one `lax.Precision`, or one per operand."""
    if precision is None:
        name = jax.config.jax_default_matmul_precision  # pyright: ignore
        if name is None:
            return None
        with suppress(ValueError):  # it may name an algorithm of dot products
            return lax.Precision(name)
        return None
    pair = isinstance(precision, tuple | list) and len(precision) == 2
    names = precision if pair else (precision,)
    try:
        if not all(isinstance(name, str | lax.Precision) for name in names):
            raise ValueError
        each = tuple(map(lax.Precision, names))
    except ValueError:
        raise ValueError(
            "precision must be None, a jax.lax.Precision or its name, or a pair of "
            "these two (convolutions take no algorithms of dot products), "
            f"got {precision!r}"
        ) from None
    return each if pair else each[0]
