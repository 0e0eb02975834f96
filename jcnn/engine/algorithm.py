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
        limits: Returns why it cannot compute a problem, or None; without it, it can
            compute all.
        forward: Computes y from x and the kernel (fprop), or None.
        input_gradient: Computes x from the kernel and y (dgrad), or None.
        kernel_gradient: Computes the kernel from x and y (wgrad), or None.
        operations: About how many it adds to the program, for the time to compile.
        temporary_bytes: About what it needs beside operands and result.
        exact: Whether its errors are no larger than lax's.
        portable: Whether it is made of JAX's own operations.
        joins_models: Whether it is fast under `jax.vmap` over kernels.
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
