"""Computations outside of `jax.jit`, as whole programs."""

from collections.abc import Callable
from functools import lru_cache, partial, update_wrapper
from typing import Any

import jax
from jax.core import Tracer


def at_once(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Compile a function as one program where its operands are not traced.

    Args:
        function: Of arrays (or None) by position, and hashable settings by name.

    >>> at_once(lambda x, *, times: times * x + 1)(jax.numpy.arange(3), times=2)
    Array([1, 3, 5], dtype=int32)
    """
    program = programs(function)

    def call(*operands: Any, **settings: Any) -> jax.Array:
        if taken_apart() or any(isinstance(a, Tracer) for a in operands):
            return function(*operands, **settings)
        return program(**settings)(*operands)

    return update_wrapper(call, function)


def programs(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Return a function from settings to the compiled function of arrays."""

    @lru_cache(1024)
    def program(**settings):
        return jax.jit(partial(function, **settings))

    return program


def taken_apart() -> bool:
    """Return whether JAX takes compiled functions apart, operation by operation."""
    config = jax.config
    names = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")
    return any(getattr(config, name) for name in names)
