"""Layers and their combination: against the array functions and NumPy by hand."""

import copy
import inspect
import pickle
import re
from functools import partial
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcnn
from jcnn.combine import frozen, parallel, remat, residual, serial
from jcnn.layers import (
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Dropout,
    GroupNorm,
    Layer,
    LayerNorm,
    MaxPool,
    parametric,
    stateless,
)

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.cover(1),
]

KEY = jax.random.key(7)

# Each layer, with the shapes of its parameters and state for an input of `_shape`.
LAYERS = {
    "Conv": (Conv(3, 2), {"kernel": (2, 2, 4, 3), "bias": (3,)}, {}),
    "Conv without bias": (
        Conv(6, (3, 1), feature_group_count=2, use_bias=False),
        {"kernel": (3, 1, 2, 6)},
        {},
    ),
    "ConvTranspose": (
        ConvTranspose(3, 2, strides=2),
        {"kernel": (2, 2, 4, 3), "bias": (3,)},
        {},
    ),
    "ConvTranspose without bias": (
        ConvTranspose(3, (1, 2), use_bias=False),
        {"kernel": (1, 2, 4, 3)},
        {},
    ),
    "DepthwiseConv": (
        DepthwiseConv(2, 3),
        {"kernel": (3, 3, 1, 8), "bias": (8,)},
        {},
    ),
    "DepthwiseConv without bias": (
        DepthwiseConv(1, 3, use_bias=False),
        {"kernel": (3, 3, 1, 4)},
        {},
    ),
    "Dense": (Dense(3), {"kernel": (4, 3), "bias": (3,)}, {}),
    "Dense without bias": (Dense(3, use_bias=False), {"kernel": (4, 3)}, {}),
    "BatchNorm": (
        BatchNorm(),
        {"scale": (4,), "bias": (4,)},
        {"mean": (4,), "var": (4,)},
    ),
    "LayerNorm": (LayerNorm(), {"scale": (4,), "bias": (4,)}, {}),
    "GroupNorm": (GroupNorm(2), {"scale": (4,), "bias": (4,)}, {}),
    "Dropout": (Dropout(0.4), {}, {}),
    "MaxPool": (MaxPool(2), {}, {}),
    "AvgPool": (AvgPool(2), {}, {}),
    "stateless": (stateless(jnp.tanh), {}, {}),
}
EACH = pytest.mark.parametrize("name", LAYERS)


def _shape(name):
    """Dense takes no images."""
    return (2, 5, 4) if name.startswith("Dense") else (2, 6, 5, 4)


def _normal(rng, shape=(2, 6, 5, 4), dtype="float32"):
    return jnp.asarray(rng.normal(size=shape), dtype)


def _shaken(rng, tree):
    """Random numbers in the place of what is initialised to zeros and ones."""
    return jax.tree.map(lambda a: _normal(rng, a.shape), tree)


def _wide(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def _equal(first, second):
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        if a.dtype != b.dtype or not np.array_equal(a, b):
            return False
    return True


def _named(key, *names):
    """The key that the documentation promises to the part of this path."""
    for name in names:
        key = jax.random.fold_in(key, crc32(name.encode()))
    return key


# --- one layer ---


@EACH
def test_parameters_are_where_they_should_be_and_nowhere_else(name, rng):
    layer, params, state = LAYERS[name]
    got = layer.init(KEY, _normal(rng, _shape(name)))
    assert jax.tree.map(jnp.shape, got) == (params, state)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))


@EACH
def test_every_layer_is_called_in_the_same_way(name, rng):
    layer, _, _ = LAYERS[name]
    for combined in (layer, serial(part=layer), parallel(jnp.add, a=layer, b=layer)):
        assert list(inspect.signature(combined.init).parameters) == ["key", "x"]
        assert str(inspect.signature(combined.apply)) == (
            "(params, state, x, *, train=False, key=None)"
        )
        x = _normal(rng, _shape(name))
        params, state = combined.init(KEY, x)
        for train in (False, True):
            y, new = combined.apply(params, state, x, train=train, key=KEY)
            assert y.ndim == x.ndim and y.shape[0] == 2
            assert jax.tree.structure(new) == jax.tree.structure(state)
            dtypes = jax.tree.map(lambda a: (a.shape, a.dtype), state)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == dtypes


@EACH
def test_init_of_shapes_and_under_jit_gives_the_same_numbers(name, rng):
    layer, _, _ = LAYERS[name]
    x = _normal(rng, _shape(name))
    expected = layer.init(KEY, x)
    assert _equal(layer.init(KEY, jax.ShapeDtypeStruct(x.shape, x.dtype)), expected)
    assert _equal(jax.jit(layer.init)(KEY, x), expected)
    # What the inputs are and how many of them does not matter.
    assert _equal(layer.init(KEY, _normal(rng, (5, *x.shape[1:]))), expected)


