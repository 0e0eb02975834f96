"""Optimistix: least squares and BFGS find the kernels that made the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .small import assert_same_both_ways

optx = pytest.importorskip("optimistix")


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


def _network(convolve, params, x):
    first, second = params
    return convolve(convolve(x, first), second)


@pytest.mark.parametrize("kind", ("least squares", "BFGS"))
def test_a_fit_is_laxs(kind, rng):
    shapes = ((3, 2, 3), (1, 3, 2))
    true = [jnp.asarray(rng.normal(size=shape), "float32") for shape in shapes]
    start = [a + jnp.asarray(0.1 * rng.normal(size=a.shape), "float32") for a in true]
    x = jnp.asarray(rng.normal(size=(4, 12, 2)), "float32")

    def fit(convolve, true, start, x):
        y = _network(convolve, true, x)

        def residuals(params, _):
            return _network(convolve, params, x) - y

        if kind == "BFGS":
            solver = optx.BFGS(rtol=1e-5, atol=1e-5)
            solved = optx.minimise(
                lambda p, _: jnp.sum(residuals(p, None) ** 2), solver, start
            )
        else:
            solver = optx.LevenbergMarquardt(rtol=1e-5, atol=1e-5)
            solved = optx.least_squares(residuals, solver, start)
        # The kernels themselves are free: only their product is determined.
        return _network(convolve, solved.value, x), y

    fitted, y = assert_same_both_ways(fit, true, start, x, tolerance=1e-3)
    np.testing.assert_allclose(fitted, y, atol=1e-3 * np.abs(y).max())
