"""Initializers: filters that pass their input on, and filters that whiten patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcnn import conv
from jcnn.initializers import dirac, whitening


@pytest.mark.parametrize("outputs", [2, 3, 7])
@pytest.mark.parametrize("size", [(3, 3), (5,), (1, 3, 5)])
def test_dirac_filters_return_their_input(size, outputs, rng):
    kernel = dirac(jax.random.key(0), (*size, 3, outputs))
    x = jnp.asarray(rng.normal(size=(2, *[8] * len(size), 3)), jnp.float32)
    y = conv(x, kernel)
    same = min(3, outputs)
    np.testing.assert_array_equal(y[..., :same], x[..., :same])


def test_other_filters_are_uniform_within_the_bound_of_fan_in():
    kernel = np.asarray(dirac(jax.random.key(0), (3, 3, 4, 400)))[..., 4:]
    bound = 1 / np.sqrt(36)
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert kernel.var() == pytest.approx(bound**2 / 3, rel=0.03)


def test_dirac_needs_a_middle():
    with pytest.raises(ValueError, match="kernel must have odd sizes"):
        dirac(jax.random.key(0), (2, 3, 4, 4))


def _smooth_images(rng):
    images = rng.normal(size=(40, 12, 12, 3))
    images += np.roll(images, 1, axis=1) + 2 * np.roll(images, 1, axis=2)
    return images @ rng.normal(size=(3, 3))


def test_whitened_patches_have_the_identity_as_covariance(rng):
    images = _smooth_images(rng)
    shape = (2, 2, 3, 24)
    kernel = whitening(images, epsilon=1e-12)(jax.random.key(0), shape, jnp.float32)
    y = conv(jnp.asarray(images, jnp.float32), kernel, padding="VALID")
    y = np.asarray(y, np.float64).reshape(-1, 24)
    moments = y[:, :12].T @ y[:, :12] / len(y)
    np.testing.assert_allclose(moments, np.eye(12), atol=2e-3)
    np.testing.assert_allclose(y[:, 12:], -y[:, :12], rtol=1e-6)


def test_epsilon_holds_back_what_is_hardly_there(rng):
    images = _smooth_images(rng)
    images[..., 1] = 1.0  # a channel that says nothing
    kernel = whitening(images)(jax.random.key(0), (1, 1, 3, 6), jnp.float32)
    assert np.abs(kernel).max() <= 1 / np.sqrt(5e-4) + 1e-3


@pytest.mark.parametrize("shape", [(2, 2, 3, 12), (2, 2, 1, 8), (2, 3, 6)])
def test_other_kernels_cannot_whiten(shape):
    with pytest.raises(ValueError, match="kernel must be"):
        whitening(np.zeros((2, 8, 8, 3)))(jax.random.key(0), shape, jnp.float32)


def test_whitening_needs_images():
    with pytest.raises(ValueError, match="images must be"):
        whitening(np.zeros((8, 8, 3)))
