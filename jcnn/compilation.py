"""`jax.jit` with options of XLA: those that help on CPUs, or make GPUs repeatable."""

from collections.abc import Callable, Mapping
from functools import lru_cache, update_wrapper
from typing import Any

import jax
from jax.core import Tracer

Options = Mapping[str, str | bool]

# XLA's fast library for small operations (YNNPACK) keeps what it is fast in: products.
# By default it takes convolutions too, whose gradients it computes 1.5 to 4 times as
# slowly as XLA does without it, and sums: some of them wrongly (jax#39103), and all
# in an order that depends on the number of threads.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
# Scatters add in a fixed order, cuDNN's algorithms are repeatable ones, and nothing is
# chosen by measuring, which ends differently from one start to the next.
_DETERMINISTIC_GPU = {"xla_gpu_deterministic_ops": True}


def default_options(*, deterministic: bool = False) -> dict[str, str | bool]:
    """Options for the platform that is JAX's default; without arguments `jit`'s own.

    On CPUs they are those that were measured to help, if this version of XLA has them.

    Args:
      deterministic: whether programs should give the same bits each time. On CPUs they
        do anyway. On GPUs this forbids XLA what is not repeatable, and takes longer.

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
    """`jax.jit` with `default_options`, which also works inside of another one.

    JAX takes options for a whole program only. Where the function becomes part of
    another program (an argument is being traced) it goes without.

    Args:
      function: of arrays by position.
      donate_argnums: as for `jax.jit`.
      compiler_options: as for `jax.jit`; None for `default_options`.

    Returns:
      The compiled function, with `trace` and `lower` as `jax.jit` has them.

    >>> double = jit(lambda x: 2 * x)
    >>> double(jax.numpy.arange(3)), jax.jit(double)(1)
    (Array([0, 2, 4], dtype=int32), Array(2, dtype=int32, weak_type=True))
    """
    part = jax.jit(function, donate_argnums=donate_argnums)

    @lru_cache(1)
    def program():  # made late: asking for the default device ends JAX's configuration
        options = default_options() if compiler_options is None else compiler_options
        return jax.jit(
            function,
            donate_argnums=donate_argnums,
            compiler_options=dict(options) or None,
        )

    return _Compiled(function, part, program)


class _Compiled:
    """What `jit` returns: all that `jax.stages.Wrapped` asks for, for `jax.export`.

    Its methods are those of a class, and not attributes of a function: these would be
    handed on to what JAX wraps round it, the vectorized function for example.
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
    """Whether this XLA has the options, which are called experimental."""
    try:
        jax.jit(lambda: 0, compiler_options=_CPU).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
