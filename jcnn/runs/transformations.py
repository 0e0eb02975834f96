"""Transformations of gradients, to be combined with those of optax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from .._layer import leaf_name
from .._shapes import integer
from ..train import mask_by_path


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
