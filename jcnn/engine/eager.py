"""What is computed outside of `jax.jit`: whole programs, compiled once."""

from collections.abc import Callable
from functools import lru_cache, partial, update_wrapper
from typing import Any

import jax
from jax.core import Tracer
from jax.extend.core import Primitive


def at_once(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function, as one program where its operands are not traced.

    Operation by operation it takes longer to call them than to compute them.

    Args:
      function: of arrays (or None) by position, and settings by name that can be
        hashed.

    >>> at_once(lambda x, *, times: times * x + 1)(jax.numpy.arange(3), times=2)
    Array([1, 3, 5], dtype=int32)
    """
    program = _programs(function)

    def call(*operands: Any, **settings: Any) -> jax.Array:
        if _taken_apart() or any(isinstance(a, Tracer) for a in operands):
            return function(*operands, **settings)
        return program(**settings)(*operands)

    return update_wrapper(call, function)


def define_eager(primitive: Primitive, by_parts: Callable[..., jax.Array]) -> None:
    """Lets the primitive compile itself, once for each set of its parameters.

    Under `jax.disable_jit`, `jax_debug_nans` and `jax_debug_infs` JAX takes compiled
    functions apart. The primitive would be taken apart into itself, without end: there
    it is computed by what it consists of.

    Args:
      primitive: of operands, and of parameters by name that can be hashed.
      by_parts: the same as a function of both.

    >>> double_p = Primitive("double")
    >>> define_eager(double_p, lambda x: 2 * x)
    >>> with jax.disable_jit():
    ...     double_p.bind(3)
    6
    """

    program = _programs(primitive.bind)

    @primitive.def_impl
    def compute(*operands, **parameters):
        if _taken_apart():
            return by_parts(*operands, **parameters)
        return program(**parameters)(*operands)


def _programs(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """From settings to the compiled function of arrays."""

    @lru_cache(1024)
    def program(**settings):
        return jax.jit(partial(function, **settings))

    return program


def _taken_apart() -> bool:
    config = jax.config
    names = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")
    return any(getattr(config, name) for name in names)
