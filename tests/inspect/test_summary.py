"""The summary: rows by hand, counts by closed form and XLA, fields by gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcnn
from jcnn import flatten, global_avg_pool, parallel, residual, serial, summarize
from jcnn.inspect.parts import part_outputs
from jcnn.inspect.summary import receptive_field
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
)
from jcnn.models import lenet5, resnet18, resnet20, small_cnn, vgg
from tests.helpers.stress import few_of


def _image(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct((1, *shape), jnp.dtype(dtype))


def _parameters(layer, x):
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))


def _rows(*args):
    """Without bytes and algorithms."""
    return [row[:5] for row in summarize(*args)]


# --- rows by hand ---


def test_rows_of_lenet5_are_those_by_hand():
    # name, output, parameters, products, receptive field
    expected = [
        ("conv1", (28, 28, 6), 5 * 5 * 6 + 6, 28 * 28 * 6 * 25, (5, 5)),
        ("pool1", (14, 14, 6), 0, 0, (6, 6)),
        ("conv2", (10, 10, 16), 5 * 5 * 6 * 16 + 16, 10 * 10 * 16 * 150, (14, 14)),
        ("pool2", (5, 5, 16), 0, 0, (16, 16)),
        ("flatten", (400,), 0, 0, (16, 16)),
        ("fc1", (120,), 401 * 120, 400 * 120, (28, 28)),
        ("fc2", (84,), 121 * 84, 120 * 84, (28, 28)),
        ("head", (10,), 85 * 10, 84 * 10, (28, 28)),
    ]
    assert _rows(lenet5(), _image(28, 28, 1)) == expected


def test_rows_of_small_cnn_are_those_by_hand():
    expected = [
        ("conv1", (28, 28, 32), 320, 28 * 28 * 32 * 9, (3, 3)),
        ("pool1", (14, 14, 32), 0, 0, (4, 4)),
        ("conv2", (14, 14, 64), 9 * 32 * 64 + 64, 14 * 14 * 64 * 288, (8, 8)),
        ("pool2", (7, 7, 64), 0, 0, (10, 10)),
        ("flatten", (3136,), 0, 0, (10, 10)),
        ("fc1", (256,), 3137 * 256, 3136 * 256, (28, 28)),
        ("head", (10,), 2570, 2560, (28, 28)),
    ]
    for net in (small_cnn(), small_cnn(dropout=0.5)):
        assert _rows(net, _image(28, 28, 1)) == expected


def test_nested_parts_are_known_by_their_paths():
    net = serial(
        stem=Conv(4, 3, strides=2),
        block=residual(serial(conv=Conv(4, 3), norm=BatchNorm()), Conv(4, 1)),
        fork=parallel(
            lambda a, b: jnp.concatenate([a, b], -1),
            pool=MaxPool(3, strides=3),
            b=_thin,
        ),
        mean=global_avg_pool,
        head=Dense(5, use_bias=False),
    )
    assert _rows(net, _image(18, 18, 2)) == [
        ("stem", (9, 9, 4), 76, 81 * 4 * 18, (3, 3)),
        ("block/body/conv", (9, 9, 4), 148, 81 * 4 * 36, (7, 7)),
        ("block/body/norm", (9, 9, 4), 8, 0, (7, 7)),
        ("block/shortcut", (9, 9, 4), 20, 81 * 16, (3, 3)),
        ("fork/pool", (3, 3, 4), 0, 0, (11, 11)),
        ("fork", (3, 3, 8), 0, 0, (11, 11)),
        ("mean", (8,), 0, 0, (18, 18)),
        ("head", (5,), 40, 40, (18, 18)),
    ]


def _thin(x):
    return x[:, ::3, ::3]


# --- totals ---


@pytest.mark.parametrize(
    ("model", "image"),
    [
        (lenet5(7), (28, 28, 3)),
        (small_cnn(), (9, 13, 2)),
        (vgg(widths=(4, 6)), (8, 12, 3)),
        (resnet20(), (32, 32, 3)),
        (resnet18(), (32, 32, 3)),
    ],
    ids=["lenet5", "small_cnn", "vgg", "resnet20", "resnet18"],
)
def test_no_parameter_is_forgotten(model, image):
    rows = summarize(model, _image(*image))
    assert sum(row.params for row in rows) == _parameters(model, _image(*image))
    assert len({row.name for row in rows}) == len(rows)


def test_products_of_resnet20_are_the_closed_form():
    stem = 32 * 32 * 9 * 3 * 16
    # 18 convolutions of 3x3; where the width doubles the area is a quarter.
    whole = 32 * 32 * 9 * 16 * 16
    shortcuts = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
    expected = stem + 16 * whole + 2 * whole // 2 + shortcuts + 64 * 10
    rows = summarize(resnet20(), _image(32, 32, 3))
    assert sum(row.multiply_adds for row in rows) == expected
    assert round(expected / 1e6) == 41
    assert sum(row.multiply_adds > 0 for row in rows) == 19 + 2 + 1


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (Conv(4, 3, padding="VALID", use_bias=False, impl="lax"), (9, 8, 2)),
        (
            Conv(4, (3, 2), padding="VALID", strides=2, use_bias=False, impl="lax"),
            (9, 8, 2),
        ),
        (
            Conv(6, 3, padding="VALID", kernel_dilation=2, use_bias=False, impl="lax"),
            (9, 8, 3),
        ),
        (
            Conv(
                4,
                3,
                padding="VALID",
                feature_group_count=2,
                use_bias=False,
                impl="lax",
            ),
            (9, 8, 2),
        ),
        (
            DepthwiseConv(3, 3, padding="VALID", use_bias=False, impl="lax"),
            (9, 8, 2),
        ),
        (Conv(3, 4, padding="VALID", use_bias=False, impl="lax"), (11, 2)),
        (Conv(3, 2, padding="VALID", use_bias=False, impl="lax"), (4, 5, 3, 2)),
        (Dense(7, use_bias=False), (5, 3)),
        (serial(flat=flatten, fc=Dense(7, use_bias=False)), (4, 5, 3)),
    ],
)
def test_products_are_half_of_xlas_operations(layer, image):
    """By lax: what oneDNN computes has no operations in XLA's count."""
    x = _image(*image)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    apply = jax.jit(lambda p, s, x: layer.apply(p, s, x)[0])
    operations = apply.lower(params, state, x).cost_analysis()["flops"]
    assert 2 * sum(r.multiply_adds for r in summarize(layer, x)) == operations > 0


