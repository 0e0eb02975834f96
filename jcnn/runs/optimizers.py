"""Optimizers of the command line, from optax: each a dataclass with what it needs.

A config has a field such as `optimizer: Optimizer = SGD(0.1)`; then the command line
takes `--optimizer.learning-rate 0.2`, or `optimizer:muon` for another one. Called with
the number of steps, an optimizer gives optax's transformation, so it is the `tx` of a
`Recipe` as it is. Rates and decays may be arrays, also traced ones.

>>> tx = SGD(learning_rate=0.2, weight_decay=5e-4)(num_steps=100)
>>> hasattr(tx, "update")
True
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import optax
from optax.contrib import muon

from ..layers import Params
from ..train import mask_by_path
from .config import Count, NonNegative, OptionError, Positive, Range, Rate
from .schedule import Schedule, make_schedule
from .transformations import muon_dimensions, with_lookahead


@dataclass(frozen=True)
class _Common:
    learning_rate: Positive = 0.1
    """Peak learning rate."""
    weight_decay: NonNegative = 0.0
    """Weight decay of the parameters that `decayed` names."""
    decayed: str = "kernel$"
    """Regular expression for the paths of decayed parameters, such as
    "stage1/conv/kernel"."""
    schedule: Schedule = "cosine"
    """How the learning rate goes on after the warm-up."""
    warmup: Rate = 0.1
    """Fraction of the run in which the learning rate rises."""
    clip_norm: Positive | None = None
    """Greatest norm of all gradients together."""
    lookahead: Count | None = None
    """Every so many steps, go back half of the way (Zhang et al., 2019)."""

    def __call__(self, num_steps: int) -> optax.GradientTransformation:
        """Return optax's transformation for a run of so many steps."""
        rate = make_schedule(
            self.schedule, self.learning_rate, num_steps, warmup=self.warmup
        )
        tx = self._rule(rate, self._mask("decayed"))
        if self.clip_norm is not None:
            tx = optax.chain(optax.clip_by_global_norm(self.clip_norm), tx)
        return tx if self.lookahead is None else with_lookahead(tx, self.lookahead)

    def _rule(self, rate: optax.Schedule, mask: Any) -> optax.GradientTransformation:
        raise NotImplementedError

    def _mask(self, option: str) -> Callable[[Params], Any]:
        pattern = getattr(self, option)
        # Not every network has what the default names.
        missing_ok = pattern == getattr(type(self), option)
        with _errors_of(option):
            mask = mask_by_path(pattern, missing_ok=missing_ok)
        return _errors_of(option)(mask)


@dataclass(frozen=True)
class SGD(_Common):
    """Gradient descent with Nesterov momentum; the decay is part of the gradient."""

    momentum: Rate = 0.9
    """Momentum, after Nesterov."""

    def _rule(self, rate, mask):
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, mask=mask),
            optax.sgd(rate, momentum=self.momentum, nesterov=True),
        )


@dataclass(frozen=True)
class AdamW(_Common):
    """AdamW (Loshchilov and Hutter, 2019), for a start the one that needs no search."""

    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-2
    """Weight decay of the parameters that `decayed` names."""
    b1: Rate = 0.9
    """Decay of the mean of gradients."""
    b2: Rate = 0.999
    """Decay of the mean of their squares."""

    def _rule(self, rate, mask):
        return optax.adamw(
            rate, self.b1, self.b2, weight_decay=self.weight_decay, mask=mask
        )


@dataclass(frozen=True)
class Muon(_Common):
    """Muon (Jordan et al., 2024) for kernels but the head's, and NAdamW for the rest.

    A kernel [H, W, I, O] is orthogonalized as a matrix [H * W * I, O]. Updates are
    scaled as in Liu et al., "Muon is Scalable" (2025), section 2.2, so that learning
    rates are those of AdamW.
    """

    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-2
    """Weight decay of the parameters that `decayed` names."""
    momentum: Rate = 0.95
    """Momentum, after Nesterov."""
    iterations: Annotated[int, Range(1, 20)] = 5
    """Newton-Schulz iterations."""
    orthogonalized: str = r"(?<!\bhead/)kernel$"
    """Regular expression for the paths of parameters that Muon updates."""

    def _rule(self, rate, mask):
        chosen = self._mask("orthogonalized")

        def dimensions(params: Any) -> Any:
            of = muon_dimensions(params)
            return jax.tree.map(
                lambda yes, _, d: d if yes else None, chosen(params), params, of
            )

        directions = muon(
            1.0,
            ns_steps=self.iterations,
            beta=self.momentum,
            muon_weight_dimension_numbers=dimensions,
            consistent_rms=0.2,
        )
        # Not muon's own decay, whose mask does not bind its AdamW.
        decay = optax.add_decayed_weights(-self.weight_decay, mask=mask)
        return optax.chain(directions, decay, optax.scale_by_schedule(rate))


Optimizer = SGD | AdamW | Muon


@contextmanager
def _errors_of(option: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise OptionError(f"{option}: {error}") from error
