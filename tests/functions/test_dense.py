"""Dense, flatten and dropout: against NumPy, closed forms and binomial bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jcnn import dense, dropout, flatten

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.cover(1),
]


def _normal(rng, shape, dtype="float32"):
    return jnp.asarray(rng.normal(size=shape), dtype)


def _assert_is_product(y, x, kernel, bias, dtype):
    """y is x @ kernel + bias but for a rounding of each product, sum and result."""
    x, kernel, bias = (np.asarray(a, np.float64) for a in (x, kernel, bias))
    size = np.abs(x) @ np.abs(kernel) + np.abs(bias)
    eps = float(jnp.finfo(dtype).eps)
    assert y.dtype == dtype and y.shape == size.shape
    error = np.abs(np.asarray(y, np.float64) - (x @ kernel + bias))
    assert (error <= (x.shape[-1] + 2) * eps * size).all()


# --- dense ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 3)])
def test_dense_is_the_product(leading, dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        x = _normal(rng, (*leading, 5), dtype)
        kernel, bias = _normal(rng, (5, 3), dtype), _normal(rng, 3, dtype)
        _assert_is_product(dense(x, kernel, bias), x, kernel, bias, dtype)
        _assert_is_product(dense(x, kernel), x, kernel, np.zeros(3), dtype)


@given(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_dense_is_the_product_for_any_sizes(batch, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    x, kernel = _normal(rng, (batch, inputs)), _normal(rng, (inputs, outputs))
    bias = _normal(rng, outputs)
    _assert_is_product(dense(x, kernel, bias), x, kernel, bias, "float32")


def test_gradients_of_dense_are_the_closed_form(rng):
    x, kernel, bias = _normal(rng, (4, 5)), _normal(rng, (5, 3)), _normal(rng, 3)
    cotangent = _normal(rng, (4, 3))
    _, vjp = jax.vjp(dense, x, kernel, bias)
    to_x, to_kernel, to_bias = vjp(cotangent)
    zero = np.zeros(1)
    _assert_is_product(to_x, cotangent, kernel.T, zero, "float32")
    _assert_is_product(to_kernel, x.T, cotangent, zero, "float32")
    np.testing.assert_allclose(to_bias, cotangent.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_derivatives_of_dense_are_finite_differences(mode, rng):
    with jax.enable_x64(True):
        arrays = [_normal(rng, shape, "float64") for shape in ((2, 4), (4, 3), (3,))]
        check_grads(dense, arrays, order=2, modes=(mode,), atol=1e-6, rtol=1e-6)


def test_dense_under_jit_and_vmap_is_itself(rng):
    x, kernel, bias = _normal(rng, (6, 4, 5)), _normal(rng, (5, 3)), _normal(rng, 3)
    mapped = jax.vmap(dense, in_axes=(0, None, None))(x, kernel, bias)
    _assert_is_product(mapped, x, kernel, bias, "float32")
    _assert_is_product(jax.jit(dense)(x, kernel, bias), x, kernel, bias, "float32")


def test_the_result_may_be_wider_than_the_operands(rng):
    x, kernel = _normal(rng, (4, 64), "bfloat16"), _normal(rng, (64, 3), "bfloat16")
    bias = _normal(rng, 3)
    y = dense(x, kernel, bias, preferred_element_type=jnp.float32)
    _assert_is_product(y, x, kernel, bias, "float32")


def test_precision_reaches_the_product(rng):
    x, kernel = _normal(rng, (4, 5)), _normal(rng, (5, 3))

    def product(precision):
        jaxpr = jax.make_jaxpr(lambda *a: dense(*a, precision=precision))(x, kernel)
        eqns = [e for e in _equations(jaxpr.jaxpr) if e.primitive.name == "dot_general"]
        return [e.params["precision"] for e in eqns]

    highest = jax.lax.Precision.HIGHEST
    assert product("highest") == [(highest, highest)]
    assert product(None) == [None]


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                yield from _equations(value.jaxpr)


@pytest.mark.parametrize("shape", [(4, 3), (5,), (1, 5, 3), ()])
def test_kernels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"kernel must be \[C, O\]"):
        dense(jnp.ones((2, 5)), jnp.ones(shape))


@pytest.mark.parametrize("shape", [(5,), (1,), (), (1, 3)])
def test_biases_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"bias must be of shape \(3,\)"):
        dense(jnp.ones((2, 5)), jnp.ones((5, 3)), jnp.ones(shape))


def test_a_scalar_has_no_features():
    with pytest.raises(ValueError, match="kernel"):
        dense(jnp.float32(1), jnp.ones((1, 3)))


def test_other_dtypes_are_refused():
    kernel = jnp.ones((5, 3))
    with pytest.raises(TypeError, match="x must be floating point, got uint8"):
        dense(jnp.ones((2, 5), jnp.uint8), kernel)
    with pytest.raises(TypeError, match="kernel must be of x's dtype bfloat16"):
        dense(jnp.ones((2, 5), jnp.bfloat16), kernel)


# --- flatten ---


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_flatten_is_row_major_and_keeps_examples_apart(shape):
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    y = flatten(x)
    assert y.shape == (shape[0], np.prod(shape[1:], dtype=int))
    for example, row in zip(x, y, strict=True):
        values = [float(example[place]) for place in np.ndindex(*shape[1:])]
        assert row.tolist() == values


def test_flatten_keeps_the_dtype_and_refuses_scalars():
    assert flatten(jnp.ones((2, 3, 4), jnp.uint8)).dtype == jnp.uint8
    with pytest.raises(ValueError, match="x must be"):
        flatten(jnp.float32(1))


# --- dropout ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_each_value_is_dropped_or_enlarged(rate, dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        x = _normal(rng, (20, 5, 4), dtype)
        y = dropout(x, rate, jax.random.key(1))
        assert y.dtype == x.dtype and y.shape == x.shape
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        tolerance = 2 * float(jnp.finfo(dtype).eps)
        kept = y != 0
        np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=tolerance)
        assert 0 < kept.sum() < kept.size


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.8])
def test_the_number_of_dropped_values_is_binomial(rate):
    n = 40_000
    y = dropout(jnp.ones(n), rate, jax.random.key(2))
    # Five standard deviations: by chance one key in two million.
    bound = 5 * np.sqrt(n * rate * (1 - rate))
    assert abs(int((y == 0).sum()) - n * rate) < bound
    assert abs(float(y.sum()) - n) < bound / (1 - rate)


def test_values_are_dropped_one_by_one():
    y = np.asarray(dropout(jnp.ones((100, 8, 50)), 0.5, jax.random.key(3))) == 0
    for axis in range(3):
        means = y.mean(axis=tuple(a for a in range(3) if a != axis))
        bound = 5 * 0.5 / np.sqrt(y.size / y.shape[axis])
        assert np.abs(means - 0.5).max() < bound
        shifted = np.roll(y, 1, axis)
        assert abs((y == shifted).mean() - 0.5) < 5 * 0.5 / np.sqrt(y.size)


def test_rate_zero_keeps_and_rate_one_drops_everything(rng):
    x = _normal(rng, (4, 5)).at[0, 0].set(jnp.inf)
    key = jax.random.key(4)
    assert np.array_equal(dropout(x, 0, key), x)
    assert np.array_equal(dropout(x, 0.0, key), x)
    assert not dropout(x, 1.0, key).any() and not dropout(x, 1, key).any()
    assert not jax.grad(lambda x: dropout(x, 1.0, key).sum())(_normal(rng, 5)).any()


def test_a_key_decides_the_mask(rng):
    x = _normal(rng, (8, 8))
    first = dropout(x, 0.5, jax.random.key(5))
    assert np.array_equal(first, dropout(x, 0.5, jax.random.key(5)))
    assert not np.array_equal(first, dropout(x, 0.5, jax.random.key(6)))
    # One rounding of the factor lies between eager and compiled arithmetic at most.
    compiled = jax.jit(dropout, static_argnums=1)(x, 0.5, jax.random.key(5))
    assert np.array_equal(first == 0, compiled == 0)
    np.testing.assert_allclose(first, compiled, rtol=1e-6)


def test_the_gradient_of_dropout_is_its_mask(rng):
    x = _normal(rng, (6, 7))
    key = jax.random.key(7)
    mask = dropout(jnp.ones((6, 7)), 0.25, key)
    cotangent = _normal(rng, (6, 7))
    _, vjp = jax.vjp(lambda x: dropout(x, 0.25, key), x)
    np.testing.assert_allclose(vjp(cotangent)[0], mask * cotangent, rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.1, 2, float("nan")])
def test_rates_that_are_no_probability_are_refused(rate):
    with pytest.raises(ValueError, match="rate must be from 0 to 1"):
        dropout(jnp.ones(3), rate, jax.random.key(0))


def test_integers_are_not_dropped():
    with pytest.raises(TypeError, match="x must be floating point, got uint8"):
        dropout(jnp.ones(3, jnp.uint8), 0.5, jax.random.key(0))
