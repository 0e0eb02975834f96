"""The rule for dtypes of `jcnn/_dtypes.py`, drawn against all functions."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import jcnn
from jcnn.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    GroupNorm,
    LayerNorm,
)

pytestmark = pytest.mark.cover(1)

KEY = jax.random.key(3)
SHORT = ["bfloat16", "float16"]
FLOAT8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"]
REAL = [*FLOAT8, *SHORT, "float32", "float64"]
COMPLEX = ["complex64", "complex128"]
X64_TOO = ["bfloat16", "float32", "complex64"]  # tried with and without x64
WITHOUT_ORDER = "conv conv_transpose depthwise_conv dense im2col col2im".split()
WITHOUT_ORDER += ["avg_pool", "global_avg_pool", "dropout", "flatten"]


def _functions():
    """Each function of x [2, 6, 4], its other arrays drawn in x's dtype."""

    def with_kernel(function, *shape, **options):
        return lambda x, draw: function(x, draw(*shape), draw(shape[-1]), **options)

    def norm(function, **options):
        return lambda x, draw: function(x, draw(4), draw(4), **options)

    def batch_norm(x, draw, train):
        return jcnn.batch_norm(
            x, draw(4), draw(4), np.zeros(4, "f4"), np.ones(4, "f4"), train=train
        )[0]

    def alone(function, **options):
        return lambda x, draw: function(x, **options)

    return {
        "conv": with_kernel(jcnn.conv, 3, 4, 5),
        "conv of edges": with_kernel(jcnn.conv, 3, 4, 5, padding_mode="EDGE"),
        "conv_transpose": with_kernel(jcnn.conv_transpose, 3, 4, 5, strides=2),
        "depthwise_conv": with_kernel(jcnn.depthwise_conv, 3, 1, 8),
        "dense": with_kernel(jcnn.dense, 4, 3),
        "im2col": alone(jcnn.im2col, kernel_size=2),
        "col2im": alone(jcnn.col2im, spatial_shape=(7,), kernel_size=2),
        "flatten": alone(jcnn.flatten),
        "avg_pool": alone(jcnn.avg_pool, window_shape=3, strides=1),
        "max_pool": alone(jcnn.max_pool, window_shape=3, strides=1, padding=1),
        "min_pool": alone(jcnn.min_pool, window_shape=3, strides=1, padding=1),
        "global_avg_pool": alone(jcnn.global_avg_pool),
        "global_max_pool": alone(jcnn.global_max_pool),
        "dropout": alone(jcnn.dropout, rate=0.4, key=KEY),
        "batch_norm in training": partial(batch_norm, train=True),
        "batch_norm": partial(batch_norm, train=False),
        "layer_norm": norm(jcnn.layer_norm),
        "group_norm": norm(jcnn.group_norm, num_groups=2),
    }


FUNCTIONS = _functions()
EACH = pytest.mark.parametrize("name", FUNCTIONS)


def _drawn(rng, shape, dtype):
    """Numbers that the dtype holds exactly, as NumPy's array."""
    values = rng.normal(size=shape) / 2
    if "complex" in dtype:
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values).astype(jnp.dtype(dtype))


def _exactly(function, x, seed, cotangent=None):
    """The result and x's gradient in float64, by the same function on wide numbers."""
    wide = "complex128" if np.iscomplexobj(x) else "float64"
    draw = _draw(seed, x.dtype.name, wide)

    @jax.jit
    def run(x, cotangent):
        result, pull = jax.vjp(lambda x: function(x, draw), x)
        return result, None if cotangent is None else pull(cotangent)[0]

    with jax.enable_x64(True):
        if cotangent is not None:
            cotangent = np.asarray(cotangent).astype(wide)
        return jax.device_get(run(x.astype(wide), cotangent))


def _draw(seed, dtype, given=None):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(_drawn(rng, shape, dtype).astype(given or dtype))

    return draw


def _close(got, expected, dtype, scale=8):
    """Within a few roundings of values as large as the largest."""
    info = jnp.finfo(dtype)
    got = np.asarray(got).astype(expected.dtype)
    error = np.abs(got - expected).max()
    return error <= scale * float(info.eps) * np.abs(expected).max() + float(info.tiny)


