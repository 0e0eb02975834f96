"""What a primitive computes when it is called outside of `jax.jit`."""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
from jax.extend.core import Primitive


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

    @lru_cache(1024)
    def jitted(**parameters):
        return jax.jit(partial(primitive.bind, **parameters))

    @primitive.def_impl
    def compute(*operands, **parameters):
        if _taken_apart():
            return by_parts(*operands, **parameters)
        return jitted(**parameters)(*operands)


def _taken_apart() -> bool:
    config = jax.config
    names = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")
    return any(getattr(config, name) for name in names)
