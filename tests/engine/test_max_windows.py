"""Gradients of the maximum of windows against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jcnn.engine.pools.maxima import max_windows
from jcnn.engine.pools.windows import Windows

pytestmark = [pytest.mark.usefixtures("full_compilation"), pytest.mark.cover(1)]

NONE = (0, 0)
SIZE = (2, 9, 8, 3)
WINDOWS = [
    Windows(SIZE, (1, 2, 2, 1), (1, 2, 2, 1), (NONE, NONE, NONE, NONE)),
    Windows(SIZE, (1, 3, 3, 1), (1, 2, 2, 1), (NONE, (1, 1), (0, 1), NONE)),
    Windows(SIZE, (1, 3, 2, 1), (1, 1, 1, 1), (NONE, (1, 1), (0, 1), NONE)),
    Windows(SIZE, (1, 2, 2, 1), (1, 3, 2, 1), (NONE, (1, 0), NONE, NONE)),
]


def _by_lax(x, windows):
    return lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, *windows[1:])


@pytest.mark.parametrize("windows", WINDOWS, ids=str)
@pytest.mark.parametrize("odd", ["ties", "NaN", "-inf"])
def test_gradient_is_select_and_scatters(windows, odd, rng):
    x = np.maximum(rng.standard_normal((2, 9, 8, 3)), 0).astype(np.float32)
    if odd == "NaN":
        x[rng.random(x.shape) < 0.2] = np.nan
    if odd == "-inf":
        x[rng.random(x.shape) < 0.8] = -np.inf
    y, pull_back = jax.vjp(lambda x: max_windows(x, windows), x)
    expected_y, expected_pull_back = jax.vjp(lambda x: _by_lax(x, windows), x)
    assert np.array_equal(y, expected_y, equal_nan=True)
    g = rng.standard_normal(y.shape).astype(np.float32)
    (got,), (expected,) = pull_back(g), expected_pull_back(g)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_other_transformations_agree_with_laxs(windows, rng):
    x = rng.permutation(2 * 9 * 8 * 3).reshape(2, 9, 8, 3).astype(np.float32)
    t = rng.standard_normal(x.shape).astype(np.float32)

    def curved(pool, x):
        return jnp.sum(jnp.sin(pool(x, windows) / 50))

    for transformed in (
        lambda pool: jax.jvp(lambda x: pool(x, windows), (x,), (t,))[1],
        lambda pool: jax.vmap(jax.grad(lambda x: curved(pool, x)))(jnp.stack([x, -x])),
        lambda pool: jax.jvp(jax.grad(lambda x: curved(pool, x)), (x,), (t,))[1],
        lambda pool: jax.grad(jax.checkpoint(lambda x: curved(pool, x)))(x),
        lambda pool: jax.jit(jax.grad(lambda x: curved(pool, x)))(x),
    ):
        np.testing.assert_allclose(
            transformed(max_windows), transformed(_by_lax), atol=1e-5, rtol=1e-5
        )


def test_other_platforms_keep_laxs_gradient():
    from jax import export

    gradient = jax.jit(jax.grad(lambda x: max_windows(x, WINDOWS[0]).sum()))
    x = jax.ShapeDtypeStruct(SIZE, jnp.float32)
    on_tpu = export.export(gradient, platforms=["tpu"])(x).mlir_module()
    on_cpu = export.export(gradient, platforms=["cpu"])(x).mlir_module()
    assert "stablehlo.select_and_scatter" in on_tpu
    assert "stablehlo.select_and_scatter" not in on_cpu