@pytest.mark.cover(2)
@EACH
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_results_have_the_dtype_of_x_and_are_right(name, dtype, x64, rng):
    if x64 != (dtype in ("float64", "complex128")) and dtype not in X64_TOO:
        pytest.skip("float32 and complex64 without x64, or the same with it")
    x = _drawn(rng, (2, 6, 4), dtype)
    with jax.enable_x64(x64):
        function = partial(FUNCTIONS[name], draw=_draw(1, dtype))
        if dtype in COMPLEX and name not in WITHOUT_ORDER + ["conv of edges"]:
            with pytest.raises(TypeError, match=f"x must be real, got {dtype}"):
                function(x)
            return
        y = jax.jit(function)(x)
    assert y.dtype == dtype and not y.weak_type
    expected, _ = _exactly(FUNCTIONS[name], x, 1)
    assert np.isfinite(expected).all() and _close(y, expected, dtype)


@EACH
@pytest.mark.parametrize("dtype", ["float8_e5m2", *SHORT, "float32"])
def test_gradients_are_rounded_once(name, dtype, rng):
    x = _drawn(rng, (2, 6, 4), dtype)
    function = partial(FUNCTIONS[name], draw=_draw(1, dtype))
    y, pull = jax.vjp(function, jnp.asarray(x))
    cotangent = _drawn(rng, y.shape, dtype)
    (gradient,) = pull(jnp.asarray(cotangent))
    _, expected = _exactly(FUNCTIONS[name], x, 1, cotangent)
    assert gradient.dtype == dtype and _close(gradient, expected, dtype)


@EACH
@pytest.mark.parametrize("x64", [False, True])
def test_weak_types_and_lists_are_arrays_like_others(name, x64, rng):
    with jax.enable_x64(x64):
        function = partial(
            FUNCTIONS[name], draw=_draw(1, "float64" if x64 else "float32")
        )
        x = jnp.full((2, 6, 4), 0.5)
        assert x.weak_type
        for given in (x, x.tolist(), np.asarray(x)):
            y = function(given)
            assert y.dtype == x.dtype


@EACH
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integers_are_refused(name, dtype):
    if name == "flatten":
        pytest.skip("it only reshapes")
    x = jnp.ones((2, 6, 4), dtype)
    argument = "patches" if name == "col2im" else "x"
    with pytest.raises(
        TypeError, match=f"{argument} must be floating point, got {dtype}"
    ):
        FUNCTIONS[name](x, _draw(1, "float32"))


@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", "float4_e2m1fn"])
def test_formats_without_a_sign_or_a_byte_are_refused(dtype):
    x = np.ones((2, 6, 4), getattr(ml_dtypes, dtype))
    for function in (partial(jcnn.max_pool, window_shape=2), jcnn.layer_norm):
        with pytest.raises(TypeError, match="8 bits or more with a sign, got float"):
            function(x)


# --- sums of many short numbers ---

COTANGENTS = {
    "equal": lambda rng, shape: np.full(shape, 0.25),
    "of one sign": lambda rng, shape: rng.uniform(0.1, 0.5, shape),
    "mixed": lambda rng, shape: rng.normal(size=shape) + 0.05,
}
N, SIZE = 8, 48  # 18,432 numbers: far more than 2^11, where float16 stops counting

SUMS = {
    "Conv": (Conv(2, 1), (SIZE, SIZE, 2)),
    "Conv, two groups": (Conv(2, 1, feature_group_count=2), (SIZE, SIZE, 2)),
    "ConvTranspose": (ConvTranspose(2, 1), (SIZE, SIZE, 2)),
    "DepthwiseConv": (DepthwiseConv(1, 1), (SIZE, SIZE, 2)),
    "depthwise": (DepthwiseConv(1, 1, impl="depthwise"), (SIZE, SIZE, 2)),
    "Dense": (Dense(2), (SIZE * SIZE, 2)),
    "BatchNorm": (BatchNorm(), (SIZE, SIZE, 2)),
    "LayerNorm": (LayerNorm(), (SIZE, SIZE, 2)),
    "GroupNorm": (GroupNorm(1), (SIZE, SIZE, 2)),
}


