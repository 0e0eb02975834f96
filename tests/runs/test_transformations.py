"""Transformations of gradients, against NumPy loops from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcnn.runs import by_path, full_matrix_adam


def test_the_first_rule_that_fits_is_taken_and_none_is_an_error(rng):
    params, grads = (
        {n: {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)} for n in of}
        for of in [("conv", "head")] * 2
    )
    rules = {"^conv/bias": optax.sgd(1.0), "bias$": optax.sgd(2.0), "^": optax.sgd(3.0)}
    tx = by_path(rules)
    updates, _ = tx.update(grads, tx.init(params), params)
    rates = {"conv": {"bias": 1.0, "kernel": 3.0}, "head": {"bias": 2.0, "kernel": 3.0}}
    for rate, grad, update in zip(*map(jax.tree.leaves, (rates, grads, updates))):
        np.testing.assert_allclose(update, -rate * grad, rtol=1e-6)
    with pytest.raises(ValueError, match="rules must fit every parameter.*head/kernel"):
        by_path({"bias$": optax.sgd(1.0), "conv": optax.sgd(1.0)}).init(params)
    with pytest.raises(ValueError, match=r"pattern must be a regular.*'\('"):
        by_path({"(": optax.sgd(1.0)})


def test_full_matrix_adam_is_adam_in_the_basis_of_the_gradients(rng):
    n, every, b1, b2, decay = 5, 6, 0.8, 0.9, 0.7  # no basis before full rank
    rates = rng.uniform(0.01, 0.1, size=14)
    rate = jnp.asarray(rates, jnp.float32).__getitem__
    tx = full_matrix_adam(rate, every=every, b1=b1, b2=b2, covariance_decay=decay)
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(1)}
    state, update = tx.init(params), jax.jit(tx.update, donate_argnums=1)
    mean, covariance, basis = np.zeros(n), np.zeros((n, n)), np.eye(n)
    second = np.zeros((n, n))  # diagonal in the basis
    for t, gradient in enumerate(rng.normal(size=(14, n)) * np.arange(1, n + 1), 1):
        mean = b1 * mean + (1 - b1) * gradient
        covariance = decay * covariance + (1 - decay) * np.outer(gradient, gradient)
        if t % every == 0:
            basis = np.linalg.eigh(covariance)[1]
        # What is not on the diagonal of the new basis is forgotten.
        own = basis.T @ second @ basis
        coordinates = basis.T @ gradient
        squares = b2 * np.diag(own) + (1 - b2) * coordinates**2
        second = basis @ np.diag(squares) @ basis.T
        unbiased = basis.T @ mean / (1 - b1**t)
        expected = -rates[t - 1] * basis @ (unbiased / np.sqrt(squares / (1 - b2**t)))
        grads = {
            "a": jnp.asarray(gradient[:4].reshape(2, 2), jnp.float32),
            "b": jnp.asarray(gradient[4:], jnp.float32),
        }
        updates, state = update(grads, state, params)
        got = np.concatenate([np.ravel(updates["a"]), updates["b"]])
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_bases_are_renewed_after_whole_numbers_of_steps():
    rate = optax.constant_schedule(0.1)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        full_matrix_adam(rate, every=0)
    with pytest.raises(TypeError, match="every must be an integer, got 2.5"):
        full_matrix_adam(rate, every=2.5)  # pyright: ignore