@EACH
def test_bfloat16_stays_and_parameters_stay_float32(name, rng):
    layer, _, _ = LAYERS[name]
    x = _normal(rng, _shape(name), "bfloat16")
    params, state = layer.init(KEY, x)
    assert _equal(layer.init(KEY, x.astype(jnp.float32)), (params, state))
    for train in (False, True):
        y, new = layer.apply(params, state, x, train=train, key=KEY)
        assert y.dtype == jnp.bfloat16
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))
        wide, _ = layer.apply(
            params, state, x.astype(jnp.float32), train=train, key=KEY
        )
        # Operands and result rounded to 8 bits; sums of up to 36 products.
        close = np.abs(np.asarray(y, np.float32) - wide) <= 0.05 * (1 + np.abs(wide))
        assert close.all()

    weight = _normal(rng, y.shape, "bfloat16").astype(jnp.float32)

    def loss(params, x):
        y, _ = layer.apply(params, state, x, train=True, key=KEY)
        return jnp.sum(weight * y.astype(jnp.float32))

    grads = jax.grad(loss, (0, 1))
    short, wide = grads(params, x), grads(params, x.astype(jnp.float32))
    assert short[1].dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(short[0]))
    for a, b in zip(*map(jax.tree.leaves, (short, wide)), strict=True):
        error = np.abs(np.asarray(a, np.float32) - b)
        assert (error <= 2**-7 * np.abs(b).max()).all()


@EACH
def test_gradients_are_shaped_like_the_parameters(name, rng):
    layer, _, _ = LAYERS[name]
    x = _normal(rng, _shape(name))
    params, state = layer.init(KEY, x)
    weight = _normal(rng, jax.eval_shape(layer.apply, params, state, x)[0].shape)

    def loss(params):
        y, new = layer.apply(params, state, x, train=True, key=KEY)
        return (y * weight).sum(), new

    grads, new = jax.grad(loss, has_aux=True)(params)
    shapes = jax.tree.map(jnp.shape, params)
    assert jax.tree.map(jnp.shape, grads) == shapes
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(grads))
    assert jax.tree.structure(new) == jax.tree.structure(state)


@EACH
def test_uint8_images_are_refused_with_advice(name):
    layer, _, _ = LAYERS[name]
    if name == "stateless":
        pytest.skip("what a plain function takes is its own affair")
    images = jnp.ones(_shape(name), jnp.uint8)
    params, state = layer.init(KEY, images)
    advice = r"x must be floating point, got uint8: convert images first"
    with pytest.raises(TypeError, match=advice):
        layer.apply(params, state, images, train=True, key=KEY)
    with pytest.raises(TypeError, match=advice):
        serial(first=layer, second=LayerNorm()).init(KEY, images)


@EACH
def test_jit_and_numpy_arrays_change_nothing(name, rng):
    layer, _, _ = LAYERS[name]
    x = _normal(rng, _shape(name))
    params, state = layer.init(KEY, x)
    params = _shaken(rng, params)
    for train in (False, True):
        apply = partial(layer.apply, train=train, key=KEY)
        y, new = apply(params, state, x)
        compiled, compiled_state = jax.jit(apply)(params, state, x)
        np.testing.assert_allclose(compiled, y, rtol=1e-4, atol=1e-5)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(compiled_state)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert np.array_equal(apply(params, state, np.asarray(x))[0], y)


# --- layers are the array functions ---

_OPTIONS = {
    "Conv": [
        {"strides": 2},
        {"strides": (1, 2)},
        {"padding": "VALID"},
        {"padding": ((1, 0), (2, 1))},
        {"padding_mode": "CIRCULAR"},
        {"kernel_dilation": 2},
        {"feature_group_count": 2},
    ],
    "ConvTranspose": [
        {"strides": 2},
        {"padding": "VALID"},
        {"kernel_dilation": (2, 1)},
    ],
    "DepthwiseConv": [
        {"strides": 2},
        {"padding": "VALID"},
        {"padding_mode": "REFLECT"},
        {"kernel_dilation": (1, 2)},
    ],
}
_CONVOLUTIONS = {
    "Conv": (Conv, jcnn.conv),
    "ConvTranspose": (ConvTranspose, jcnn.conv_transpose),
    "DepthwiseConv": (DepthwiseConv, jcnn.depthwise_conv),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, several in _OPTIONS.items() for options in several],
)
def test_options_reach_the_convolution(name, options, rng):
    layer, function = _CONVOLUTIONS[name]
    x = _normal(rng)
    params = _shaken(rng, layer(2, 3, **options).init(KEY, x)[0])
    y, _ = layer(2, 3, **options).apply(params, {}, x)
    assert np.array_equal(y, function(x, **params, **options))
    if options != {"feature_group_count": 2}:
        without, _ = layer(2, 3).apply(params, {}, x)
        assert not np.array_equal(y, without)


@pytest.mark.parametrize("name", _CONVOLUTIONS)
def test_impl_reaches_the_convolution(name, rng):
    layer, _ = _CONVOLUTIONS[name]
    x = _normal(rng)

    def program(impl):
        made = layer(2, 3, impl=impl)
        params, _ = made.init(KEY, x)
        return made.apply(params, {}, x)[0], str(
            jax.make_jaxpr(made.apply)(params, {}, x)
        )

    direct, direct_program = program("lax")
    other, other_program = program("im2col")
    assert "jcnn_convolution" in other_program
    assert "jcnn_convolution" not in direct_program
    np.testing.assert_allclose(direct, other, rtol=1e-4, atol=1e-5)


