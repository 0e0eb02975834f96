"""Unmodified JAX programs, Flax's and others', on jcnn's algorithms on a CPU.

The convolutions and pools of all libraries end in four primitives of lax. Their
lowering rules for CPUs are replaced for as long as a handle is open.
"""

from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from .._jax_internals import LoweringRules, lower_with_mesh, lowering_rules
from .replacements import Replacement, replacements
from .xla_faults import is_marked


class Acceleration:
    """The handle that `accelerate` returns, a context manager."""

    def __init__(self):
        replaced, tables = _checked()
        self._rules = [_Rule(replacement, tables) for replacement in replaced]

    @property
    def on(self) -> bool:
        """Whether lax's primitives run on jcnn's algorithms by this handle."""
        return any(rule.on for rule in self._rules)

    def undo(self) -> None:
        """Give lax its own rules back. A second call does nothing."""
        for rule in self._rules:
            rule.undo()

    def __enter__(self) -> "Acceleration":
        if not self.on:
            raise RuntimeError("this handle has ended: accelerate() gives another one")
        return self

    def __call__(self, function: Any) -> None:
        """Reject the use as a decorator: it holds for the whole process."""
        self.undo()
        raise TypeError(
            "accelerate() is no decorator: write `with jcnn.accelerate():` around the "
            f"calls of {getattr(function, '__name__', function)!r}"
        )

    def __exit__(self, *error: object) -> None:
        self.undo()


def accelerate() -> Acceleration:
    """Switch jcnn's algorithms on for JAX programs of this process, on CPUs.

    It replaces the lowering rules of four primitives of lax: `conv_general_dilated`
    (every convolution and its gradients), the sum over windows `reduce_window_sum`
    (means and their gradients), and the gradient and tangent of maxima and minima over
    windows, `select_and_scatter_add` and `select_and_gather_add`. Results differ by
    rounding, those of maxima not at all. Other platforms, and what no fast algorithm
    supports, stay with lax.

    What is compiled already stays as it is, until `jax.clear_caches()`: slow functions
    of before, fast ones after it is undone.

    Returns:
        A handle with `undo()`, which is a context manager too.

    Raises:
        RuntimeError: If this release of jax is not built as expected; nothing is
            changed.

    >>> with accelerate():
    ...     y = jax.jit(lax.conv, static_argnums=(2, 3))(
    ...         jnp.ones((1, 1, 4)), jnp.ones((1, 1, 2)), (1,), "VALID"
    ...     )
    >>> y
    Array([[[2., 2., 2.]]], dtype=float32)
    """
    return Acceleration()


def in_force() -> bool:
    """Return whether programs that are compiled now are accelerated."""
    try:
        rule = lowering_rules().of(lax.conv_general_dilated_p).rule
    except Exception:  # another release of jax, of which accelerate() knows nothing
        return False
    return isinstance(rule, _Rule)


_LOCK = Lock()  # of the tables: handles may be opened and undone by many threads


class _Rule:
    """A lowering rule for CPUs that stands in the place of lax's own."""

    def __init__(self, replacement: Replacement, tables: LoweringRules):
        self.on = True
        self._replacement, self._tables = replacement, tables
        with _LOCK:
            self._before = tables.for_cpus.get(replacement.primitive)
            self._next = tables.of(replacement.primitive)
            mlir.register_lowering(replacement.primitive, self, platform="cpu")
            lower_with_mesh(replacement.primitive)

    def __call__(self, context, *operands, **parameters):
        if self.on and not is_marked(context):
            compute = self._replacement.faster(*context.avals_in, **parameters)
            if compute is not None:
                rule = mlir.lower_fun(compute, multiple_results=False)
                return rule(context, *operands)
        return self._next.rule(context, *operands, **parameters)

    def undo(self) -> None:
        """Step aside, and leave the table if no other rule lies on top."""
        with _LOCK:
            self.on = False
            primitive, rules = self._replacement.primitive, self._tables.for_cpus
            while primitive in rules:
                top = rules[primitive].rule
                if not isinstance(top, _Rule) or top.on:
                    return
                if top._before is None:
                    del rules[primitive]
                    lower_with_mesh(primitive, False)
                else:
                    rules[primitive] = top._before


def _checked() -> tuple[tuple[Replacement, ...], LoweringRules]:
    """Check jax's internals, and return all replacements and the tables."""
    try:
        found, tables = replacements(), lowering_rules()
        for replacement in found:
            _check(replacement, tables)
    except Exception as error:
        raise RuntimeError(
            f"accelerate() does not know the internals of jax {jax.__version__} "
            f"({error}); nothing was changed"
        ) from error
    return found, tables


def _check(replacement: Replacement, tables: LoweringRules) -> None:
    primitive, parameters, example, _ = replacement
    program = jax.make_jaxpr(example)(jax.ShapeDtypeStruct((1, 1, 2), jnp.float32))
    for equation in program.eqns:
        if equation.primitive is primitive:
            if set(equation.params) != parameters:
                raise RuntimeError(f"{primitive} has {sorted(equation.params)}")
            if not callable(tables.of(primitive).rule):
                raise RuntimeError(f"the lowering rule of {primitive} is not callable")
            return
    raise RuntimeError(f"{primitive} is not in {program}")