@pytest.mark.parametrize("signs", COTANGENTS)
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", SUMS)
def test_gradients_of_parameters_are_sums_in_float32(name, dtype, signs, rng):
    layer, shape = SUMS[name]
    x = jnp.asarray(rng.normal(size=(N, *shape)), dtype)
    params, state = layer.init(KEY, x)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), "f4"), params)
    # As the kernel and x are when they meet, so that float64 sees the same numbers.
    params = {
        k: p.astype(dtype).astype("f4") if k == "kernel" else p
        for k, p in params.items()
    }
    cotangent = jnp.asarray(COTANGENTS[signs](rng, x.shape), dtype)

    def gradients(params, state, x, cotangent):
        apply = partial(layer.apply, train=True)
        _, pull = jax.vjp(lambda p: apply(p, state, x)[0], params)
        return pull(cotangent)[0]

    got = jax.jit(gradients)(params, state, x, cotangent)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), "float64"),
            (params, state, x, cotangent),
        )
        expected = jax.tree.map(np.asarray, gradients(*wide))
    for parameter, gradient in got.items():
        assert gradient.dtype == jnp.float32
        # A kernel's gradient is rounded to its operands' dtype, a sum of these is not.
        eps = jnp.finfo(dtype if parameter == "kernel" else "float32").eps
        total = np.abs(np.asarray(cotangent, "f8")).sum() * 3
        error = np.abs(np.asarray(gradient, "f8") - expected[parameter])
        bound = float(eps) * (np.abs(expected[parameter]) + 1) + 2e-6 * total
        assert (error <= bound).all(), parameter


@pytest.mark.parametrize("dtype", SHORT)
def test_biases_of_the_same_short_dtype_are_summed_in_float32(dtype):
    x = jnp.ones((2, 200, 100, 1), dtype)
    kernel, bias = jnp.zeros((1, 1, 1, 3), dtype), jnp.zeros(3, dtype)
    for function, used in (
        (jcnn.conv, kernel),
        (jcnn.conv_transpose, kernel),
        (jcnn.dense, kernel[0, 0]),
    ):
        gradient = jax.grad(lambda b, f=function, k=used: f(x, k, b).sum())(bias)
        assert gradient.dtype == dtype
        assert (np.asarray(gradient, "f8") == float(jnp.asarray(4e4, dtype))).all()


@pytest.mark.parametrize("dtype", SHORT)
def test_windows_that_overlap_are_summed_in_float32(dtype):
    # One pixel wins all windows: too many taps for our own algorithm, then few enough.
    for size, weight in ((2100, 1), (60, 1.0625)):
        x = jnp.zeros((1, 2 * size - 1, 1), dtype).at[0, size - 1].set(1)
        given = jnp.full((1, size, 1), weight, dtype)
        _, pull = jax.vjp(lambda x, n=size: jcnn.max_pool(x, n, strides=1), x)
        total = float(jnp.asarray(size * weight, dtype))
        assert float(pull(given)[0][0, size - 1, 0]) == total
    patches = jnp.full((1, 60, 60), 1.0625, dtype)
    image = jcnn.col2im(patches, (119,), 60)
    assert float(image[0, 59, 0]) == float(jnp.asarray(60 * 1.0625, dtype))


@pytest.mark.parametrize("dtype", SHORT)
def test_equal_maxima_share_the_gradient_of_a_global_maximum(dtype):
    x = jnp.ones((1, 64, 64, 1), dtype)
    gradient = jax.grad(lambda x: jcnn.global_max_pool(x).astype("f4").sum())(x)
    np.testing.assert_allclose(np.asarray(gradient, "f8").sum(), 1, rtol=1e-2)


@pytest.mark.parametrize("dtype", SHORT)
def test_repeated_edges_are_summed_in_float32(dtype):
    x = jnp.ones((1, 3, 1), dtype)
    kernel = jnp.ones((1, 1, 1), dtype)

    def f(x):
        return (
            jcnn.conv(x, kernel, padding=3000, padding_mode="EDGE").astype("f4").sum()
        )

    gradient = np.asarray(jax.jit(jax.grad(f))(x), "f8").ravel()
    np.testing.assert_allclose(gradient, [3001, 1, 3001], rtol=4e-3)


# --- numbers and statistics ---


