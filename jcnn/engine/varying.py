"""Arrays inside `jax.shard_map`: which mesh axes their values vary over."""

import jax
from jax import lax


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, each marked as varying over every axis that any of them varies over.

    Operands of one primitive, and the carry of a scan and its body, must agree in this.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    every = frozenset().union(*varying)
    return tuple(
        lax.pcast(a, tuple(every - axes), to="varying") if every - axes else a
        for a, axes in zip(arrays, varying)
    )
