"""What a program that is being lowered may be made of."""

from typing import Any

import jax
from jax.interpreters import mlir


def is_divided(context: mlir.LoweringRuleContext) -> bool:
    """Whether XLA divides the program among devices.

    It knows how to divide its own convolution, and gathers what others compute.
    """
    axes: Any = context.module_context.axis_context
    if hasattr(axes, "num_devices"):
        return axes.num_devices != 1
    mesh = getattr(axes, "mesh", None)  # of shard_map, of all axes or only of some
    return mesh is None or set(axes.manual_axes) != set(mesh.axis_names)


def is_portable(context: mlir.LoweringRuleContext) -> bool:
    """Whether a program must be made of JAX's own operations, since it is exported.

    So must be what cannot be kept otherwise (see `onednn`) where JAX is told that
    this is an error.
    """
    exported = context.module_context.lowering_parameters.for_export
    return exported or jax.config.jax_raise_persistent_cache_errors  # pyright: ignore
