"""Optimizers of the command line, from optax: each a dataclass with what it needs.

A config has a field such as `optimizer: Optimizer = SGD(0.1)`; then the command line
takes `--optimizer.learning-rate 0.2`, or `optimizer:muon` for another one. Called with
the number of steps, an optimizer gives optax's transformation, so it is the `tx` of a
`Recipe` as it is. Rates and decays may be arrays, also traced ones.

>>> tx = SGD(learning_rate=0.2, weight_decay=5e-4)(num_steps=100)
>>> hasattr(tx, "update")
True
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from .._layer import leaf_name
from .._shapes import integer
from ..layers import Params
from ..train import mask_by_path
from .config import Count, NonNegative, OptionError, Positive, Range, Rate
from .schedule import Schedule, make_schedule


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


def muon_dimensions(params: Any) -> Any:
    """Return optax's dimension numbers for kernels [*size, I, O]; None for vectors.

    >>> muon_dimensions({"kernel": jnp.zeros((3, 3, 2, 4)), "bias": jnp.zeros(4)})
    {'bias': None,
     'kernel': MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)}
    """

    def of(param):
        last = param.ndim - 1
        return MuonDimensionNumbers(tuple(range(last)), last) if last > 0 else None

    return jax.tree.map(of, params)


def keep_norm() -> optax.GradientTransformation:
    """Return a rescaling of kernels [*size, I, O] to norm sqrt(O) before the update.

    As Jordan's "airbench94_muon" does: only the directions of filters are learnt.

    >>> tx, kernel = keep_norm(), jnp.full((2, 4), 3.0)
    >>> updates, _ = tx.update(jnp.zeros((2, 4)), tx.init(kernel), kernel)
    >>> float(jnp.linalg.norm(kernel + updates))
    2.0
    """

    def rescale(update: jax.Array, param: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.sum(param**2))
        return update + param * (param.shape[-1] ** 0.5 / norm - 1)

    return optax.stateless(
        lambda updates, params: jax.tree.map(rescale, updates, params)
    )


class FullMatrixState(NamedTuple):
    step: jax.Array
    mean: jax.Array  # [N], of gradients
    square: jax.Array  # [N], of gradients in the basis
    covariance: jax.Array  # [N, N], of gradients
    basis: jax.Array  # [N, N], eigenvectors of the covariance as columns


def full_matrix_adam(
    rate: optax.Schedule,
    *,
    every: int = 50,
    b1: float = 0.9,
    b2: float = 0.99,
    covariance_decay: float = 0.995,
) -> optax.GradientTransformation:
    """Return Adam in the eigenbasis of the covariance of all gradients together.

    SOAP (Vyas et al., 2024, section 4) with all parameters as one vector, for networks
    of at most a few thousand: memory grows with the square of their number N, the time
    to renew the basis with its cube.

    Args:
        rate: Learning rate of each step.
        every: Steps between two bases, at least 1; the first one is that of the
            parameters.
        b1: Decay of the mean of gradients.
        b2: Decay of the mean of their squares in the basis.
        covariance_decay: Decay of the covariance.

    Raises:
        TypeError: If `every` is not an integer.
        ValueError: If it is less than 1.

    >>> tx, params = full_matrix_adam(optax.constant_schedule(0.1)), {"x": jnp.ones(2)}
    >>> updates, _ = tx.update({"x": jnp.array([3.0, -2.0])}, tx.init(params), params)
    >>> updates["x"].round(3)  # as Adam's first one
    Array([-0.1,  0.1], dtype=float32)
    """

    every = integer("every", every, minimum=1)

    def init(params: Any) -> FullMatrixState:
        n = params.size
        return FullMatrixState(
            jnp.int32(0), jnp.zeros(n), jnp.zeros(n), jnp.zeros((n, n)), jnp.eye(n)
        )

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        step, mean, square, covariance, basis = state
        step = step + 1
        mean = b1 * mean + (1 - b1) * updates
        outer = jnp.outer(updates, updates)
        covariance = covariance_decay * covariance + (1 - covariance_decay) * outer

        def renewed(square: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
            new = jnp.linalg.eigh(covariance)[1]
            return (new.T @ basis) ** 2 @ square, new

        square, basis = jax.lax.cond(
            step % every == 0, renewed, lambda *same: same, square, basis
        )
        square = b2 * square + (1 - b2) * (updates @ basis) ** 2
        scale = jnp.sqrt(square / (1 - b2**step)) + 1e-8
        direction = basis @ (mean @ basis / (1 - b1**step) / scale)
        new = FullMatrixState(step, mean, square, covariance, basis)
        return -jnp.asarray(rate(step - 1)) * direction, new

    return optax.flatten(optax.GradientTransformation(init, update))


def by_path(
    rules: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Return the transformation that treats each parameter by the first rule for it.

    Args:
        rules: From regular expressions, searched for in paths such as "conv1/kernel",
            to transformations.

    Raises:
        ValueError: When used, if no expression fits a parameter, or one fits none.

    >>> tx = by_path({"bias$": optax.set_to_zero(), "": optax.sgd(1.0)})
    >>> params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> jax.tree.map(float, jax.tree.map(jnp.sum, updates))
    {'bias': 0.0, 'kernel': -1.0}
    """
    masks = {pattern: mask_by_path(pattern) for pattern in rules}

    def label(path, _, *fits):
        if True not in fits:
            raise ValueError(
                f"rules must fit every parameter, got none for {leaf_name(path)!r}: "
                f"{list(rules)}"
            )
        return list(masks)[fits.index(True)]

    def labels(params: Any) -> Any:
        fits = [mask(params) for mask in masks.values()]
        return jax.tree.map_with_path(label, params, *fits)

    return optax.partition(dict(rules), labels)  # pyright: ignore


def with_lookahead(
    tx: optax.GradientTransformation, period: int, *, step_size: float = 0.5
) -> optax.GradientTransformation:
    """Return optax's lookahead with its slow parameters kept in the optimizer's state.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019).

    Args:
        tx: The optimizer of the fast parameters.
        period: Every so many steps both parameters become equal.
        step_size: How far the slow ones move towards the fast ones.

    >>> tx = with_lookahead(optax.sgd(1.0), period=2)
    >>> p = jnp.array(0.0)
    >>> state = tx.init(p)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array(-1.0), state, p)
    ...     p = p + updates
    >>> float(p)
    1.0
    """
    inner: Any = optax.lookahead(tx, period, step_size)

    def init(params):
        slow = jax.tree.map(jnp.copy, params)  # steps donate both
        return inner.init(optax.LookaheadParams(params, slow)), slow

    def update(updates, state, params: Any = None):
        state, slow = state
        both = optax.LookaheadParams(params, slow)
        updates, state = inner.update(updates, state, both)
        return updates.fast, (state, optax.apply_updates(slow, updates.slow))

    return optax.GradientTransformation(init, update)
