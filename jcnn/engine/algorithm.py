"""What an algorithm is to the planner: three functions, and facts about them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import jax

from .problem import Op, Problem

Compute = Callable[[Problem, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Algorithm:
    """A way to compute convolutions.

    Attributes:
        name: What the argument `impl` calls it.
        limits: Why it cannot compute a problem of an operation that it has; None if it
            can. Without this function it can compute all.
        forward: Computes y from x and the kernel (fprop), if it has that operation.
        input_gradient: Computes x from the kernel and y (dgrad), if it has that.
        kernel_gradient: Computes the kernel from x and y (wgrad), if it has that.
        operations: About how many it adds to the program, which is what it takes to
            compile.
        temporary_bytes: What it makes beside its operands and its result, unless that
            is a small part of them.
        exact: Whether its errors are no larger than lax's.
        portable: Whether it is made of JAX's own operations.
        joins_models: Whether `jax.vmap` over kernels leaves it one operation, which is
            faster than one after the other.
    """

    name: str
    limits: Callable[[Problem], str | None] | None
    forward: Compute | None = None
    input_gradient: Compute | None = None
    kernel_gradient: Compute | None = None
    operations: Callable[[Problem], int] = lambda problem: 1
    temporary_bytes: Callable[[Problem], int] = lambda problem: 0
    exact: bool = True
    portable: bool = True
    joins_models: bool = False

    def unsupported_reason(self, problem: Problem) -> str | None:
        """Return why it cannot compute a problem; None if it can."""
        if getattr(self, problem.op) is None:
            ops = [op.replace("_", " ") for op in get_args(Op) if getattr(self, op)]
            return f"it computes only the {' and the '.join(ops)}"
        return self.limits and self.limits(problem)

    def supports(self, problem: Problem) -> bool:
        return self.unsupported_reason(problem) is None

    def compute(
        self, problem: Problem, first: jax.Array, second: jax.Array
    ) -> jax.Array:
        """Return the operation of the problem, of its operands in order."""
        return getattr(self, problem.op)(problem, first, second)