def test_options_reach_the_pools(rng):
    x = _normal(rng)
    options = {"strides": 2, "padding": ((1, 0), (0, 1)), "ceil_mode": True}
    y, _ = MaxPool((3, 2), **options).apply({}, {}, x)
    assert np.array_equal(y, jcnn.max_pool(x, (3, 2), **options))
    options["count_include_pad"] = True
    y, _ = AvgPool((3, 2), **options).apply({}, {}, x)
    assert np.array_equal(y, jcnn.avg_pool(x, (3, 2), **options))
    fewer, _ = AvgPool((3, 2), **{**options, "count_include_pad": False}).apply(
        {}, {}, x
    )
    assert not np.array_equal(y, fewer)


def test_options_reach_the_norms(rng):
    x = _normal(rng)
    params = {"scale": _normal(rng, 4), "bias": _normal(rng, 4)}
    y, _ = LayerNorm(epsilon=0.5).apply(params, {}, x)
    assert np.array_equal(y, jcnn.layer_norm(x, **params, epsilon=0.5))
    y, _ = GroupNorm(2, epsilon=0.5).apply(params, {}, x)
    assert np.array_equal(y, jcnn.group_norm(x, **params, num_groups=2, epsilon=0.5))
    state = {"mean": _normal(rng, 4), "var": 1 + _normal(rng, 4) ** 2}
    options = {"epsilon": 0.5, "momentum": 0.3}
    for train in (False, True):
        y, new = BatchNorm(**options).apply(params, state, x, train=train)
        expected = jcnn.batch_norm(x, **params, **state, train=train, **options)
        assert _equal((y, new["mean"], new["var"]), expected)
    assert not np.array_equal(new["mean"], state["mean"])


def test_axis_name_reaches_batch_norm(rng):
    x = _normal(rng)
    layer = BatchNorm(axis_name="shards")
    params, state = layer.init(KEY, x)
    apply = jax.vmap(
        partial(layer.apply, train=True), (None, None, 0), axis_name="shards"
    )
    y, new = apply(params, state, x[:, None])
    expected, running = BatchNorm().apply(params, state, x, train=True)
    np.testing.assert_allclose(y[:, 0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new["var"][1], running["var"], rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_integer_kernel_size_holds_for_every_dimension(rank):
    x = jax.ShapeDtypeStruct((1, *[5] * rank, 2), jnp.float32)
    for layer, last in ((Conv(3, 3), (2, 3)), (DepthwiseConv(2, 3), (1, 4))):
        params, _ = jax.eval_shape(layer.init, KEY, x)
        assert params["kernel"].shape == (*[3] * rank, *last)
        y, _ = jax.eval_shape(layer.apply, params, {}, x)
        assert y.shape == (*x.shape[:-1], last[-1])


# --- initialisation ---


@pytest.mark.parametrize(
    ("layer", "inputs", "fan_in"),
    [
        (Conv(64, 3), 16, 9 * 16),
        (Conv(64, 3, feature_group_count=4), 16, 9 * 4),
        (ConvTranspose(64, 3), 16, 9 * 16),
        (DepthwiseConv(8, 3), 64, 9),
        (Dense(64), 100, 100),
    ],
)
def test_kernels_are_he_normal_and_biases_zero(layer, inputs, fan_in):
    size = () if inputs == 100 else (9, 9)
    params, _ = layer.init(KEY, jax.ShapeDtypeStruct((1, *size, inputs), jnp.float32))
    kernel = np.asarray(params["kernel"], np.float64)
    # The relative deviation of a variance of n values is below sqrt(2 / n).
    n = kernel.size
    assert abs(kernel.var() * fan_in / 2 - 1) < 5 * np.sqrt(2 / n)
    assert abs(kernel.mean()) < 5 * np.sqrt(2 / fan_in / n)
    assert not params["bias"].any()


def test_norms_begin_as_the_plain_normalisation(rng):
    x = _normal(rng)
    for layer in (BatchNorm(), LayerNorm(), GroupNorm(2)):
        params, state = layer.init(KEY, x)
        assert (params["scale"] == 1).all() and not params["bias"].any()
    _, state = BatchNorm().init(KEY, x)
    assert not state["mean"].any() and (state["var"] == 1).all()


@pytest.mark.parametrize(
    "layer",
    [
        partial(Conv, 3, 2),
        partial(ConvTranspose, 3, 2),
        partial(DepthwiseConv, 3, 2),
        partial(Dense, 3),
    ],
)
def test_initialisers_and_param_dtype_are_the_callers(layer, rng):
    def first(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype)

    def second(key, shape, dtype):
        return jnp.full(shape, 7, dtype)

    made = layer(kernel_init=first, bias_init=second, param_dtype=jnp.bfloat16)
    x = _normal(rng, (2, 5, 4) if layer.func is Dense else (2, 6, 5, 4))
    params, _ = made.init(KEY, x)
    shape = params["kernel"].shape
    expected = jax.random.uniform(_named(KEY, "kernel"), shape, jnp.bfloat16)
    assert params["kernel"].dtype == jnp.bfloat16
    assert np.array_equal(params["kernel"], expected)
    assert (params["bias"] == 7).all()
    assert made.apply(params, {}, x)[0].dtype == jnp.float32


def test_initialisers_of_batch_norm_are_the_callers(rng):
    layer = BatchNorm(
        scale_init=jax.random.normal,
        bias_init=jax.random.uniform,
        param_dtype="float16",
    )
    params, state = layer.init(KEY, _normal(rng))
    expected = {
        "scale": jax.random.normal(_named(KEY, "scale"), (4,), "float16"),
        "bias": jax.random.uniform(_named(KEY, "bias"), (4,), "float16"),
    }
    assert _equal(params, expected)
    assert all(a.dtype == jnp.float32 for a in state.values())


def test_two_parameters_of_a_shape_are_drawn_apart(rng):
    normal = jax.random.normal
    layer = parametric(
        lambda x: {"one": (normal, (3,)), "two": (normal, (3,))},
        lambda x, one, two: x + one.sum() + two.sum(),
    )
    params, _ = layer.init(KEY, _normal(rng))
    assert np.array_equal(params["one"], normal(_named(KEY, "one"), (3,)))
    assert not np.array_equal(params["one"], params["two"])


# --- dropout ---


def test_dropout_works_in_training_only(rng):
    x = _normal(rng)
    layer = Dropout(0.4)
    assert np.array_equal(layer.apply({}, {}, x)[0], x)
    assert np.array_equal(layer.apply({}, {}, x, key=KEY)[0], x)
    y, _ = layer.apply({}, {}, x, train=True, key=KEY)
    assert np.array_equal(y, jcnn.dropout(x, 0.4, KEY))
    assert not np.array_equal(y, x)


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: serial(drop=part)])
def test_dropout_in_training_needs_a_key(wrap, rng):
    with pytest.raises(ValueError, match="key must be given"):
        wrap(Dropout(0.4)).apply({}, {}, _normal(rng), train=True)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_the_rate_is_checked_when_the_layer_is_made(rate):
    with pytest.raises(ValueError, match="rate must be from 0 to 1"):
        Dropout(rate)


