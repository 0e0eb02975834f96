"""Lets unmodified JAX programs, Flax's and others', run on jcnn's algorithms on a CPU.

The convolutions of every library end in one primitive of lax, as do their gradients.
What this primitive becomes on a CPU is replaced, for as long as a handle is open.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from .engine.general import Convolution, pose
from .engine.lowering import solve
from .engine.meshes import sharded_by_type
from .engine.planner import plan


class Acceleration:
    """What `accelerate` returns: it can be undone, and is a context manager.

    Attributes:
      on: whether lax's convolutions run on jcnn's algorithms by this handle.
    """

    def __init__(self):
        self.on = True
        self._rules = _cpu_rules()
        self._before = self._rules[lax.conv_general_dilated_p]
        mlir.register_lowering(lax.conv_general_dilated_p, self._lower, platform="cpu")
        self._mine = self._rules[lax.conv_general_dilated_p]

    def undo(self) -> None:
        """Gives lax its own convolution back. A second call does nothing."""
        self.on = False
        # If another handle lies on top of this one, it goes on through this one.
        if self._rules[lax.conv_general_dilated_p] is self._mine:
            self._rules[lax.conv_general_dilated_p] = self._before

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    def _lower(self, context, lhs, rhs, **params):
        lhs_type, rhs_type = context.avals_in
        compute = _replacement(lhs_type, rhs_type, params) if self.on else None
        if compute is None:
            return self._before.rule(context, lhs, rhs, **params)
        return mlir.lower_fun(compute, multiple_results=False)(context, lhs, rhs)


def accelerate() -> Acceleration:
    """Switches jcnn's algorithms on for every convolution of this process, on CPUs.

    It concerns what is compiled from now on: functions compiled before stay as
    they are, and functions compiled meanwhile stay fast after it is undone (until
    `jax.clear_caches()`). Results differ by rounding. Convolutions that no fast
    algorithm serves, and other platforms, are left to lax.

    Returns:
      A handle with `undo()`, which is a context manager too.

    Raises:
      RuntimeError: if this release of jax is not built as expected; nothing is changed.

    >>> with accelerate():
    ...     y = jax.jit(lax.conv, static_argnums=(2, 3))(
    ...         jnp.ones((1, 1, 4)), jnp.ones((1, 1, 2)), (1,), "VALID"
    ...     )
    >>> y
    Array([[[2., 2., 2.]]], dtype=float32)
    """
    return Acceleration()


def _replacement(lhs: Any, rhs: Any, params: dict[str, Any]) -> Callable | None:
    """What computes a convolution of such operands; None if lax's rule is right."""
    convolution = Convolution.of(params)
    posed = pose(lhs, rhs, convolution)
    if posed is None or plan(posed.problem).name == "lax" or sharded_by_type(lhs, rhs):
        if convolution.is_safe(lhs, rhs):
            return None
        return partial(convolution.by_lax, out_sharding=params["out_sharding"])

    def compute(lhs, rhs):
        operands = posed.operands(lhs, rhs)
        return posed.result(solve(*operands, problem=posed.problem))

    return compute


def _cpu_rules() -> dict[Any, Any]:
    """Where jax keeps its lowering rules for CPUs, if all is as this file expects."""
    image = jax.ShapeDtypeStruct((1, 1, 2), jnp.float32)
    try:
        from jax._src.interpreters.mlir import _platform_specific_lowerings

        rules = _platform_specific_lowerings["cpu"]
        program = jax.make_jaxpr(lambda x: lax.conv(x, x, (1,), "VALID"))(image)
        (equation,) = program.eqns
        expected = {*Convolution._fields, "out_sharding"}
        if equation.primitive is not lax.conv_general_dilated_p:
            raise RuntimeError(f"a convolution is {equation.primitive}")
        if set(equation.params) != expected:
            raise RuntimeError(f"its parameters are {sorted(equation.params)}")
        if not callable(rules[lax.conv_general_dilated_p].rule):
            raise RuntimeError("its lowering rule is not callable")
    except Exception as error:
        raise RuntimeError(
            f"accelerate() does not know the internals of jax {jax.__version__} "
            f"({error}); nothing was changed"
        ) from error
    return rules