def _numbers(value):
    with np.errstate(all="ignore"):
        return [value, np.float32(value), np.float64(value), np.array(value)] + [
            jnp.float32(value),
            jnp.bfloat16(value),
        ]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_numbers_change_no_dtype_and_little_else(dtype, x64, rng):
    x = jnp.asarray(rng.normal(size=(8, 4)), dtype)
    mean, var = np.zeros(4, "f4"), np.ones(4, "f4")
    with jax.enable_x64(x64):
        norm = partial(jcnn.batch_norm, x, None, None, mean, var, train=True)
        expected = norm(momentum=0.75, epsilon=0.125)
        dropped = jcnn.dropout(x, 0.25, KEY)
        each = zip(_numbers(0.75), _numbers(0.125), _numbers(0.25))
        for number, (momentum, epsilon, rate) in enumerate(each):
            for compile in (lambda f: f, jax.jit)[: 1 + number % 2]:
                got = compile(lambda m, e: norm(momentum=m, epsilon=e))(
                    momentum, epsilon
                )
                for a, b in zip(got, expected):
                    assert a.dtype == b.dtype and not a.weak_type
                    np.testing.assert_allclose(
                        np.asarray(a, "f8"), np.asarray(b, "f8"), rtol=1e-6, atol=1e-6
                    )
                y = compile(lambda r: jcnn.dropout(x, r, KEY))(rate)
                assert y.dtype == dropped.dtype and np.array_equal(y, dropped)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("momentum", [0.9, np.float64(0.9), np.float32(0.9)])
@pytest.mark.parametrize("statistics", ["float16", "bfloat16", "float32", "float64"])
def test_statistics_keep_their_dtype_through_a_scan(statistics, momentum, x64, rng):
    if statistics == "float64" and not x64:
        pytest.skip("that is float32 without x64")
    with jax.enable_x64(x64):
        xs = jnp.asarray(rng.normal(size=(5, 16, 3)) + 2, jnp.float32)
        state = jnp.zeros(3, statistics), jnp.ones(3, statistics)

        def step(state, x):
            _, *new = jcnn.batch_norm(
                x, None, None, *state, train=True, momentum=momentum
            )
            return tuple(new), None

        (mean, var), _ = lax.scan(step, state, xs)
        assert mean.dtype == var.dtype == state[0].dtype
    expected = 0.0
    for x in np.asarray(xs, "f8"):
        expected = 0.9 * expected + 0.1 * x.mean(0)
    eps = float(jnp.finfo(mean.dtype).eps)
    np.testing.assert_allclose(np.asarray(mean, "f8"), expected, rtol=5 * eps + 1e-6)


@pytest.mark.parametrize("make", [list, partial(np.asarray, dtype=int), jnp.asarray])
def test_integer_statistics_and_parameters_count_as_float32(make, rng):
    x = rng.normal(size=(50, 2)).astype("f4") + 2.7
    zeros, ones = make([0, 0]), make([1, 1])
    y, mean, var = jcnn.batch_norm(x, ones, zeros, zeros, ones, train=True)
    assert mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(mean, 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.var(0), rtol=1e-5)
    plain = jcnn.batch_norm(x, None, None, np.zeros(2), np.ones(2), train=True)[0]
    assert np.array_equal(y, plain)


@pytest.mark.parametrize("argument", ["scale", "bias", "mean", "var"])
def test_complex_parameters_and_statistics_are_refused(argument):
    arrays = {name: np.ones(2, "f4") for name in ("scale", "bias", "mean", "var")}
    arrays[argument] = arrays[argument].astype("complex64")
    with pytest.raises(TypeError, match=f"{argument} must be real .*got complex64"):
        jcnn.batch_norm(np.ones((3, 2), "f4"), **arrays, train=True)


def test_a_complex_bias_is_refused_beside_real_numbers():
    x, bias = np.ones((3, 2), "f4"), np.ones(2, "complex64")
    with pytest.raises(TypeError, match="bias must be real as x is, got complex64"):
        jcnn.dense(x, np.eye(2, dtype="f4"), bias)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bfloat16", "float16"])
def test_results_of_another_kind_or_narrower_are_refused(dtype):
    x, kernel = np.ones((2, 3), "f4"), np.ones((3, 2), "f4")
    with pytest.raises(ValueError, match="preferred_element_type must not be narrower"):
        jcnn.dense(x, kernel, preferred_element_type=dtype)
    with pytest.raises(ValueError, match="preferred_element_type must not be narrower"):
        jcnn.conv(x[None], kernel[None], preferred_element_type=dtype)


