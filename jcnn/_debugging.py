"""JAX's ways of running a program operation by operation."""

import jax


def taken_apart() -> bool:
    """Whether JAX looks into functions: a primitive must then be computed by its parts.

    Under `jax.disable_jit` and `jax_debug_nans` a primitive that is computed by
    compiling itself would be taken apart into itself, without end.

    >>> taken_apart()
    False
    """
    config = jax.config
    return config.jax_disable_jit or config.jax_debug_nans  # pyright: ignore
