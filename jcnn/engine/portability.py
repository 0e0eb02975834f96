"""Whether a program has to be made of JAX's own operations."""

from typing import Any

import jax
from jax.interpreters import mlir


def is_portable(context: mlir.LoweringRuleContext) -> bool:
    """Whether a program must be made of JAX's own operations: those that are exported,
    and those of many devices, where XLA's partitioner gathers what others compute.
    """
    module = context.module_context
    axes: Any = module.axis_context
    if hasattr(axes, "num_devices"):
        automatic = axes.num_devices != 1
    else:  # shard_map, of all axes or only of some
        mesh = getattr(axes, "mesh", None)
        automatic = mesh is None or set(axes.manual_axes) != set(mesh.axis_names)
    # Such programs cannot be kept: an error, if the user wants one (see `onednn`).
    strict = jax.config.jax_raise_persistent_cache_errors  # pyright: ignore
    return module.lowering_parameters.for_export or automatic or strict