def test_keys_of_parts_are_those_of_their_paths_at_apply(rng):
    net = serial(
        outer=parallel(
            lambda *ys: jnp.stack(ys), one=Dropout(0.5), two=serial(deep=Dropout(0.5))
        )
    )
    x = _normal(rng)
    y, _ = net.apply({}, {}, x, train=True, key=KEY)
    one = jcnn.dropout(x, 0.5, _named(KEY, "outer", "one"))
    two = jcnn.dropout(x, 0.5, _named(KEY, "outer", "two", "deep"))
    assert np.array_equal(y, np.stack([one, two]))
    assert not np.array_equal(one, two)


# --- combinations ---


def _norm(x, params, state, train):
    """Batch norm of [N, H, W, C] in NumPy; also the new state."""
    if train:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        state = {
            "mean": 0.9 * state["mean"] + 0.1 * mean,
            "var": 0.9 * state["var"] + 0.1 * var,
        }
    else:
        mean, var = state["mean"], state["var"]
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"], state


def _affine(x, params):
    kernel = params["kernel"]
    return x @ kernel.reshape(kernel.shape[-2:]) + params.get("bias", 0)


@pytest.mark.parametrize("train", [False, True])
def test_nested_combinations_are_the_mathematics_by_hand(train, rng):
    net = serial(
        stem=Conv(4, 1),
        block=residual(
            serial(conv=Conv(6, 1, use_bias=False), norm=BatchNorm(), relu=jax.nn.relu),
            serial(conv=Conv(6, 1), norm=BatchNorm()),
        ),
        branches=parallel(
            lambda a, b, c: jnp.concatenate([a * b, c], -1),
            gate=serial(fc=Conv(6, 1), squash=jnp.tanh),
            same=lambda x: x,
            inner=residual(Conv(6, 1, use_bias=False)),
        ),
        mean=jcnn.global_avg_pool,
        head=Dense(3),
    )
    x = _normal(rng, (3, 4, 5, 2))
    params, state = _shaken(rng, jax.eval_shape(net.init, KEY, x))
    state = jax.tree.map(jnp.abs, state)
    y, new = jax.jit(partial(net.apply, train=train))(params, state, x)

    p, s = _wide((params, state))
    h = _affine(np.asarray(x, np.float64), p["stem"])
    body, short = p["block"]["body"], p["block"]["shortcut"]
    a, body_state = _norm(
        _affine(h, body["conv"]), body["norm"], s["block"]["body"]["norm"], train
    )
    b, short_state = _norm(
        _affine(h, short["conv"]), short["norm"], s["block"]["shortcut"]["norm"], train
    )
    h = np.maximum(a, 0) + b
    branches = p["branches"]
    gate = np.tanh(_affine(h, branches["gate"]["fc"]))
    inner = _affine(h, branches["inner"]["body"]) + h
    h = np.concatenate([gate * h, inner], -1).mean((1, 2))
    expected = _affine(h, p["head"])
    expected_state = {
        "block": {"body": {"norm": body_state}, "shortcut": {"norm": short_state}}
    }

    # Some thirty float32 roundings of values up to 30.
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert jax.tree.structure(new) == jax.tree.structure(expected_state)
    for got, one in zip(jax.tree.leaves(new), jax.tree.leaves(expected_state)):
        np.testing.assert_allclose(got, one, rtol=1e-4, atol=1e-4)
    assert set(p) == {"stem", "block", "branches", "head"}
    assert set(branches) == {"gate", "inner"}


