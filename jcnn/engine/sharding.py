"""How arrays and programs are laid out on several devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.core import ShapedArray
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Mark each array as varying over every axis that any of them varies over.

    `jax.shard_map` demands it of a primitive's operands, and of a scan's carry.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    every = frozenset().union(*varying)
    return tuple(
        lax.pcast(a, tuple(every - axes), to="varying") if every - axes else a
        for a, axes in zip(arrays, varying)
    )


def type_like(
    operand: ShapedArray, shape: tuple[int, ...], dtype: DTypeLike
) -> ShapedArray:
    """Return a primitive's result type; no axis is sharded."""
    replicated = PartitionSpec(*[None] * len(shape))
    return ShapedArray(
        shape,
        dtype,
        sharding=NamedSharding(operand.sharding.mesh, replicated),
        manual_axis_type=operand.manual_axis_type,
    )


def sharded_by_type(*types: Any) -> bool:
    """Return whether types say how arrays are sharded (explicit mesh axes)."""
    return any(axis is not None for t in types for axis in t.sharding.spec)


def compiled_as(
    sharding: NamedSharding, function: Callable[..., jax.Array], *operands: jax.Array
) -> jax.Array:
    """Run the function under `auto_axes`, with an explicit sharding of its result.

    jcnn's primitives have no rules for types that are sharded, nor have all that lax's
    convolution becomes in transformations.
    """
    run: Any = jax.sharding.auto_axes(function, out_sharding=sharding)
    return run(*operands)


def is_divided(context: mlir.LoweringRuleContext) -> bool:
    """Return whether XLA divides the program among devices.

    It divides its own convolution, and gathers what others compute.
    """
    axes: Any = context.module_context.axis_context
    if hasattr(axes, "num_devices"):
        return axes.num_devices != 1
    mesh = getattr(axes, "mesh", None)  # of shard_map, of all axes or only of some
    return mesh is None or set(axes.manual_axes) != set(mesh.axis_names)