@pytest.mark.parametrize("impl", ["auto", "lax"])
def test_products_of_a_transposed_convolution_leave_the_holes_out(impl):
    # Each of the 6 x 5 pixels is multiplied by the whole kernel, zeros by nothing.
    layer = ConvTranspose(3, 4, strides=2, impl=impl)
    (row,) = summarize(layer, _image(6, 5, 2))
    assert row[:4] == ("convolution 1", (12, 10, 3), 99, 30 * 3 * 16 * 2)


# --- receptive fields, by the gradient of one output ---


def _support(layer, x, shift):
    """Height, width, … of the pixels that an output near the centre depends on."""
    params, state = layer.init(jax.random.key(1), x)
    values = jax.random.normal(jax.random.key(2), x.shape)

    @jax.jit
    def gradient(values, place):
        def one(values):
            y, _ = layer.apply(params, state, values)
            for index in place:
                y = jax.lax.dynamic_index_in_dim(y, index, 1, keepdims=False)
            # Not a plain sum, which is 0 behind a layer norm.
            return jnp.vdot(y, jax.random.normal(jax.random.key(3), y.shape))

        return jax.grad(one)(values)

    y, _ = jax.eval_shape(layer.apply, params, state, x)
    place = jnp.array([n // 2 + shift for n in y.shape[1:-1]])
    seen = np.argwhere(np.any(np.asarray(gradient(values, place))[0], -1))
    return tuple(int(n) for n in seen.max(0) - seen.min(0) + 1)


@pytest.mark.parametrize(
    ("net", "image"),
    [
        (Conv(2, 3), (15, 16, 1)),
        (Conv(2, (1, 4), strides=(2, 3)), (15, 16, 1)),
        (serial(a=Conv(2, 3, strides=2), b=Conv(2, 5)), (31, 33, 1)),
        (
            serial(a=Conv(2, 3, strides=2), b=Conv(2, 3, kernel_dilation=(2, 1))),
            (31, 33, 1),
        ),
        (serial(a=Conv(2, 3), b=AvgPool(2), c=Conv(2, 3), d=AvgPool(3)), (48, 48, 1)),
        (
            serial(a=AvgPool(3, strides=2, padding="SAME"), b=DepthwiseConv(2, 3)),
            (31, 33, 2),
        ),
        (serial(a=Conv(2, 4, strides=3), b=Conv(2, 3, kernel_dilation=3)), (80, 1)),
        (
            # By lax: Winograd's rounding errors reach further than its sums.
            serial(
                a=Conv(1, 2, impl="lax"),
                b=Conv(1, 3, strides=2, impl="lax"),
                c=Conv(1, (1, 2, 3), impl="lax"),
            ),
            (13, 14, 15, 1),
        ),
        (
            serial(a=Conv(2, 3), b=residual(serial(c=Conv(2, 3), d=Conv(2, 5)))),
            (21, 22, 1),
        ),
        (
            serial(
                a=parallel(jnp.add, b=Conv(2, (5, 1)), c=Conv(2, (1, 7))), d=Conv(2, 1)
            ),
            (21, 22, 1),
        ),
        (serial(a=Conv(2, 3, impl="im2col"), b=Conv(2, 3, impl="im2col")), (11, 13, 1)),
        (serial(a=Conv(2, 3), b=BatchNorm(), c=Conv(3, 1), d=LayerNorm()), (11, 13, 1)),
        (serial(a=Conv(2, 3, padding_mode="CIRCULAR")), (11, 13, 1)),
        (serial(a=Conv(2, 3), b=lambda x: x[:, 1:-1], c=Conv(2, 3)), (15, 13, 1)),
    ],
)
def test_receptive_fields_are_the_support_of_the_gradient(net, image):
    x = _image(*image)
    field = summarize(net, x)[-1].receptive_field
    assert _support(net, x, 0) == field
    assert all(f < n for f, n in zip(field, image))


@pytest.mark.parametrize(
    "net",
    [
        serial(up=ConvTranspose(2, 4, strides=2)),
        serial(up=ConvTranspose(2, 3, strides=2)),
        serial(up=ConvTranspose(2, 2, strides=2), conv=Conv(2, 3)),
        serial(up=ConvTranspose(2, 4, strides=2), conv=Conv(2, 3)),
        serial(down=Conv(2, 3, strides=2), up=ConvTranspose(2, 4, strides=2)),
    ],
)
def test_after_enlargement_the_field_is_that_of_the_output_that_sees_most(net):
    x = _image(31, 33, 1)
    supports = [_support(net, x, shift) for shift in (0, 1)]
    largest = tuple(max(sizes) for sizes in zip(*supports))
    assert summarize(net, x)[-1].receptive_field == largest


@pytest.mark.parametrize(
    "mix",
    [
        global_avg_pool,
        lambda x: x.max((1, 2)),
        serial(norm=GroupNorm(1)),
        serial(flat=flatten, fc=Dense(3)),
        lambda x: jax.nn.softmax(x, axis=(1, 2)),
    ],
    ids=["mean", "max", "group norm", "dense", "softmax"],
)
def test_what_mixes_all_positions_sees_the_whole_image(mix):
    net = serial(conv=Conv(2, 3), mix=mix, last=lambda x: x[..., :1])
    rows = summarize(net, _image(9, 10, 1))
    assert rows[0].receptive_field == (3, 3)
    assert rows[-1].receptive_field == (9, 10)


def test_normalisation_has_no_products():
    for norm in (BatchNorm(), LayerNorm(), GroupNorm(2)):
        (row,) = summarize(norm, _image(4, 4, 6))
        assert row.multiply_adds == 0


def test_a_field_is_at_most_the_image():
    net = serial(a=Conv(2, 3), b=Conv(2, 5, kernel_dilation=3), c=Conv(2, 3))
    fields = [row.receptive_field for row in summarize(net, _image(40, 9, 1))]
    assert fields == [(3, 3), (15, 9), (17, 9)]


# --- drawn programs: a field is the support of the Jacobian, or unknown ---


def _kernel(*shape):
    return jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, shape), jnp.float32)