def test_a_serial_net_is_its_parts_one_after_the_other(rng):
    parts = {"a": Conv(3, 3), "b": BatchNorm(), "c": MaxPool(2), "d": jnp.sin}
    x = _normal(rng)
    net = serial(**parts)
    params, state = net.init(KEY, x)
    y, new = net.apply(params, state, x, train=True)
    h = x
    for name in ("a", "b", "c"):
        own, own_state = parts[name].init(_named(KEY, name), h)
        assert _equal(own, params.get(name, {}))
        assert _equal(own_state, state.get(name, {}))
        h, own_state = parts[name].apply(own, own_state, h, train=True)
        assert _equal(own_state, new.get(name, {}))
    assert np.array_equal(y, jnp.sin(h))
    assert set(params) == {"a", "b"} and set(state) == {"b"}


def test_parallel_joins_in_the_order_of_the_parts(rng):
    x = _normal(rng, (2, 3))
    parts = {"z": jnp.sin, "a": jnp.cos, "m": lambda x: 2 * x}
    y, _ = parallel(lambda *ys: jnp.stack(ys), **parts).apply({}, {}, x)
    assert np.array_equal(y, np.stack([jnp.sin(x), jnp.cos(x), 2 * x]))


def test_parts_of_parallel_are_seeded_by_their_paths(rng):
    x = _normal(rng, (2, 4))
    params, _ = parallel(jnp.add, left=Dense(3), right=Dense(3)).init(KEY, x)
    for name in ("left", "right"):
        expected, _ = Dense(3).init(_named(KEY, name), x)
        assert _equal(params[name], expected)
    assert not np.array_equal(params["left"]["kernel"], params["right"]["kernel"])


