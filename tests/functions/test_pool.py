"""Pools: against loops over the windows' values, PyTorch and finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jcnn import avg_pool, global_avg_pool, global_max_pool, max_pool, min_pool

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.cover(2),
]

POOLS = [max_pool, min_pool, avg_pool]
DTYPES = ["float32", "bfloat16", "float64"]
SIZES = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}


def _tolerance(dtype, count, largest):
    """Of a mean of `count` values: one rounding for each, and one of the result.

    Sums are taken in float32 at least, so only the result is rounded to bfloat16.
    Maxima and minima are not rounded at all.
    """
    wide = jnp.finfo("float64" if dtype == "float64" else "float32").eps
    return float((count * wide + jnp.finfo(dtype).eps) * largest)


def _starts(n, k, s, low, high, ceil_mode):
    """Where windows begin, in pixels of x, one after the other from the definition."""
    starts = [-low]
    while starts[-1] + s + k <= n + high:
        starts.append(starts[-1] + s)
    if ceil_mode and starts[-1] + k < n + high and starts[-1] + s < n:
        starts.append(starts[-1] + s)
    return starts


def _same(n, k, s, lower):
    total = max((-(-n // s) - 1) * s + k - n, 0)
    half, rest = total // 2, total - total // 2
    return (rest, half) if lower else (half, rest)


def _pairs(padding, sizes, window, strides):
    if padding == "VALID":
        return [(0, 0)] * len(sizes)
    if padding in ("SAME", "SAME_LOWER"):
        lower = padding == "SAME_LOWER"
        return [_same(n, k, s, lower) for n, k, s in zip(sizes, window, strides)]
    if isinstance(padding, int):
        return [(padding, padding)] * len(sizes)
    return [(p, p) if isinstance(p, int) else p for p in padding]


def _pool_loop(
    pool,
    x,
    window,
    *,
    strides=None,
    padding="VALID",
    ceil_mode=False,
    count_include_pad=False,
):
    """The pool of x in float64, window by window and value by value."""
    x = np.asarray(x, np.float64)
    sizes, rank = x.shape[1:-1], x.ndim - 2
    window = (window,) * rank if isinstance(window, int) else window
    strides = window if strides is None else strides
    strides = (strides,) * rank if isinstance(strides, int) else strides
    pairs = _pairs(padding, sizes, window, strides)
    starts = [
        _starts(n, k, s, *pair, ceil_mode)
        for n, k, s, pair in zip(sizes, window, strides, pairs)
    ]
    y = np.zeros((x.shape[0], *map(len, starts), x.shape[-1]))
    for place in np.ndindex(*map(len, starts)):
        values, zeros = [], 0
        corner = [axis[i] for axis, i in zip(starts, place)]
        for tap in np.ndindex(*window):
            pixel = [c + t for c, t in zip(corner, tap)]
            if all(0 <= p < n for p, n in zip(pixel, sizes)):
                values.append(x[(slice(None), *pixel)])
            elif all(-lo <= p < n + hi for p, n, (lo, hi) in zip(pixel, sizes, pairs)):
                zeros += 1
        index = (slice(None), *place)
        if pool is avg_pool:
            count = len(values) + (zeros if count_include_pad else 0)
            y[index] = sum(values) / count
        else:
            y[index] = (np.max if pool is max_pool else np.min)(values, axis=0)
    return y


def _assert_is_loop(pool, x, window, **options):
    expected = _pool_loop(pool, x, window, **options)
    got = pool(x, window, **options)
    assert got.shape == expected.shape and got.dtype == x.dtype
    exact = pool is not avg_pool
    count = np.prod(window if isinstance(window, tuple) else (window,) * (x.ndim - 2))
    atol = 0 if exact else _tolerance(x.dtype.name, count, np.abs(x).max())
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=atol)


def _normal(rng, shape, dtype="float32"):
    return jnp.asarray(rng.normal(size=shape), dtype)


def _torch():
    torch = pytest.importorskip("torch")
    return torch, torch.nn.functional


def _to_torch(x):
    torch, _ = _torch()
    x = np.moveaxis(np.asarray(x), -1, 1)
    return torch.tensor(np.ascontiguousarray(x), requires_grad=True)


def _from_torch(t):
    return np.moveaxis(t.detach().numpy(), 1, -1)


def _torch_pool(pool, rank):
    """PyTorch's pool; it has no minimum, which is the maximum of what is turned."""
    _, functional = _torch()
    if pool is avg_pool:
        return getattr(functional, f"avg_pool{rank}d")
    maximum = getattr(functional, f"max_pool{rank}d")
    if pool is max_pool:
        return maximum
    return lambda x, *args, **options: -maximum(-x, *args, **options)


