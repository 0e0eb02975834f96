"""What jcnn uses of JAX that may change without notice.

All of it is here, with a test each (tests/engine/test_jax_internals.py): that test
fails with the release that changes it.
"""

from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, NamedTuple

from jax.extend.core import Primitive
from jax.interpreters import partial_eval


class LoweringRules(NamedTuple):
    """The tables of rules by primitive; a rule that is called is `table[…].rule`."""

    for_cpus: MutableMapping[Any, Any]
    for_all: MutableMapping[Any, Any]

    def of(self, primitive: Primitive) -> Any:
        """Return what is in force on CPUs."""
        return self.for_cpus.get(primitive) or self.for_all[primitive]


def lowering_rules() -> LoweringRules:
    """Return JAX's own tables, which `accelerate` changes."""
    from jax._src.interpreters.mlir import _lowerings, _platform_specific_lowerings

    return LoweringRules(_platform_specific_lowerings["cpu"], _lowerings)


def metadata(context: Any) -> dict[str, Any]:
    """Return what `set_xla_metadata` says of the operation that is being lowered."""
    return getattr(context.jaxpr_eqn_ctx, "xla_metadata", None) or {}


def partial_eval_rules() -> MutableMapping[Any, Callable[..., Any]]:
    """Return the rules of `jax.checkpoint` by primitive."""
    return partial_eval.partial_eval_jaxpr_custom_rules


def define_taylor(primitive: Primitive, rule: Callable[..., Any]) -> None:
    """Give `jax.experimental.jet`, if there is one, a rule unless it has one."""
    try:
        from jax.experimental.jet import jet_rules
    except ImportError:
        return
    jet_rules.setdefault(primitive, rule)


def define_nan_check(primitive: Primitive) -> None:
    """Let `checkify` look for NaN in the primitive's result."""
    try:
        from jax._src.checkify import error_checks, nan_error_check
    except ImportError:
        return
    error_checks[primitive] = partial(nan_error_check, primitive)


def lower_with_mesh(primitive: Primitive, on: bool = True) -> None:
    """Let JAX tell the primitive's lowering of the devices and of their mesh, or not.

    While it does, programs with the primitive cannot be lowered for an abstract mesh.
    """
    try:
        from jax._src.dispatch import (
            prim_requires_devices_during_lowering as primitives,
        )
    except ImportError:
        return
    (primitives.add if on else primitives.discard)(primitive)


def mesh_of(context: Any) -> Any:
    """Return the abstract mesh that divides what is being lowered; None if unknown."""
    return getattr(context.module_context.axis_context, "abstract_mesh", None)


def scan_operands(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many operands of a `scan` are constants, and how many are carried."""
    if "num_consts" in parameters:  # before jax 0.11
        return parameters["num_consts"], parameters["num_carry"]
    constants, carried, _ = parameters["ft_in"].unpack()
    return len([*constants]), len([*carried])


def process_of_job() -> tuple[int, int]:
    """Return this process's number and how many there are, before JAX computes."""
    from jax._src.distributed import global_state

    return global_state.process_id, global_state.num_processes


def wait_for_job(seconds: int) -> None:
    """Wait until all processes of this job have called this."""
    from jax._src.distributed import global_state

    assert global_state.client is not None
    global_state.client.wait_at_barrier("jcnn", 1000 * seconds)


def backends_are_initialized() -> bool:
    """Return whether JAX has computed, or asked for its devices."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()
