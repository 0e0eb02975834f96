"""The summary of functions that are no layers: closed forms, and other libraries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jcnn import accelerate, conv, conv_transpose, dense, serial, summarize
from jcnn.inspect.explanation import operations
from jcnn.layers import BatchNorm, Conv, Dense, Layer, MaxPool
from jcnn.models import lenet5, resnet20, unet, vgg


def _zeros(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# --- functions of lax ---


class _Drawn:
    """A function of lax, its parameters, and its rows by closed forms and by loops."""

    def __init__(self, rng, channels_first):
        self.first = channels_first
        size = [int(n) for n in rng.integers(40, 50, 2)]
        channels = int(rng.integers(1, 4))
        self.image = self._shape(size, channels)
        self.params, self.steps, self.rows = [], [], []
        seen = [[{i} for i in range(n)] for n in size]
        for i in (1, 2):
            kernel = [int(k) for k in rng.integers(1, 5, 2)]
            strides = [int(s) for s in rng.integers(1, 3, 2)]
            padding, features = str(rng.choice(["SAME", "VALID"])), i + 4
            shape = (features, channels, *kernel)
            shape = shape if channels_first else (*kernel, channels, features)
            bias = (features, 1, 1) if channels_first else (features,)
            self.params.append((_zeros(*shape), _zeros(*bias)))
            self.steps.append((strides, padding))
            outputs = zip(seen, kernel, strides)
            seen = [_slide(axis, k, s, padding) for axis, k, s in outputs]
            taps = channels * math.prod(kernel)
            products = math.prod(map(len, seen)) * features * taps
            count = features * (taps + 1)
            self._row(f"convolution {i}", seen, features, count, products)
            seen = [_slide(axis, 2, 2, "VALID") for axis in seen]
            self._row(f"max pool {i}", seen, features, 0, 0)
            channels = features
        inputs = channels * math.prod(map(len, seen))
        self.params.append((_zeros(inputs, 7), _zeros(7)))
        field = tuple(_extent([set().union(*axis)]) for axis in seen)
        self.rows.append(("matrix product 1", (7,), 7 * inputs + 7, 7 * inputs, field))

    def _shape(self, size, channels):
        return (channels, *size) if self.first else (*size, channels)

    def _row(self, name, seen, features, count, products):
        shape = self._shape(list(map(len, seen)), features)
        self.rows.append((name, shape, count, products, tuple(map(_extent, seen))))

    def __call__(self, params, x):
        layouts = ("NCHW", "OIHW", "NCHW") if self.first else ("NHWC", "HWIO", "NHWC")
        window = (1, *self._shape((2, 2), 1))
        for (kernel, bias), step in zip(params, self.steps):
            x = lax.conv_general_dilated(x, kernel, *step, dimension_numbers=layouts)
            x = jax.nn.relu(
                x + bias[None] if self.first else x + bias[None, None, None]
            )
            x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
        kernel, bias = params[-1]
        return jax.nn.log_softmax(x.reshape(len(x), -1) @ kernel + bias[None])


def _slide(seen, taps, stride, padding):
    """The pixels that each window sees, from those that each of its taps sees."""
    if padding == "VALID":
        low, number = 0, (len(seen) - taps) // stride + 1
    else:
        number = -(-len(seen) // stride)
        low = max((number - 1) * stride + taps - len(seen), 0) // 2
    return [
        set().union(*seen[max(o * stride - low, 0) : max(o * stride - low + taps, 0)])
        for o in range(number)
    ]


def _extent(seen):
    return max(max(pixels) - min(pixels) + 1 for pixels in seen)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_rows_of_drawn_functions_of_lax(seed, channels_first):
    drawn = _Drawn(np.random.default_rng([seed, 3]), channels_first)
    rows = summarize(drawn, drawn.params, _zeros(4, *drawn.image))
    assert [row[:5] for row in rows] == drawn.rows
    assert [r.output_bytes for r in rows] == [4 * math.prod(r[1]) for r in drawn.rows]
    assert [row.param_bytes for row in rows] == [4 * row[2] for row in drawn.rows]
    named = {f"layer{i}": dict(zip("wb", p)) for i, p in enumerate(drawn.params)}
    rows = summarize(
        lambda p, x: drawn([(q["w"], q["b"]) for q in p["net"].values()], x),
        {"net": named},
        _zeros(4, *drawn.image),
    )
    names = ["layer0", "max pool 1", "layer1", "max pool 2", "layer2"]
    expected = [(f"net/{n}" if n in named else n) for n in names]
    assert [row[:5] for row in rows] == [
        (name, *row[1:]) for name, row in zip(expected, drawn.rows)
    ]


def test_parameters_count_once_where_the_image_meets_them():
    params = {
        "first": {"v": _zeros(27, 4), "g": _zeros(4)},
        "second": {"w": _zeros(6, 4, 3, 3)},
        "shared": {"s": _zeros()},
        "unused": {"u": _zeros(5, dtype="bfloat16"), "steps": _zeros(7, dtype="int32")},
        "seed": {"key": jax.eval_shape(lambda: jax.random.key(0))},
    }

    def function(params, x):
        # By weight normalisation, in another shape and dtype.
        v, g = params["first"]["v"], params["first"]["g"]
        w = (v * (g / jnp.linalg.norm(v, axis=0))[None]).reshape(3, 3, 3, 4)
        x = conv(x, w.astype(x.dtype), impl="lax")
        x = x * params["shared"]["s"].astype(x.dtype)
        w = params["second"]["w"].transpose(2, 3, 1, 0) + params["shared"]["s"]
        noise = jax.random.normal(params["seed"]["key"], x.shape, x.dtype)
        return conv(x + noise, w.astype(x.dtype), impl="lax").sum((1, 2))

    rows = summarize(function, params, _zeros(2, 8, 9, 3, dtype="bfloat16"))
    assert [(r.name, r.params, r.param_bytes, r.output_bytes) for r in rows] == [
        ("first", 108 + 4, 4 * 112, 2 * 8 * 9 * 4),
        ("shared", 1, 4, 2 * 8 * 9 * 4),
        ("second", 216, 4 * 216, 2 * 8 * 9 * 6),  # though sums are wider
        ("unused", 5, 10, None),
    ]
    assert rows[-1][1:5] == (None, 5, 0, (None, None))


def test_arrays_of_numpy_and_what_is_no_array_are_taken_too():
    def function(params, x):
        return conv(x, params["w"]) * params["scale"] + params["bias"](x)[..., :1]

    params = {"w": np.ones((3, 3, 2, 4)), "scale": 2.0, "bias": jnp.sin}
    (row,) = summarize(function, params, np.ones((3, 8, 9, 2)))
    # In JAX's default dtype.
    assert row[:2] == ("convolution 1", (8, 9, 4))
    assert (row.params, row.param_bytes, row.output_bytes) == (72, 288, 4 * 288)


def test_parameters_of_loops_and_conditions_count_once():
    kernels, other = _zeros(5, 3, 3, 2, 2), _zeros(1, 1, 2, 2)

    def function(params, x):
        def layer(x, kernel):
            return lax.cond(
                x.sum() > 0, lambda: conv(x, kernel), lambda: conv(x, params["other"])
            ), None

        return lax.scan(layer, x, params["kernels"])[0]

    params = {"kernels": kernels, "other": other}
    rows = summarize(function, params, _zeros(1, 8, 8, 2))
    assert sum(row.params for row in rows) == _size(params)
    assert sum(row.multiply_adds for row in rows) == 5 * 64 * 9 * 2 * 2


def test_named_scopes_are_parts_and_what_they_share_is_told_apart():
    def layer(scope, params, x):
        with jax.named_scope(scope):
            return conv(x, params["w"]) + params["b"][None, None, None]

    def function(scopes, params, x):
        for scope, p in zip(scopes, params["layers"]):
            x = layer(scope, p, x)
        return x

    params = {"layers": [{"w": _zeros(3, 3, 2, 2), "b": _zeros(2)}] * 2}
    x = _zeros(1, 8, 8, 2)
    for scopes, names in (
        (("a", "b/c"), ["a", "b/c"]),
        (("Conv", "Conv"), ["layers/0", "layers/1"]),
        (("", ""), ["layers/0", "layers/1"]),
    ):
        rows = summarize(lambda p, x, s=scopes: function(s, p, x), params, x)
        assert [(row.name, row.params) for row in rows] == [(n, 38) for n in names]
        assert [row.receptive_field for row in rows] == [(3, 3), (5, 5)]


def test_kinds_of_parts_without_names():
    def function(params, x):
        x = conv_transpose(x, params[0], strides=2)
        x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return dense(x.reshape(1, -1), params[1]) @ params[1].T @ params[1]

    params = [_zeros(2, 2, 3, 3), _zeros(48, 5)]
    rows = summarize(function, params, _zeros(1, 4, 4, 3))
    names = ["convolution 1", "sum pool 1"] + [f"matrix product {i}" for i in (1, 2, 3)]
    assert [row.name for row in rows] == names
    assert [row.params for row in rows] == [36, 0, 240, 0, 0]


def test_a_norm_without_a_name_does_not_change_the_part_before_it():
    def function(params, x):
        x = conv(x, params["conv"]["w"])
        mean, var = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
        scale = lax.rsqrt(var + 1e-6) * params["norm"]["scale"][None, None, None]
        x = (x - mean) * scale
        return conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), params["last"]["w"])

    params = {name: {"w": _zeros(3, 3, 2, 2)} for name in ("conv", "last")}
    params["norm"] = {"scale": _zeros(2)}
    rows = summarize(function, params, _zeros(1, 8, 9, 2))
    assert [row[:5] for row in rows] == [
        ("conv", (8, 9, 2), 36, 72 * 36, (3, 3)),
        ("norm", (8, 9, 2), 2, 0, (8, 9)),
        ("last", (10, 11, 2), 36, 110 * 36, (8, 9)),
    ]


# --- layers ---


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lenet5(), (4, 28, 28, 1)),
        (vgg(widths=(4, 6)), (4, 8, 12, 3)),
        (resnet20(), (4, 32, 32, 3)),
        (unet(3, widths=(4, 8)), (4, 16, 16, 3)),
        (serial(conv=Conv(4, 3), norm=BatchNorm(), pool=MaxPool(2)), (4, 9, 8, 1)),
    ],
    ids=["lenet5", "vgg", "resnet20", "unet", "small"],
)
def test_a_layer_is_a_function_whose_parameters_are_at_the_paths_of_its_parts(
    layer, shape
):
    x = _zeros(*shape)
    rows = summarize(layer, x)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert summarize(layer.apply, params, state, x) == rows
    for row in rows:
        entry = params
        for name in row.name.split("/"):
            entry = entry.get(name, {})
        arrays = [v for v in entry.values() if not isinstance(v, dict)]
        assert row.params == _size(arrays)
        assert row.param_bytes == 4 * row.params
        assert row.output_bytes == 4 * math.prod(row.output_shape)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("number", [1, 3, 256])
def test_algorithms_are_those_of_explain(number, accelerated):
    net = serial(
        a=Conv(8, 3), b=Conv(8, 3, impl="im2col"), c=Conv(40, 1), d=Conv(40, 3)
    )

    def function(params, x):
        y, _ = net.apply(params["net"], {}, x)
        return lax.conv(y.transpose(0, 3, 1, 2), params["last"], (1, 1), "SAME")

    x = _zeros(number, 16, 16, 2)
    params = {"net": jax.eval_shape(net.init, jax.random.key(0), x)[0]}
    params["last"] = _zeros(4, 40, 3, 3)
    found = operations(function, params, x, accelerated=accelerated)
    expected = [operation.algorithm for operation in found]
    rows = summarize(function, params, x, accelerated=accelerated)
    assert [row.algorithm for row in rows if row.multiply_adds] == expected
    assert expected[1] == "im2col" and (expected[-1] == "lax") != accelerated
    if accelerated:
        with accelerate():
            assert summarize(function, params, x) == rows


def test_algorithms_are_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr("jcnn.engine.planner.lanes", lambda: 8)  # as with AVX2
    layer = Conv(256, 3)

    def algorithm(number, function=layer):
        return summarize(function, _zeros(number, 16, 16, 256))[0].algorithm

    assert algorithm(1) != algorithm(32) == "winograd"
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), _zeros(1, 16, 16, 256))

    def one_by_one(params, x):
        return lax.map(lambda x: layer.apply(params, {}, x[None])[0], x)

    row = summarize(one_by_one, params, _zeros(32, 16, 16, 256))[-1]
    assert row.algorithm == algorithm(1) and row.receptive_field == (3, 3)


def test_on_other_devices_no_algorithm_is_told(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (row,) = summarize(Conv(4, 3), _zeros(1, 8, 8, 2))
    assert row.algorithm == "" and row.multiply_adds == 64 * 9 * 2 * 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((jnp.tanh,), "x must be an array"),
        ((lambda p, x: x, {}, 3.0), "x must be an array"),
        ((lambda p, x: x, {}, {"x": jnp.ones(3)}), "x must be an array"),
        ((Dense(3), {}, _zeros(1, 2)), "layer must be a function .* got .*Layer"),
        (("conv", {}, _zeros(1, 2)), "layer must be a function .* got .*str"),
    ],
)
def test_what_is_no_function_or_no_image_is_refused(args, message):
    with pytest.raises(TypeError, match=message):
        summarize(*args)


# --- other libraries ---


def _by_name(rows):
    return {row.name: row for row in rows}


def test_flax_linen():
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x):
            x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
            return nn.relu(nn.BatchNorm(use_running_average=True)(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(Block(5)(x), (2, 2), (2, 2))
            x = nn.avg_pool(Block(7)(x), (2, 2), (2, 2))
            x = nn.WeightNorm(nn.Conv(3, (1, 1)))(x)
            return nn.Dense(4)(x.reshape(len(x), -1))

    net, x = Net(), _zeros(2, 12, 10, 3)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    params = variables["params"]
    assert sum(r.params for r in summarize(net.apply, variables, x)) == _size(variables)
    rows = summarize(
        lambda params, state, x: net.apply({"params": params, **state}, x),
        params,
        {"batch_stats": variables["batch_stats"]},
        x,
    )
    found = _by_name(rows)
    assert sum(row.params for row in rows) == _size(params)
    for block in ("Block_0", "Block_1"):
        for name, layer in params[block].items():
            assert found[f"Net/{block}/{name}"].params == _size(layer)
    assert found["Net/Dense_0"].params == _size(params["Dense_0"])
    shapes = [found[name].output_shape for name in ("max pool 1", "sum pool 1")]
    assert shapes == [(6, 5, 5), (3, 2, 7)]
    assert found["Net/Block_1/Conv_0"].receptive_field == (8, 8)


@pytest.mark.parametrize("divided", [False, True])
def test_flax_nnx(divided):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 5, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(5, rngs=rngs)
            self.group = nnx.GroupNorm(5, 5, use_bias=False, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            head = nnx.Linear(60, 4, rngs=rngs)
            self.head = nnx.Sequential(nnx.relu, head)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
            x = self.group(x)
            return self.head(self.drop(x.reshape(len(x), -1)))

    net, x = Net(nnx.Rngs(0)), _zeros(2, 8, 6, 3)
    if divided:
        net.eval()
        graph, params, rest = nnx.split(net, nnx.Param, ...)
        rows = summarize(lambda p, r, x: nnx.merge(graph, p, r)(x), params, rest, x)
        counted = nnx.Param
    else:  # training, with batch statistics and random numbers
        net.train()
        rows = summarize(lambda net, x: net(x), net, x)
        counted = nnx.Any(nnx.Param, nnx.BatchStat)
    assert [row[:2] for row in rows] == [
        ("conv", (8, 6, 5)),
        ("norm", (8, 6, 5)),
        ("max pool 1", (4, 3, 5)),
        ("group", (4, 3, 5)),
        ("head/layers/1", (4,)),
    ]
    layers = [net.conv, net.norm, None, net.group, net.head.layers[1]]
    for row, layer in zip(rows, layers):
        assert row.params == (_size(nnx.state(layer, counted)) if layer else 0)
    assert sum(row.params for row in rows) == _size(nnx.state(net, counted))


def test_equinox():
    eqx = pytest.importorskip("equinox")
    keys = iter(jax.random.split(jax.random.key(0), 4))
    net = eqx.nn.Sequential(
        [
            # Depthwise and pointwise, with nothing between.
            eqx.nn.Conv2d(1, 4, 3, padding=1, key=next(keys)),
            eqx.nn.Conv2d(4, 4, 3, groups=4, padding=1, key=next(keys)),
            eqx.nn.Conv2d(4, 6, 1, key=next(keys)),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Lambda(lambda x: x.reshape(-1)),
            eqx.nn.Linear(72, 5, key=next(keys)),
        ]
    )
    rows = summarize(lambda net, x: jax.vmap(net)(x), net, _zeros(3, 1, 8, 6))
    found = _by_name(rows)
    for i in (0, 1, 2, 6):
        own = eqx.filter(net.layers[i], eqx.is_array)
        assert found[f"layers/{i}"].params == _size(own)
    assert sum(r.params for r in rows) == _size(eqx.filter(net, eqx.is_array))
    fields = [found[f"layers/{i}"].receptive_field for i in (0, 1, 2, 6)]
    assert fields == [(3, 3), (5, 5), (5, 5), (8, 6)]
    products = [found[f"layers/{i}"].multiply_adds for i in (0, 1, 2, 6)]
    assert products == [48 * 36, 48 * 36, 48 * 24, 360]


def test_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    net = keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            keras.layers.Conv2D(5, 3, strides=2, padding="same", name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Dropout(0.5, name="dropout"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(4, name="dense"),
        ]
    )
    trained, others = net.trainable_variables, net.non_trainable_variables
    with jax.numpy_rank_promotion("allow"):
        rows = summarize(net.stateless_call, trained, others, _zeros(2, 12, 10, 3))
    names = ["conv", "norm", "depthwise", "pool", "flatten", "dense"]
    assert [row.name for row in rows] == names
    for row in rows:
        layer = net.get_layer(row.name)
        assert row.params == sum(v.value.size for v in layer.trainable_variables)
        assert row.output_shape == layer.output.shape[1:]
    assert sum(row.params for row in rows) == _size([v.value for v in trained])


def test_a_layer_of_nested_parameters_has_a_row_for_each():
    def init(key, x):
        return {name: {"w": jnp.zeros((1, 1, 2, 2))} for name in "ab"}, {}

    def apply(params, state, x, *, train=False, key=None):
        return conv(conv(x, params["a"]["w"]), params["b"]["w"]), state

    net = serial(first=Conv(2, 3), both=Layer(init, apply))
    rows = summarize(net, _zeros(1, 8, 8, 2))
    assert [row.name for row in rows] == ["first", "both/a", "both/b"]
    assert [row.params for row in rows] == [38, 4, 4]
