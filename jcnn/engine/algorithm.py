"""What an algorithm is to the planner: three functions, and facts about them."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from .problem import Problem

Compute = Callable[[Problem, jax.Array, jax.Array], jax.Array]


def _one(problem: Problem) -> int:
    return 1


def _none(problem: Problem) -> int:
    return 0


@dataclass(frozen=True)
class Algorithm:
    """A way to compute convolutions.

    Attributes:
      name: what the argument `impl` calls it.
      unsupported_reason: why it cannot compute a problem; None if it can.
      forward: computes y from x and the kernel (fprop).
      input_gradient: computes x from the kernel and y (dgrad).
      kernel_gradient: computes the kernel from x and y (wgrad).
      operations: about how many it adds to the program, which is what it takes to
        compile.
      temporary_bytes: what it makes beside its operands and its result, unless that is
        a small part of them.
      exact: whether its errors are no larger than lax's.
      portable: whether it is made of JAX's own operations.
      joins_models: whether `jax.vmap` over kernels leaves it one operation, which is
        faster than one after the other.
    """

    name: str
    unsupported_reason: Callable[[Problem], str | None]
    forward: Compute
    input_gradient: Compute
    kernel_gradient: Compute
    operations: Callable[[Problem], int] = _one
    temporary_bytes: Callable[[Problem], int] = _none
    exact: bool = True
    portable: bool = True
    joins_models: bool = False

    def compute(
        self, problem: Problem, first: jax.Array, second: jax.Array
    ) -> jax.Array:
        """The operation of the problem."""
        return getattr(self, problem.op)(problem, first, second)

    def serves(self, problem: Problem) -> bool:
        return self.unsupported_reason(problem) is None
