"""Lets unmodified JAX programs, Flax's and others', run on jcnn's algorithms on a CPU.

The convolutions of every library end in one primitive of lax, as do their gradients;
means over windows and gradients of maxima end in three others. What these primitives
become on a CPU is replaced, for as long as a handle is open.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from .canonical import canonicalize
from .lax_arguments import Convolution
from .planner import plan
from .pools.maxima import at_first_maximum, put_on_cpu
from .pools.sums import sum_of_taps
from .pools.windows import Windows, taps
from .primitive import convolve
from .sharding import sharded_by_type
from .xla_faults import is_marked

FEW_TAPS = 4  # so many at stride 1 are added by reduce_window as fast

Compute = Callable[..., jax.Array]  # of the primitive's operands


class Acceleration:
    """What `accelerate` returns: it can be undone, and is a context manager."""

    def __init__(self):
        replaced, tables = _checked()
        self._rules = [_Rule(replacement, tables) for replacement in replaced]

    @property
    def on(self) -> bool:
        """Whether lax's primitives run on jcnn's algorithms by this handle."""
        return any(rule.on for rule in self._rules)

    def undo(self) -> None:
        """Gives lax its own rules back. A second call does nothing."""
        for rule in self._rules:
            rule.undo()

    def __enter__(self) -> "Acceleration":
        if not self.on:
            raise RuntimeError("this handle has ended: accelerate() gives another one")
        return self

    def __call__(self, function: Any) -> None:
        """It cannot decorate: what it replaces is replaced for the whole process."""
        self.undo()
        raise TypeError(
            "accelerate() is no decorator: write `with jcnn.accelerate():` around the "
            f"calls of {getattr(function, '__name__', function)!r}"
        )

    def __exit__(self, *error: object) -> None:
        self.undo()


def accelerate() -> Acceleration:
    """Switches jcnn's algorithms on for JAX programs of this process, on CPUs.

    It replaces what four primitives of lax compute: `conv_general_dilated` (every
    convolution and its gradients), the sum over windows `reduce_window_sum` (means and
    their gradients), and the gradient and tangent of maxima and minima over windows,
    `select_and_scatter_add` and `select_and_gather_add`. Results differ by rounding,
    those of maxima not at all. What no fast algorithm supports, and other platforms,
    are left to lax.

    It concerns what is compiled from now on. Functions that `jax.jit` has compiled
    before, for the same shapes, stay as they are, and so does what was called outside
    `jax.jit`; functions compiled meanwhile stay fast after it is undone. Both until
    `jax.clear_caches()`.

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


def in_force() -> bool:
    """Whether what is compiled now is accelerated."""
    try:
        rule = _tables().of(lax.conv_general_dilated_p).rule
    except Exception:  # another release of jax, of which accelerate() knows nothing
        return False
    return isinstance(rule, _Rule)


# --- what is replaced, by what ---


class Replacement(NamedTuple):
    """A primitive of lax and what is faster on CPUs.

    Attributes:
      primitive: lax's.
      parameters: the names of its parameters.
      example: a program that has it.
      faster: from the types of its operands and its parameters; None if lax's is.
    """

    primitive: Primitive
    parameters: set[str]
    example: Callable[[jax.Array], Any]
    faster: Callable[..., Compute | None]


def _faster_convolution(lhs, rhs, **parameters) -> Compute | None:
    if sharded_by_type(lhs, rhs):
        return None
    convolution = Convolution.of(parameters)
    canonical = canonicalize(lhs, rhs, convolution)
    if canonical is None or plan(canonical.problem).name == "lax":
        if convolution.is_safe(lhs, rhs):
            return None
        return partial(convolution.by_lax, out_sharding=parameters["out_sharding"])
    by_plan = partial(convolve, canonical.problem)
    return lambda x, w: canonical.result(by_plan(*canonical.operands(x, w)))


def _faster_sum(
    operand,
    *,
    window_dimensions,
    window_strides,
    padding,
    base_dilation,
    window_dilation,
) -> Compute | None:
    """`reduce_window_sum` by whole arrays; None where it stays with lax."""
    windows = Windows(operand.shape, window_dimensions, window_strides, padding)
    if not _supported(windows, operand) or _above_1(base_dilation + window_dilation):
        return None
    if prod(windows.shape) <= FEW_TAPS and not _above_1(windows.strides):
        return None
    return partial(sum_of_taps, windows=windows)


def _faster_scatter(
    source, operand, *, select_prim, window_dimensions, window_strides, padding
) -> Compute | None:
    """`select_and_scatter_add` by whole arrays; None where it stays with lax."""
    windows = Windows(operand.shape, window_dimensions, window_strides, padding)
    if select_prim not in _SIGNS or not _supported(windows, operand, source):
        return None
    sign = _SIGNS[select_prim]
    return lambda a, x: put_on_cpu(a, sign(x), windows=windows)


