"""`jax.jit` with XLA options that are faster on CPUs or deterministic on GPUs."""

from collections.abc import Callable, Mapping
from functools import lru_cache, update_wrapper
from typing import Any

import jax
from jax.core import Tracer

Options = Mapping[str, str | bool]

# XLA's library YNNPACK is fast in products. By default it takes convolutions too, whose
# gradients then take 1.5 to 4 times as long, and sums: some are wrong (jax#39103), and
# all depend on the number of threads.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
# Scatters add in a fixed order, and no algorithm is chosen by measuring.
_DETERMINISTIC_GPU = {"xla_gpu_deterministic_ops": True}


def default_options(*, deterministic: bool = False) -> dict[str, str | bool]:
    """Return the options for the default platform, which `jit` uses.

    Args:
        deterministic: Whether programs should give the same bits each time. On CPUs
            they do anyway; on GPUs this takes longer.

    >>> default_options() == {} or jax.default_backend() == "cpu"
    True
    """
    platform = jax.default_backend()
    if platform == "gpu" and deterministic:
        return dict(_DETERMINISTIC_GPU)
    return dict(_CPU) if platform == "cpu" and _known() else {}


def jit(
    function: Callable[..., Any],
    *,
    donate_argnums: int | tuple[int, ...] = (),
    compiler_options: Options | None = None,
) -> Callable[..., Any]:
    """Compile a function like `jax.jit`, with `default_options`.

    JAX takes options for whole programs only: they are ignored where the function is
    called inside another jitted one.

    Args:
        function: A function of positional arrays.
        donate_argnums: As for `jax.jit`.
        compiler_options: As for `jax.jit`; None for `default_options`.

    Returns:
        The compiled function, with `trace` and `lower` as `jax.jit` has them.

    >>> double = jit(lambda x: 2 * x)
    >>> double(jax.numpy.arange(3)), jax.jit(double)(1)
    (Array([0, 2, 4], dtype=int32), Array(2, dtype=int32, weak_type=True))
    """
    part = jax.jit(function, donate_argnums=donate_argnums)

    @lru_cache(1)
    def program():  # lazy: querying the backend freezes jax.config
        options = default_options() if compiler_options is None else compiler_options
        return jax.jit(
            function,
            donate_argnums=donate_argnums,
            compiler_options=dict(options) or None,
        )

    return _Compiled(function, part, program)


class _Compiled:
    """The compiled function: a `jax.stages.Wrapped`, as `jax.export` needs.

    A class, since attributes of a function would be copied to what JAX wraps around it
    (`update_wrapper`), for example by vmap.
    """

    def __init__(
        self, function: Callable[..., Any], part: Any, program: Callable[[], Any]
    ):
        update_wrapper(self, function)
        self._part, self._program = part, program

    def __call__(self, *args):
        leaves = jax.tree.leaves(args)
        traced = any(isinstance(leaf, Tracer) for leaf in leaves)
        return (self._part if traced else self._program())(*args)

    def trace(self, *args):
        return self._program().trace(*args)

    def lower(self, *args):
        return self._program().lower(*args)


@lru_cache(1)
def _known() -> bool:
    """Return whether this XLA has the options, which are experimental."""
    try:
        jax.jit(lambda: 0, compiler_options=_CPU).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