def _attend(x):
    tokens = x.reshape(1, -1, x.shape[-1])
    scores = jax.nn.softmax(tokens @ tokens.swapaxes(1, 2) / 50)
    return (scores @ tokens).reshape(x.shape)


def _patches(x):
    n, h, w, c = x.shape
    h, w = h // 2, w // 2
    cut = x[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(n, h * w, 4 * c) @ _kernel(4 * c, c)


def _unpatched(x):
    n, h, w, c = x.shape
    return _patches(x).reshape(n, h // 2, w // 2, c)


def _conv(size, **options):
    return lambda x: jcnn.conv(x, _kernel(*size, 2, 2), impl="lax", **options)


def _up(size, strides):
    kernel = _kernel(size, size, 2, 2)
    return lambda x: jcnn.conv_transpose(x, kernel, strides=strides, impl="lax")


_STEPS = {
    "conv": _conv((3, 2)),
    "strided": _conv((2, 3), strides=(2, 1)),
    "dilated": _conv((2, 2), kernel_dilation=(3, 2)),
    "valid": _conv((2, 1), padding="VALID"),
    "one-sided": _conv((3, 1), padding=((2, 0), (0, 0))),
    "pool": lambda x: jcnn.avg_pool(x, 2),
    "sums": lambda x: jcnn.avg_pool(x, 3, strides=1, padding=1),
    "lax's sums": lambda x: jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 2, 1, 1), (1, 1, 1, 1), "VALID"
    ),
    "up": _up(2, 2),
    "up, overlapping": _up(4, 2),
    "cropped": lambda x: x[:, 1:],
    "every second": lambda x: x[:, :, 1::2],
    "one row": lambda x: x[:, 1:2],
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))),
    "flipped": lambda x: x[:, ::-1],
    "flip added": lambda x: x + x[:, :, ::-1],
    "shift added": lambda x: x[:, 1:] + 2 * x[:, :-1],
    "first row added": lambda x: x + x[:, :1],
    "residual": lambda x: x + jnp.sin(_conv((1, 3))(x)),
    "centred": lambda x: x - x.mean((1, 2), keepdims=True),
    "rows gated": lambda x: x * x.mean(2, keepdims=True),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "from the end": lambda x: jax.lax.cumsum(x, 2, reverse=True),
    "attention": _attend,
    "patches": _unpatched,
    "repeated": lambda x: jnp.repeat(x, 2, axis=1),
    "joined": lambda x: jnp.concatenate([x[:, :2], x[:, 2:]], 1),
    "rolled": lambda x: jnp.roll(x, 1, axis=2),
    "resized": lambda x: jax.image.resize(
        x, (1, x.shape[1] + 1, x.shape[2], x.shape[3]), "linear"
    ),
    "transposed": lambda x: x.swapaxes(1, 2),
    "vmapped": jax.vmap(lambda x: _conv((3, 1))(x[None])[0]),
    "mapped": lambda x: jax.lax.map(lambda a: _conv((2, 2))(a[None])[0], x),
    "looped": lambda x: jax.lax.fori_loop(0, 3, lambda i, x: _conv((2, 1))(x), x),
    "by rows": lambda x: jax.lax.scan(
        lambda c, row: (c + row, c + row), x[:, 0], x.swapaxes(0, 1)
    )[1].swapaxes(0, 1),
    "branches": lambda x: jax.lax.cond(jnp.bool_(True), _conv((3, 3)), lambda x: x, x),
}