def _faster_gather(
    tangents,
    operand,
    *,
    select_prim,
    window_dimensions,
    window_strides,
    padding,
    base_dilation,
    window_dilation,
) -> Compute | None:
    """`select_and_gather_add` by whole arrays; None where it stays with lax."""
    windows = Windows(operand.shape, window_dimensions, window_strides, padding)
    if select_prim not in _SIGNS or not _supported(windows, operand, tangents):
        return None
    if _above_1(base_dilation + window_dilation):
        return None
    sign = _SIGNS[select_prim]

    def gather(a, x):
        seen, values = taps(sign(x), windows, -np.inf), taps(a, windows, 0)
        # A window of minus infinity alone has the tangent 0, though not the gradient.
        lowest, zero = jnp.full_like(seen[0], -np.inf), jnp.zeros_like(values[0])
        return at_first_maximum([lowest, *seen], [zero, *values])

    return gather


_DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
_SIGNS = {lax.ge_p: lambda x: x, lax.le_p: lambda x: -x}


def _supported(windows: Windows, *operands: Any) -> bool:
    return (
        len({operand.dtype for operand in operands}) == 1
        and operands[0].dtype in _DTYPES
        and all(isinstance(n, int) and n for a in operands for n in a.shape)
        and all(pad >= 0 for pair in windows.padding for pad in pair)
        and windows.few_taps
        and not sharded_by_type(*operands)
    )


def _above_1(values: tuple[int, ...]) -> bool:
    return any(value > 1 for value in values)


def replacements() -> tuple[Replacement, ...]:
    """All that `accelerate` replaces."""

    def pool(x, start=-jnp.inf, combine=lax.max):
        return lax.reduce_window(x, start, combine, (1, 1, 2), (1, 1, 2), "VALID")

    windows = {"window_dimensions", "window_strides", "padding"}
    dilations = {"base_dilation", "window_dilation"}
    return (
        Replacement(
            lax.conv_general_dilated_p,
            {*Convolution._fields, "out_sharding"},
            lambda x: lax.conv(x, x, (1,), "VALID"),
            _faster_convolution,
        ),
        Replacement(
            lax.reduce_window_sum_p,
            windows | dilations,
            lambda x: pool(x, 0.0, lax.add),
            _faster_sum,
        ),
        Replacement(
            lax.select_and_scatter_add_p,
            windows | {"select_prim"},
            lambda x: jax.vjp(pool, x)[1](x[..., :1]),
            _faster_scatter,
        ),
        Replacement(
            lax.select_and_gather_add_p,
            windows | dilations | {"select_prim"},
            lambda x: jax.jvp(pool, (x,), (x,)),
            _faster_gather,
        ),
    )


# --- how it is replaced ---


class _Tables(NamedTuple):
    """Where jax keeps its lowering rules, by primitive."""

    for_cpus: dict[Any, Any]
    for_all: dict[Any, Any]

    def of(self, primitive: Primitive) -> Any:
        return self.for_cpus.get(primitive) or self.for_all[primitive]


_LOCK = Lock()  # of the tables: handles may be opened and undone by many threads


class _Rule:
    """A lowering rule for CPUs that stands in the place of lax's own."""

    def __init__(self, replacement: Replacement, tables: _Tables):
        self.on = True
        self._replacement, self._tables = replacement, tables
        with _LOCK:
            self._before = tables.for_cpus.get(replacement.primitive)
            self._next = tables.of(replacement.primitive)
            mlir.register_lowering(replacement.primitive, self, platform="cpu")

    def __call__(self, context, *operands, **parameters):
        if self.on and not is_marked(context):
            compute = self._replacement.faster(*context.avals_in, **parameters)
            if compute is not None:
                rule = mlir.lower_fun(compute, multiple_results=False)
                return rule(context, *operands)
        return self._next.rule(context, *operands, **parameters)

    def undo(self) -> None:
        """Steps aside, and leaves the table if no other rule lies on top."""
        with _LOCK:
            self.on = False
            primitive, rules = self._replacement.primitive, self._tables.for_cpus
            while primitive in rules:
                top = rules[primitive].rule
                if not isinstance(top, _Rule) or top.on:
                    return
                if top._before is None:
                    del rules[primitive]
                else:
                    rules[primitive] = top._before


def _tables() -> _Tables:
    from jax._src.interpreters.mlir import _lowerings, _platform_specific_lowerings

    return _Tables(_platform_specific_lowerings["cpu"], _lowerings)


def _checked() -> tuple[tuple[Replacement, ...], _Tables]:
    """What is to be replaced and where, if all is as this file expects."""
    try:
        found, tables = replacements(), _tables()
        for replacement in found:
            _check(replacement, tables)
    except Exception as error:
        raise RuntimeError(
            f"accelerate() does not know the internals of jax {jax.__version__} "
            f"({error}); nothing was changed"
        ) from error
    return found, tables


def _check(replacement: Replacement, tables: _Tables) -> None:
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