def test_a_rematerialized_layer_computes_the_same_and_keeps_its_input_alone(rng):
    net = serial(conv=Conv(4, 3), norm=BatchNorm(), tanh=jnp.tanh, drop=Dropout(0.5))
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 3)), jnp.float32)
    params, state = net.init(KEY, x)

    def loss(layer, params, x):
        y, new = layer.apply(params, state, x, train=True, key=KEY)
        return jnp.sum(y**2), new

    found = []
    for layer in (net, remat(net)):
        of = jax.value_and_grad(partial(loss, layer), (0, 1), has_aux=True)
        found.append(of(params, x))
        kept = jax.tree.leaves(
            jax.vjp(partial(loss, layer), params, x, has_aux=True)[1]
        )
        found.append(sum(array.size for array in kept))
    expected, most, again, least = found
    for a, b in zip(*map(jax.tree.leaves, (again, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert least < most / 2


def test_what_is_frozen_gets_no_gradient_and_changes_no_result(rng):
    x = _normal(rng)
    conv, rest = Conv(4, 3), {"tanh": jnp.tanh, "head": Conv(2, 1)}
    net = serial(conv=conv, **rest)
    params, _ = net.init(KEY, x)

    def of(layer):
        return jax.value_and_grad(lambda p: jnp.sum(layer.apply(p, {}, x)[0] ** 2))

    value, gradients = of(net)(params)
    layers = {
        "conv/kernel": serial(conv=frozen(conv, "kernel"), **rest),
        "conv": serial(conv=frozen(conv), **rest),
        "": frozen(net),
    }
    for path, layer in layers.items():
        assert _equal(layer.init(KEY, x), (params, {}))
        found, partly = of(layer)(params)
        np.testing.assert_allclose(found, value, rtol=1e-6)

        def check(keys, gradient, free, path=path):
            name = jax.tree_util.keystr(keys, simple=True, separator="/")
            assert np.abs(free).max() > 0.1
            expected = 0 * free if name.startswith(path) else free
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)

        jax.tree.map_with_path(check, partly, gradients)
    with pytest.raises(ValueError, match="names must be of .*kernel.*'weight'"):
        frozen(conv, "weight").apply(params["conv"], {}, x)


def test_the_shortcut_of_a_residual_is_the_input_itself(rng):
    x = _normal(rng)
    net = residual(Conv(4, 3))
    params, state = net.init(KEY, x)
    y, _ = net.apply(params, state, x)
    assert set(params) == {"body"} and state == {}
    np.testing.assert_allclose(y, jcnn.conv(x, **params["body"]) + x, rtol=1e-6)


def test_one_more_part_reseeds_no_other(rng):
    x = _normal(rng, (2, 4))
    small = serial(a=Dense(4), b=Dense(4), norm=BatchNorm())
    large = serial(
        before=Dense(4),
        a=Dense(4),
        between=serial(a=Dense(4)),
        b=Dense(4),
        norm=BatchNorm(),
        drop=Dropout(0.5),
    )
    few, _ = small.init(KEY, x)
    many, _ = large.init(KEY, x)
    assert all(_equal(few[name], many[name]) for name in few)
    assert not _equal(many["a"], many["between"]["a"])

    reordered, _ = serial(b=Dense(4), norm=BatchNorm(), a=Dense(4)).init(KEY, x)
    assert all(_equal(few[name], reordered[name]) for name in few)


def test_another_name_or_key_is_another_draw(rng):
    x = _normal(rng, (2, 4))
    kernel = serial(a=Dense(4)).init(KEY, x)[0]["a"]["kernel"]
    renamed = serial(c=Dense(4)).init(KEY, x)[0]["c"]["kernel"]
    other_key = serial(a=Dense(4)).init(jax.random.key(8), x)[0]["a"]["kernel"]
    assert not np.array_equal(kernel, renamed)
    assert not np.array_equal(kernel, other_key)
    assert np.array_equal(kernel, Dense(4).init(_named(KEY, "a"), x)[0]["kernel"])


def test_init_of_a_combination_is_the_same_for_shapes_and_under_jit(rng):
    net = serial(
        stem=Conv(4, 3, strides=2),
        block=residual(serial(conv=Conv(4, 3), norm=BatchNorm())),
        flat=jcnn.flatten,
        drop=Dropout(0.5),
        head=Dense(3),
    )
    x = _normal(rng)
    expected = net.init(KEY, x)
    assert _equal(net.init(KEY, jax.ShapeDtypeStruct(x.shape, x.dtype)), expected)
    assert _equal(jax.jit(net.init)(KEY, x), expected)
    shapes = jax.eval_shape(net.init, KEY, x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, expected)


def test_state_goes_on_from_call_to_call(rng):
    net = serial(conv=Conv(3, 1), norm=BatchNorm(momentum=0.5))
    x = _normal(rng)
    params, state = net.init(KEY, x)
    h = np.asarray(net.apply(params, state, x)[0]) * np.sqrt(1 + 1e-5)
    for calls in (1, 2, 3):
        _, state = net.apply(params, state, x, train=True)
        expected = (1 - 0.5**calls) * h.mean((0, 1, 2))
        np.testing.assert_allclose(
            state["norm"]["mean"], expected, rtol=1e-4, atol=1e-6
        )
    _, same = net.apply(params, state, x)
    assert _equal(same, state)


def test_the_net_without_parts_is_the_identity(rng):
    x = _normal(rng)
    assert serial().init(KEY, x) == ({}, {})
    y, state = serial().apply({}, {}, x)
    assert np.array_equal(y, x) and state == {}


@pytest.mark.parametrize("part", [None, 3, "relu", jnp.zeros(2), {"conv": Conv(2, 3)}])
def test_parts_that_are_neither_layer_nor_function_are_refused(part):
    for combine in (
        lambda: serial(good=jnp.tanh, wrong=part),
        lambda: parallel(jnp.add, good=jnp.tanh, wrong=part),
    ):
        with pytest.raises(TypeError, match="wrong must be a Layer or a function"):
            combine()
    with pytest.raises(TypeError, match="body must be a Layer or a function"):
        residual(part)
    with pytest.raises(TypeError, match="shortcut must be a Layer or a function"):
        residual(jnp.tanh, part)


def test_a_layer_is_a_pair_that_anyone_can_write(rng):
    def init(key, x):
        return {}, {"calls": jnp.int32(0)}

    def apply(params, state, x, *, train=False, key=None):
        return x, {"calls": state["calls"] + int(train)}

    net = serial(count=Layer(init, apply), deep=serial(count=Layer(init, apply)))
    params, state = net.init(KEY, _normal(rng))
    for _ in range(3):
        _, state = net.apply(params, state, _normal(rng), train=True)
    assert params == {}
    assert jax.tree.map(int, state) == {
        "count": {"calls": 3},
        "deep": {"count": {"calls": 3}},
    }


def test_models_of_a_vmap_are_trained_apart(rng):
    net = serial(conv=Conv(3, 2), norm=BatchNorm(), relu=jax.nn.relu)
    keys, x = jax.random.split(KEY, 3), _normal(rng)
    init, apply = jax.jit(net.init), jax.jit(partial(net.apply, train=True))
    params, state = jax.vmap(init, (0, None))(keys, x)
    y, _ = jax.vmap(apply, (0, 0, None))(params, state, x)
    for i, key in enumerate(keys):
        expected, _ = apply(*init(key, x), x)
        np.testing.assert_allclose(y[i], expected, rtol=1e-4, atol=1e-4)


# --- what layers refuse when they are made ---

IMAGE = jax.ShapeDtypeStruct((2, 6, 5, 4), jnp.float32)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: Conv(8, 3, feature_group_count=3),
            "feature_group_count=3 must divide the 8 features",
        ),
        (
            lambda: Conv(8, 3, feature_group_count=0),
            "feature_group_count must be at least 1, got 0",
        ),
        (lambda: DepthwiseConv(0, 3), "multiplier must be at least 1, got 0"),
        (lambda: BatchNorm(momentum=1.1), "momentum must be from 0 to 1, got 1.1"),
        (
            lambda: Conv(8, 3, feature_group_count=8).init(KEY, IMAGE),
            "feature_group_count=8 must divide the 4 channels of x",
        ),
        (lambda: Conv(8, (3, 3, 3)).init(KEY, IMAGE), "kernel_size must be .*2 ints"),
        *(
            (
                lambda layer=layer: layer.init(KEY, jax.ShapeDtypeStruct((2, 4), "f4")),
                r"x must be \[N, \*spatial, C\] .*got shape \(2, 4\)",
            )
            for layer in (Conv(8, 3), ConvTranspose(8, 3), DepthwiseConv(1, 3))
        ),
    ],
)
def test_layers_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_whose_numbers_are_not_integers():
    with pytest.raises(TypeError, match="feature_group_count must be an integer"):
        Conv(8, 3, feature_group_count=2.0)  # pyright: ignore
    with pytest.raises(TypeError, match="multiplier must be an integer, got 1.5"):
        DepthwiseConv(1.5, 3)  # pyright: ignore