def _most_seen(function, x):
    """The extents of what the output depends on that depends on most."""
    seen = np.zeros(0)
    for seed in (0, 1):
        values = jax.random.uniform(jax.random.key(seed), x.shape, minval=0.5)
        jacobian = np.asarray(jax.jit(jax.jacobian(function))(values))
        some = (jacobian.reshape(-1, *x.shape) != 0).any((1, -1))
        seen = some | seen if seen.size else some
    extents = []
    for axis in (1, 2):
        line = seen.any(3 - axis)
        first, last = line.argmax(1), line.shape[1] - 1 - line[:, ::-1].argmax(1)
        extents.append(int(((last - first + 1) * line.any(1)).max()))
    return tuple(extents)


@pytest.mark.parametrize("seed", few_of(range(40), 10))
def test_fields_of_drawn_programs_are_those_of_the_jacobian_or_unknown(seed):
    rng = np.random.default_rng([seed, 17])
    x = jax.ShapeDtypeStruct((1, 9, 8, 2), jnp.float32)
    names, y = [], x
    while len(names) < 3:
        name = str(rng.choice(list(_STEPS)))
        try:
            new = jax.eval_shape(_STEPS[name], y)
        except (TypeError, ValueError):  # it does not fit into what is left
            continue
        if min(new.shape) and max(new.shape) <= 24:
            names.append(name)
            y = new

    # The last part has a row, since it changes the number of channels.
    parts = {f"part{i}": _STEPS[name] for i, name in enumerate(names)}
    net = serial(**parts, last=lambda x: jnp.concatenate([x, x], -1))
    row = summarize(net, x)[-1]
    measured = _most_seen(lambda x: net.apply({}, {}, x)[0], x)
    for told, there in zip(row.receptive_field, measured):
        assert told is None or told == there, names