# --- values ---


@pytest.mark.parametrize("strides", [None, 1, 2, 3])
@pytest.mark.parametrize("padding", ["VALID", "SAME", "SAME_LOWER", 1])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("pool", POOLS)
def test_pool_is_the_loop_over_windows(pool, rank, padding, strides, rng):
    x = _normal(rng, (2, *SIZES[rank], 2))
    window = (3, 2, 2)[:rank] if padding != "SAME_LOWER" else 2
    _assert_is_loop(pool, x, window, strides=strides, padding=padding)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("padding", [((2, 0), (0, 1)), ((0, 1), (2, 1)), (2, 1)])
def test_pairs_pad_each_side_by_itself(padding, ceil_mode, include, rng):
    x = _normal(rng, (1, 5, 6, 2))
    options = {"strides": (2, 3), "padding": padding, "ceil_mode": ceil_mode}
    for pool in (max_pool, min_pool):
        _assert_is_loop(pool, x, (3, 3), **options)
    _assert_is_loop(avg_pool, x, (3, 3), **options, count_include_pad=include)


def test_strings_of_padding_may_be_lower_case(rng):
    x = _normal(rng, (1, 5, 2))
    assert np.array_equal(
        max_pool(x, 2, padding="same"), max_pool(x, 2, padding="SAME")
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pool", POOLS)
def test_dtype_is_kept(pool, dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        x = _normal(rng, (2, 6, 5, 3), dtype)
        assert x.dtype == dtype
        _assert_is_loop(pool, x, (3, 2), strides=2, padding=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_means_of_large_windows_are_summed_in_float32(dtype, rng):
    x = jnp.asarray(rng.uniform(50, 100, (1, 48, 48, 2)), dtype)
    expected = np.asarray(x, np.float64).mean((1, 2))
    tolerance = _tolerance(dtype, 48 * 48, 100)
    for mean in (avg_pool(x, 48)[:, 0, 0], global_avg_pool(x)):
        assert mean.dtype == dtype
        assert np.abs(np.asarray(mean, np.float64) - expected).max() <= tolerance


_AXIS = st.tuples(
    st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2)
)


def _drawn(axes):
    """Sizes, windows, strides and paddings that PyTorch takes."""
    sizes, window, strides, padding = zip(*axes)
    for n, k, p in zip(sizes, window, padding):
        assume(p <= k // 2 and n + 2 * p >= k)
    return sizes, window, strides, padding


@pytest.mark.parametrize("pool", [max_pool, min_pool])
@given(st.lists(_AXIS, min_size=1, max_size=3), st.booleans(), st.integers(0, 99))
def test_extremes_are_torchs_for_any_sizes(pool, axes, ceil_mode, seed):
    sizes, window, strides, padding = _drawn(axes)
    x = _normal(np.random.default_rng(seed), (1, *sizes, 2))
    expected = _torch_pool(pool, len(sizes))(
        _to_torch(x), window, strides, padding, ceil_mode=ceil_mode
    )
    got = pool(x, window, strides=strides, padding=padding, ceil_mode=ceil_mode)
    assert np.array_equal(got, _from_torch(expected))


@given(
    st.lists(_AXIS, min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_means_are_torchs_for_any_sizes(axes, ceil_mode, include, seed):
    sizes, window, strides, padding = _drawn(axes)
    x = _normal(np.random.default_rng(seed), (1, *sizes, 2))
    expected = _from_torch(
        _torch_pool(avg_pool, len(sizes))(
            _to_torch(x), window, strides, padding, ceil_mode, include
        )
    )
    got = avg_pool(
        x,
        window,
        strides=strides,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=include,
    )
    assert got.shape == expected.shape
    tolerance = 2 * _tolerance("float32", np.prod(window), np.abs(x).max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@given(
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_pools_are_the_loop_for_any_sizes(n, k, s, low, high, ceil, include, seed):
    assume(low < k and high < k and n + low + high >= k)
    x = _normal(np.random.default_rng(seed), (1, n, 1))
    options = {"strides": s, "padding": ((low, high),), "ceil_mode": ceil}
    _assert_is_loop(max_pool, x, k, **options)
    _assert_is_loop(avg_pool, x, k, **options, count_include_pad=include)


# --- NaN and infinity ---

_NAN, _INF = float("nan"), float("inf")
_SPECIAL = [1, _NAN, 2, -_INF, -_INF, -_INF, _NAN, _NAN, 0, _INF, _INF, -_INF, 3, 5, 4]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("pool", POOLS)
def test_nan_spreads_and_infinity_counts_as_in_torch(pool, padding):
    x = jnp.array(_SPECIAL).reshape(1, -1, 1)
    expected = _torch_pool(pool, 1)(_to_torch(x), 3, 2, padding)
    # PyTorch counts the padding of averages where it is not told otherwise.
    options = {"count_include_pad": True} if pool is avg_pool else {}
    got = pool(x, 3, strides=2, padding=padding, **options)
    np.testing.assert_allclose(got, _from_torch(expected), rtol=1e-6)
    assert np.isnan(got).any() and not np.isnan(got).all()


def test_windows_without_nan_do_not_see_it():
    x = jnp.array([_NAN, 1, 2, 3, _NAN, 4]).reshape(1, 6, 1)
    assert [np.isnan(v) for v in max_pool(x, 2).ravel()] == [True, False, True]
    assert [np.isnan(v) for v in min_pool(x, 2).ravel()] == [True, False, True]


# --- gradients ---


@pytest.mark.parametrize(
    ("window", "strides", "padding", "ceil_mode"),
    [(2, 2, 0, False), (3, 1, 1, False), (3, 2, 1, True), (2, 3, 0, True)],
)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("pool", POOLS)
def test_gradients_are_torchs_with_ties(
    pool, rank, window, strides, padding, ceil_mode, rng
):
    # Few different values: most windows hold their maximum more than once.
    x = jnp.asarray(rng.integers(0, 3, (2, *SIZES[rank], 2)), jnp.float32)
    options = {"ceil_mode": ceil_mode}
    if pool is avg_pool:
        options["count_include_pad"] = True
    t = _to_torch(x)
    y = _torch_pool(pool, rank)(t, window, strides, padding, **options)
    cotangent = rng.normal(size=_from_torch(y).shape).astype(np.float32)
    y.backward(_to_torch(cotangent))
    _, vjp = jax.vjp(
        lambda x: pool(x, window, strides=strides, padding=padding, **options), x
    )
    (got,) = vjp(jnp.asarray(cotangent))
    # A pixel gets from the 27 windows that see it at most, in any order.
    tolerance = _tolerance("float32", 27, 27 * np.abs(cotangent).max())
    np.testing.assert_allclose(got, _from_torch(t.grad), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("values", "weights"),
    [([2, 2, 1], [1, 0, 0]), ([1, 2, 2], [0, 1, 0]), ([0, 0, 0], [1, 0, 0])],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_of_equal_values_gets_all(values, weights, sign):
    pool = max_pool if sign == 1 else min_pool
    x = sign * jnp.array(values, jnp.float32).reshape(1, 3, 1)
    grad = jax.grad(lambda x: pool(x, 3).sum())(x)
    assert grad.ravel().tolist() == weights
    tangents = jnp.array([3.0, 5.0, 7.0]).reshape(1, 3, 1)
    _, tangent = jax.jvp(lambda x: pool(x, 3), (x,), (tangents,))
    assert float(tangent.squeeze()) == np.dot(weights, [3, 5, 7])


def test_the_first_in_row_major_order_wins_in_two_dimensions():
    x = jnp.array([[0.0, 1.0], [1.0, 1.0]]).reshape(1, 2, 2, 1)
    grad = jax.grad(lambda x: max_pool(x, 2).sum())(x)
    assert grad.ravel().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("pool", [max_pool, min_pool])
def test_padding_never_wins_against_infinity(pool):
    worst = -_INF if pool is max_pool else _INF
    x = jnp.full((1, 5, 1), worst)
    assert (pool(x, 3, strides=1, padding=1) == worst).all()


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("pool", POOLS)
def test_derivatives_are_finite_differences(pool, mode, rng):
    with jax.enable_x64(True):
        # Distances of 1 between values keep their order under the differences.
        values = rng.permutation(2 * 5 * 4 * 2).reshape(2, 5, 4, 2)
        x = jnp.asarray(values / 10, jnp.float64)

        def curved(x):
            y = pool(x, (3, 2), strides=(2, 1), padding=(1, 0), ceil_mode=True)
            return jnp.sin(y)

        check_grads(curved, (x,), order=2, modes=(mode,), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", [max_pool, min_pool])
def test_second_derivatives_are_those_of_the_winners(pool, rng):
    x = _normal(rng, (1, 6, 1))
    hessian = jax.hessian(lambda x: (pool(x, 2) ** 3).sum())(x).reshape(6, 6)
    expected = np.zeros((6, 6))
    for i in range(0, 6, 2):
        pair = np.asarray(x[0, i : i + 2, 0])
        j = i + int((np.argmax if pool is max_pool else np.argmin)(pair))
        expected[j, j] = 6 * x[0, j, 0]
    np.testing.assert_allclose(hessian, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("pool", POOLS)
def test_gradients_have_the_dtype_of_x(pool, dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        x = _normal(rng, (1, 4, 4, 1), dtype)
        grad = jax.grad(lambda x: pool(x, 2).sum())(x)
        assert grad.dtype == dtype
        assert np.asarray(grad, np.float64).sum() == 4  # one for each window


# --- transformations ---


@pytest.mark.parametrize("pool", POOLS)
def test_vmap_is_the_loop_over_what_is_mapped(pool, rng):
    x = _normal(rng, (3, 2, 5, 2))
    function = lambda x: pool(x, 3, strides=2, padding=1)  # noqa: E731
    expected = jnp.stack([function(row) for row in x])
    assert np.array_equal(jax.vmap(function)(x), expected)
    outer = jax.vmap(function, in_axes=2, out_axes=1)(jnp.moveaxis(x, 0, 2))
    assert np.array_equal(outer, jnp.moveaxis(expected, 0, 1))


@pytest.mark.parametrize("pool", POOLS)
def test_vmap_of_the_gradient_is_the_loop(pool, rng):
    x = _normal(rng, (3, 2, 5, 2))
    grad = jax.grad(lambda x: (pool(x, 3, strides=2, padding=1) ** 2).sum())
    expected = jnp.stack([grad(row) for row in x])
    np.testing.assert_allclose(jax.vmap(grad)(x), expected, rtol=1e-6)


@pytest.mark.parametrize("pool", POOLS)
def test_jit_changes_nothing(pool, rng):
    x = _normal(rng, (2, 5, 5, 2))
    function = lambda x: pool(x, 2, strides=2, padding=1)  # noqa: E731
    assert np.array_equal(jax.jit(function)(x), function(x))


# --- global pools ---


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pools_are_numpys(rank, rng):
    x = _normal(rng, (2, *SIZES[rank], 3))
    axes = tuple(range(1, rank + 1))
    assert np.array_equal(global_max_pool(x), np.max(x, axes))
    expected = np.mean(np.asarray(x, np.float64), axes)
    tolerance = _tolerance("float32", np.prod(SIZES[rank]), np.abs(x).max())
    np.testing.assert_allclose(global_avg_pool(x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("pool", [global_max_pool, global_avg_pool])
def test_global_pools_keep_the_dtype_and_spread_nan(pool, rng):
    x = _normal(rng, (2, 3, 4, 2), "bfloat16")
    assert pool(x).dtype == jnp.bfloat16 and pool(x).shape == (2, 2)
    spoilt = pool(x.at[0, 1, 2, 0].set(_NAN))
    assert np.isnan(np.asarray(spoilt, np.float32)).tolist() == [[True, False]] + [
        [False, False]
    ]


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("pool", [global_max_pool, global_avg_pool])
def test_derivatives_of_global_pools_are_finite_differences(pool, mode, rng):
    with jax.enable_x64(True):
        x = jnp.asarray(rng.permutation(24).reshape(2, 2, 3, 2) / 10, jnp.float64)
        check_grads(lambda x: jnp.sin(pool(x)), (x,), order=2, modes=(mode,), atol=1e-5)


# --- edges of what is allowed ---


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("pool", POOLS)
def test_batches_of_none_and_one(pool, batch, rng):
    x = _normal(rng, (batch, 5, 2))
    y, vjp = jax.vjp(lambda x: pool(x, 2, strides=1, padding=1), x)
    assert y.shape == (batch, 6, 2)
    assert vjp(y)[0].shape == x.shape
    if batch:
        _assert_is_loop(pool, x, 2, strides=1, padding=1)
    assert global_avg_pool(x).shape == global_max_pool(x).shape == (batch, 2)


@pytest.mark.parametrize("pool", POOLS)
def test_the_window_may_be_the_whole_image_and_one_pixel(pool, rng):
    x = _normal(rng, (2, 4, 3, 2))
    _assert_is_loop(pool, x, (4, 3))
    assert np.array_equal(pool(x, 1), x)


def test_lists_and_numpys_integers_are_sizes_too(rng):
    x = _normal(rng, (1, 5, 5, 1))
    expected = max_pool(x, (2, 2), strides=(1, 1), padding=((1, 0), (1, 0)))
    got = max_pool(x, [np.int64(2), 2], strides=np.int32(1), padding=[[1, 0], (1, 0)])
    assert np.array_equal(got, expected)


_BAD_VALUES = [
    ({"window_shape": 6}, "window of 6"),
    ({"window_shape": 3, "padding": 3}, "padding.*3"),
    ({"window_shape": (2, 3), "padding": ((0, 0), (0, 3))}, r"padding.*\(0, 3\)"),
    ({"window_shape": 2, "padding": -1}, "padding.*-1"),
    ({"window_shape": 2, "padding": "FULL"}, "padding.*'FULL'"),
    ({"window_shape": 2, "padding": (1,)}, "padding"),
    ({"window_shape": 2, "padding": ((1, 0, 0), 1)}, "padding"),
    ({"window_shape": 0}, "window_shape.*0"),
    ({"window_shape": -2}, "window_shape.*-2"),
    ({"window_shape": (2,)}, "window_shape.*2"),
    ({"window_shape": (2, 2, 2)}, "window_shape.*2"),
    ({"window_shape": 2, "strides": 0}, "strides.*0"),
    ({"window_shape": 2, "strides": (1, -1)}, "strides.*-1"),
    ({"window_shape": 2, "strides": (1, 1, 1)}, "strides"),
]


@pytest.mark.parametrize(("options", "message"), _BAD_VALUES)
@pytest.mark.parametrize("pool", POOLS)
def test_arguments_that_do_not_fit_are_refused(pool, options, message):
    with pytest.raises(ValueError, match=message):
        pool(jnp.zeros((1, 5, 5, 1)), **options)


@pytest.mark.parametrize("name", ["window_shape", "strides", "padding"])
@pytest.mark.parametrize("value", [1.0, None, True, (1.0, 1)])
@pytest.mark.parametrize("pool", POOLS)
def test_what_is_no_integer_is_refused(pool, name, value):
    if name == "strides" and value is None:
        pytest.skip("strides=None is the window's shape")
    with pytest.raises(TypeError, match=name):
        pool(jnp.zeros((1, 5, 5, 1)), **{"window_shape": 2, name: value})


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (1, 2, 2, 2, 2, 1)])
@pytest.mark.parametrize("pool", [*POOLS, global_max_pool, global_avg_pool])
def test_arrays_of_another_rank_are_refused(pool, shape):
    arguments = (2,) if pool in POOLS else ()
    with pytest.raises(ValueError, match="x must be"):
        pool(jnp.zeros(shape), *arguments)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize("pool", [*POOLS, global_max_pool, global_avg_pool])
def test_integers_are_refused(pool, dtype):
    arguments = (2,) if pool in POOLS else ()
    with pytest.raises(TypeError, match=f"x must be floating point, got {dtype}"):
        pool(jnp.zeros((1, 4, 4, 1), dtype), *arguments)


@pytest.mark.parametrize("pool", [global_max_pool, global_avg_pool])
def test_images_without_pixels_have_no_extreme_and_no_mean(pool):
    with pytest.raises(ValueError, match="x must not be empty"):
        pool(jnp.zeros((1, 0, 4, 1)))


@pytest.mark.parametrize("pool", POOLS)
def test_windows_that_see_only_padding_are_refused(pool):
    with pytest.raises(ValueError, match="x must not be empty|window"):
        pool(jnp.zeros((1, 0, 1)), 2, padding=1)


def test_the_oracle_counts_as_written_by_hand():
    x = np.arange(1.0, 6).reshape(1, 5, 1)
    options = {"strides": 2, "padding": 1, "ceil_mode": True}
    assert _pool_loop(max_pool, x, 2, **options).ravel().tolist() == [1, 3, 5]
    means = _pool_loop(avg_pool, x, 2, **options, count_include_pad=True)
    assert means.ravel().tolist() == [0.5, 2.5, 4.5]
    for options in itertools.product(("SAME", "SAME_LOWER"), (1, 2, 3)):
        padding, strides = options
        y = _pool_loop(max_pool, x, 3, strides=strides, padding=padding)
        assert y.shape[1] == -(-5 // strides)