# --- errors say where, what was given and what was expected ---


def _deep(**parts):
    return serial(stem=Conv(4, 3), stage=serial(block=residual(serial(**parts))))


@pytest.mark.parametrize(
    "net, shape, message",
    [
        (
            _deep(conv=Conv(4, 3), far=Conv(4, 3, kernel_dilation=9, padding="VALID")),
            (2, 6, 5, 4),
            r"^stage/block/body/far: the window of 19 .*input of 6 .*"
            r"x \[N, \*spatial, C\]; x is float32\[2, 6, 5, 4\]$",
        ),
        (
            _deep(conv=Conv(1, 3)),
            (2, 6, 5, 4),
            r"^stage/block: body and shortcut of a residual must give the same shape, "
            r"got \(2, 6, 5, 1\) and \(2, 6, 5, 4\); x is float32\[2, 6, 5, 4\]$",
        ),
        (
            _deep(pool=serial(mean=MaxPool(6, strides=1, padding=((0, 0), (1, 0))))),
            (2, 6, 5, 4),
            r"^stage/block: body and shortcut .* \(2, 1, 1, 4\) and \(2, 6, 5, 4\)",
        ),
        (
            serial(conv=Conv(4, 3), pool=MaxPool(2), head=Dense(3)),
            (2, 6, 5, 4),
            r"^head: x must be \[N, C\] or \[N, T, C\], got shape \(2, 3, 2, 4\): is a "
            "flatten missing",
        ),
        (
            serial(conv=Conv(4, (3, 3)), pool=MaxPool(2)),
            (6, 5, 4),
            r"^conv: kernel_size must be .*1 ints, got \(3, 3\); x is float32",
        ),
        (
            serial(conv=Conv(4, 3)),
            (6, 5),
            r"^conv: x must be \[N, \*spatial, C\] .*got shape \(6, 5\)",
        ),
        (
            serial(conv=Conv(4, 3), pool1=MaxPool(2), pool2=MaxPool(2)),
            (2, 3, 32, 32),  # channels first
            r"^pool2: the window of 2 .*; x is float32\[2, 1, 16, 4\]$",
        ),
        (
            serial(norm=GroupNorm(3)),
            (2, 6, 5, 4),
            "^norm: num_groups=3 must divide the 4 channels of x",
        ),
    ],
)
def test_errors_of_parts_begin_with_their_path(net, shape, message):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError) as raised:
        net.init(KEY, x)
    assert re.search(message, str(raised.value)), raised.value
    assert raised.value.__cause__ is None and "\n" not in str(raised.value)


def test_errors_at_apply_have_the_path_too():
    net = _deep(conv=Conv(4, 3))
    x = jnp.ones((2, 6, 5, 4))
    params, state = net.init(KEY, x)
    with pytest.raises(ValueError, match=r"^stem: params must be .*\(3, 3, 3, 4\)"):
        net.apply(params, state, jnp.ones((2, 6, 5, 3)))
    with pytest.raises(TypeError, match="^stem: x must be floating point, got uint8"):
        jax.jit(net.apply)(params, state, jnp.ones((2, 6, 5, 4), jnp.uint8))


def _without(tree, *path):
    *parents, last = path
    tree = jax.tree.map(lambda a: a, tree)
    node = tree
    for name in parents:
        node = node[name]
    del node[last]
    return tree