def test_most_drawn_programs_are_known():
    x = _image(9, 8, 2)
    unknown = set()
    for name, step in _STEPS.items():
        net = serial(step=step, last=lambda x: jnp.concatenate([x, x], -1))
        if None in summarize(net, x)[-1].receptive_field:
            unknown.add(name)
    # A product with constants may be a resize, the kernel of "patches" is one.
    assert unknown == {"resized", "by rows", "patches"}


def test_rows_by_hand_of_what_is_no_chain_of_layers():
    x = _image(16, 16, 4)
    conv = Conv(4, 3)

    def tokens(x):
        return x.reshape(1, -1, x.shape[-1])

    def attend(x):
        scores = jax.nn.softmax(tokens(x) @ tokens(x).swapaxes(1, 2))
        return scores @ tokens(x)

    def patches(x):
        cut = x.reshape(1, 4, 4, 4, 4, 4).transpose(0, 1, 3, 2, 4, 5)
        return cut.reshape(1, 16, 64)

    def until_small(x):
        body = lambda x: jcnn.conv(x, jnp.ones((3, 3, 4, 4)))  # noqa: E731
        return jax.lax.while_loop(lambda x: x.sum() > 1, body, x)[:, ::2]

    assert summarize(jax.nn.relu, x) == []
    rows = _rows(serial(conv=conv, attention=attend), x)
    products = 2 * 256 * 256 * 4
    assert rows[1] == ("attention", (256, 4), 0, products, (16, 16))
    rows = _rows(serial(patches=patches, embed=Dense(8)), x)
    assert rows == [
        ("patches", (16, 64), 0, 0, (1, 1)),
        ("embed", (16, 8), 65 * 8, 16 * 64 * 8, (4, 4)),
    ]
    unknown = (None, None)
    assert _rows(until_small, x) == [("convolution 1", (16, 16, 4), 0, None, unknown)]
    assert summarize(lambda x: jnp.sort(x, 1)[:, ::2], x)[0].receptive_field == (16, 1)
    rows = _rows(lambda x: jnp.fft.fft(x, axis=1).real[:, ::2], x)
    assert rows == [("slice 1", (8, 16, 4), 0, None, unknown)]
    # Where the examples are along another axis, the shape of one is not told.
    (row,) = _rows(lambda x: x.swapaxes(0, 1), x)
    assert row == ("transpose 1", None, 0, 0, (1, 1))
    models = Layer(
        lambda key, x: (
            jax.vmap(lambda k: conv.init(k, x)[0])(jax.random.split(key, 5)),
            {},
        ),
        lambda p, s, x, *, train=False, key=None: (
            jax.vmap(lambda p: conv.apply(p, s, x)[0])(p),
            s,
        ),
    )
    (row,) = _rows(models, x)
    assert row == ("convolution 1", None, 5 * 148, 5 * 256 * 9 * 16, (3, 3))

    @jax.jit
    def _pad(x):
        return jnp.concatenate([x.mean(1, keepdims=True), x], 1)

    row = summarize(serial(pad=_pad, conv=Conv(2, 1)), x)[-1]
    assert row.receptive_field in ((16, 1), (None, 1))


@pytest.mark.parametrize("layer", [3, None, "conv", jnp.zeros(2), Conv])
def test_what_is_no_layer_is_refused(layer):
    with pytest.raises(TypeError, match="layer must be a Layer or a function"):
        summarize(layer, _image(4, 4, 1))
    with pytest.raises(TypeError, match="x must be an array"):
        summarize(jnp.tanh, 3.0)