@pytest.mark.parametrize("epsilon", [-1.0, -1e-30, float("nan"), float("inf")])
def test_epsilons_that_make_nan_are_refused(epsilon):
    x, zero, one = np.ones((3, 2), "f4"), np.zeros(2, "f4"), np.ones(2, "f4")
    message = f"epsilon must be finite and at least 0, got {epsilon}"
    for norm in (
        partial(jcnn.batch_norm, x, None, None, zero, one, train=True),
        partial(jcnn.layer_norm, x),
        partial(jcnn.group_norm, x, num_groups=1),
    ):
        with pytest.raises(ValueError, match=message):
            norm(epsilon=epsilon)
    for layer in (BatchNorm, LayerNorm, partial(GroupNorm, 1)):
        with pytest.raises(ValueError, match=message):
            layer(epsilon=epsilon)


@pytest.mark.parametrize("epsilon", ["1e-5", None, 1j, np.ones(2), True])
def test_epsilons_that_are_no_number_are_refused(epsilon):
    with pytest.raises(TypeError, match="epsilon must be a number, got"):
        jcnn.layer_norm(np.ones((3, 2), "f4"), epsilon=epsilon)


@pytest.mark.parametrize("scale", [1e15, 1e18, 1e20, 1e30])
def test_norms_of_large_numbers_are_right_or_not_a_number(scale, rng):
    x = (rng.normal(size=(64, 4)) * scale).astype("f4")
    wide = np.asarray(x, "f8")
    zero, one = np.zeros(4, "f4"), np.ones(4, "f4")
    for y, axes in (
        (jcnn.batch_norm(x, None, None, zero, one, train=True)[0], 0),
        (jcnn.layer_norm(x), 1),
        (jcnn.group_norm(x, num_groups=1), 1),
    ):
        if scale > 1e19:
            assert np.isnan(y).all()
        else:
            expected = wide - wide.mean(axes, keepdims=True)
            expected /= wide.std(axes, keepdims=True)
            np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


# --- dropout by a schedule ---


def test_a_traced_rate_drops_what_the_same_number_drops(rng):
    x = jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)
    drop = jax.jit(lambda rate: jcnn.dropout(x, rate, KEY))
    for rate in (0.0, 0.25, 0.9, 1.0):
        expected = jcnn.dropout(x, rate, KEY)
        np.testing.assert_allclose(drop(rate), expected, rtol=1e-6)
    rates = jnp.linspace(0, 1, 5)
    each = jax.vmap(lambda rate: jcnn.dropout(x, rate, KEY))(rates)
    np.testing.assert_allclose(each[2], drop(0.5), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x, r: jcnn.dropout(x, r, KEY).sum()))(x, 1.0)
    assert (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize("rate", [np.array([0.1, 0.2]), jnp.ones(3) / 2, "0.5", None])
def test_rates_that_are_no_number_are_refused(rate):
    with pytest.raises(TypeError, match="rate must be a number, got"):
        jcnn.dropout(jnp.ones(3), rate, KEY)
    with pytest.raises(TypeError, match="rate must be a number, got"):
        jax.jit(lambda r: jcnn.dropout(jnp.ones(3), r, KEY))(jnp.ones(3) / 2)


@pytest.mark.parametrize("key", [None, 0, "key"])
def test_keys_that_are_none_are_refused(key):
    with pytest.raises(TypeError, match="key must be a key of jax.random.key, got"):
        jcnn.dropout(jnp.ones(3), 0.5, key)


def test_flags_must_be_known_before_the_program_runs():
    x, zero, one = jnp.ones((3, 2)), jnp.zeros(2), jnp.ones(2)
    norm = partial(jcnn.batch_norm, x, None, None, zero, one)
    with pytest.raises(
        TypeError, match="train must be True or False before the program"
    ):
        jax.jit(lambda train: norm(train=train))(True)
    with pytest.raises(TypeError, match="train must be True or False, got 'yes'"):
        norm(train="yes")  # pyright: ignore
    assert np.array_equal(norm(train=np.True_)[0], norm(train=True)[0])
    with pytest.raises(TypeError, match="ceil_mode must be True or False, got 2"):
        jcnn.max_pool(x[None], 2, ceil_mode=2)  # pyright: ignore


@pytest.mark.parametrize("dtype", ["int32", "bool", "no dtype", None])
def test_parameters_must_be_floating_point(dtype):
    for layer in (partial(Conv, 3, 2), partial(Dense, 3), BatchNorm, LayerNorm):
        with pytest.raises(
            TypeError, match="param_dtype must be a floating-point dtype"
        ):
            layer(param_dtype=dtype)