def test_parameters_and_state_must_be_those_of_init():
    net = serial(conv1=Conv(4, 3), norm=BatchNorm(), conv2=Conv(2, 1))
    x = jnp.ones((2, 6, 5, 4))
    params, state = net.init(KEY, x)
    wrong = {
        r"conv1: params must be .*\(3, 3, 4, 4\).*got {}": (
            _without(params, "conv1"),
            state,
        ),
        r"conv1: params must be .*'bias': \(4,\)}, got {'kernel'": (
            _without(params, "conv1", "bias"),
            state,
        ),
        r"conv1: params .*got .*\(1, 1, 4, 2\)": (
            params | {"conv1": params["conv2"]},
            state,
        ),
        "conv1: params must be arrays": (state, params),
        "norm: state must be .*'mean'.*got {}": (params, {}),
        r"norm: state .*got .*\(5,\)": (
            params,
            {"norm": state["norm"] | {"var": jnp.ones(5)}},
        ),
        "conv1: params .*got .*'more'": (
            params | {"conv1": params["conv1"] | {"more": jnp.ones(4)}},
            state,
        ),
    }
    for message, (given, given_state) in wrong.items():
        with pytest.raises(ValueError, match=f"^{message}"):
            net.apply(given, given_state, x)
    for given in ([params], (params, state), x, None):
        with pytest.raises(TypeError, match="conv1: params must be a dict"):
            net.apply(given, state, x)  # pyright: ignore


@pytest.mark.parametrize(
    "part", [MaxPool, BatchNorm, Conv, Dropout, GroupNorm, jcnn.models.vgg, serial]
)
def test_what_makes_layers_must_be_called(part):
    message = f"wrong must be a Layer or a .*got {part.__name__}, which makes layers"
    with pytest.raises(TypeError, match=message):
        serial(good=Conv(4, 3), wrong=part)
    with pytest.raises(TypeError, match="<lambda> makes a layer: it must be called"):
        serial(wrong=lambda x: MaxPool(2)).apply({}, {}, jnp.ones((1, 2)))


def test_names_of_parts_hold_no_slash():
    with pytest.raises(ValueError, match="must not contain '/', got 'a/b'"):
        serial(**{"a/b": Conv(4, 3)})


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 28, 28)])
def test_images_with_channels_first_are_refused_by_models(shape):
    message = r"x must have its channels last, as \[N, H, W, C\], got shape"
    x = jnp.ones(shape)
    for model in (jcnn.models.resnet20(), jcnn.models.lenet5(), jcnn.models.vgg()):
        with pytest.raises(ValueError, match=message):
            model.init(KEY, x)
        with pytest.raises(ValueError, match=r"\[N, H, W, C\], got shape"):
            model.init(KEY, x[0])


def test_logits_of_the_wrong_rank_are_refused():
    net = serial(conv=Conv(10, 3))
    loss_fn, _ = jcnn.train.classification(net, lambda images, key: images)
    x = jnp.ones((2, 6, 5, 4))
    batch = {"image": x, "label": jnp.zeros(2, jnp.int32)}
    with pytest.raises(
        ValueError, match=r"logits \[N, classes\] .*is a flatten missing"
    ):
        jax.eval_shape(loss_fn, *net.init(KEY, x), batch, KEY)


# --- pickled and copied ---


def _doubled(x):
    return 2 * x


def test_layers_can_be_pickled_and_copied(rng):
    net = serial(
        conv=Conv(4, 3),
        up=ConvTranspose(4, 2),
        depthwise=DepthwiseConv(1, 3),
        norm=BatchNorm(momentum=np.float32(0.5)),
        relu=jax.nn.relu,
        gelu=jax.nn.gelu,
        tanh=jnp.tanh,
        twice=_doubled,
        block=residual(serial(norm=GroupNorm(2), drop=Dropout(0.3))),
        both=parallel(jnp.add, a=MaxPool(2), b=AvgPool(2)),
        flat=jcnn.flatten,
        layer_norm=LayerNorm(),
        head=Dense(3),
    )
    x = _normal(rng)
    params, state = net.init(KEY, x)
    expected = net.apply(params, state, x, train=True, key=KEY)
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net), copy.copy(net)):
        assert _equal(other.init(KEY, x), (params, state))
        assert _equal(other.apply(params, state, x, train=True, key=KEY), expected)
    for model in (jcnn.models.resnet20(), jcnn.models.small_cnn(dropout=0.5)):
        pickle.loads(pickle.dumps(model))


def test_what_cannot_be_pickled_is_named():
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(serial(double=lambda x: 2 * x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layer", [Dense(2), Conv(2, 1), LayerNorm(), GroupNorm(1)])
def test_gradients_of_a_mapped_batch_are_sums_in_float32(layer, dtype):
    """Examples one by one: the sum is then over what vmap maps."""
    shape = (2,) if "dense_kernel" in str(layer.init) else (4, 2)
    x = jnp.broadcast_to(jnp.arange(2).astype(dtype), (9000, *shape))
    params, state = layer.init(KEY, x)

    def total(params):
        one = lambda x: layer.apply(params, state, x[None])[0]  # noqa: E731
        return jax.vmap(one)(x).astype(jnp.float32).sum()

    bias = jax.jit(jax.grad(total))(params)["bias"]
    np.testing.assert_allclose(bias, x.size // 2, rtol=1e-6)


def test_complex_parameters_are_refused_beside_real_numbers():
    layer = Conv(2, 1, param_dtype="complex64")
    x = jnp.ones((1, 3, 3, 2))
    with pytest.raises(TypeError, match="kernel must be real as x is, got complex64"):
        layer.apply(*layer.init(KEY, x), x)