# --- what it does not depend on ---


def test_the_batch_and_the_kind_of_x_do_not_matter():
    net = serial(conv=Conv(3, 3), norm=BatchNorm(), pool=MaxPool(2))
    expected = _rows(net, _image(9, 8, 2))
    assert _rows(net, jnp.zeros((5, 9, 8, 2))) == expected
    assert _rows(net, jax.ShapeDtypeStruct((0, 9, 8, 2), jnp.float32)) == expected
    assert _rows(net, np.zeros((3, 9, 8, 2), np.float32)) == expected
    assert _rows(net, _image(9, 8, 2, dtype="bfloat16")) == expected


def test_the_algorithm_of_the_convolution_does_not_matter():
    def rows(impl):
        net = serial(
            a=Conv(4, 3, strides=2, impl=impl),
            b=Conv(6, 3, feature_group_count=2, kernel_dilation=2, impl=impl),
            c=DepthwiseConv(2, 3, padding="VALID", impl=impl),
        )
        return _rows(net, _image(32, 28, 2))

    assert rows("im2col") == rows("lax")


def test_nothing_is_run():
    def never(x):
        jax.debug.callback(lambda: pytest.fail("it was run"))
        return x[:, ::2]

    net = serial(conv=Conv(4096, 5), never=never, drop=Dropout(0.5), fc=Conv(4096, 1))
    rows = summarize(net, _image(4096, 4096, 4096))  # 256 GiB
    assert [row.name for row in rows] == ["conv", "never", "fc"]
    assert rows[0].multiply_adds == 4096**4 * 25


def test_parts_that_change_nothing_have_no_row():
    net = serial(
        conv=Conv(3, 3), relu=jax.nn.relu, drop=Dropout(0.5), same=lambda x: 2 * x
    )
    assert [row.name for row in summarize(net, _image(9, 8, 2))] == ["conv"]


def test_networks_without_spatial_axes_have_no_field():
    rows = _rows(serial(a=Dense(3), tanh=jnp.tanh, b=Dense(2)), _image(4))
    assert rows == [
        ("a", (3,), 15, 12, ()),
        ("b", (2,), 8, 6, ()),
    ]


def test_images_of_integers_are_refused():
    with pytest.raises(TypeError, match="x must be floating point, got uint8"):
        summarize(serial(conv=Conv(2, 3)), _image(4, 4, 1, dtype="uint8"))


@pytest.mark.parametrize("position", ((0, 0), (2, 1), (3, 2)))
def test_the_receptive_field_of_a_position_is_where_its_gradient_is(position, rng):
    net = serial(
        conv=Conv(3, (3, 5), padding="SAME"),
        pool=AvgPool(2),
        block=residual(Conv(3, 3)),
        last=Conv(2, 2, padding="VALID"),
        head=lambda x: x.mean((1, 2)),
    )
    x = jnp.asarray(rng.normal(size=(1, 11, 9, 2)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)

    def value(x, name, where):
        outputs = part_outputs(lambda x: net.apply(params, state, x)[0], x)
        return outputs[name][(0, *where)].sum()

    for name, where in (("conv", position), ("last", position), ("head", ())):
        seen = np.argwhere(np.any(jax.grad(value)(x, name, where)[0], -1))
        expected = tuple(map(slice, seen.min(0), seen.max(0) + 1))
        assert receptive_field(net, x, name, where) == expected


def test_receptive_fields_of_what_is_not_there():
    net, x = serial(conv=Conv(3, 3)), jnp.zeros((1, 4, 5, 2))
    with pytest.raises(ValueError, match="part must be one of conv, got 'con'"):
        receptive_field(net, x, "con", (0, 0))
    for position in ((4, 0), (0, -1), (0, 0, 0), (0,)):
        with pytest.raises(ValueError, match=r"within \(4, 5\), the positions of conv"):
            receptive_field(net, x, "conv", position)
    square = serial(sort=lambda x: x[:, jnp.argsort(x[0, :, 0, 0])])
    with pytest.raises(ValueError, match="must see pixels that are known"):
        receptive_field(square, x, "sort", (0, 0))
