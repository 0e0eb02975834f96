"""What the types of arrays say about meshes of devices."""

from typing import Any

import jax
from jax import lax


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, each marked as varying over every axis that any of them varies over.

    Inside `jax.shard_map` the operands of one primitive, and the carry of a scan and
    its body, must agree in this.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    every = frozenset().union(*varying)
    return tuple(
        lax.pcast(a, tuple(every - axes), to="varying") if every - axes else a
        for a, axes in zip(arrays, varying)
    )


def sharded_by_type(*types: Any) -> bool:
    """Whether a mesh with explicit axes says how arrays of these types are laid out.

    The primitives of jcnn have no rules for that; lax's have.
    """
    return any(axis is not None for t in types for axis in t.sharding.spec)
