"""One convolution for several models, by `jax.vmap`: as a program and as defined."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .definition import Results


class Models(NamedTuple):
    """How often, and of what.

    Outside of what is mapped, axes that count models come first.
    """

    number: int
    axes: tuple[int | None, int | None]  # mapped of lhs and rhs; None: all share it
    together: bool  # one gradient to what is shared, otherwise one for each model

    @property
    def every_axis(self) -> tuple[int | None, ...]:
        """With that of the result, or of its cotangent."""
        return (*self.axes, 0)

    def stacked(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The shapes of lhs, rhs and the result, from those of one model."""
        return [
            shape if axis is None else (self.number, *shape)
            for shape, axis in zip(shapes, self.every_axis)
        ]

    def mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of lhs and rhs, and perhaps of the cotangent, for all models."""

        def for_all(*operands: jax.Array) -> Any:
            axes = self.every_axis[: len(operands)]
            moved = [
                a if axis is None else jnp.moveaxis(a, 0, axis)
                for a, axis in zip(operands, axes)
            ]
            return jax.vmap(function, axes)(*moved)

        return for_all

    def defined(
        self,
        define: Callable[[list[np.ndarray]], Results],
        operands: Sequence[np.ndarray],
    ) -> Results:
        """From the definition of one model."""
        each = [
            define(
                [a if x is None else a[i] for a, x in zip(operands, self.every_axis)]
            )
            for i in range(self.number)
        ]
        results = map(np.stack, zip(*each))
        return Results(*(a.sum(0) if s else a for a, s in zip(results, self.summed)))

    @property
    def summed(self) -> tuple[bool, bool, bool]:
        """Of f, gx and gw, whether it is the sum over all models."""
        lhs, rhs = (self.together and axis is None for axis in self.axes)
        return False, lhs, rhs
