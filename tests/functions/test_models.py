"""Models: counts from the papers, forward passes by PyTorch, gradients, export."""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

from jcnn import train
from jcnn.models import (
    imagenet_resnet,
    lenet5,
    resnet18,
    resnet20,
    small_cnn,
    unet,
    vgg,
)
from tests.helpers.stress import few_of

pytestmark = [
    pytest.mark.cover(1),
]

KEY = jax.random.key(3)

# Each model with the smallest image it is meant for, to be quick.
MODELS = {
    "lenet5": (lenet5, (28, 28, 1)),
    "small_cnn": (small_cnn, (8, 8, 1)),
    "vgg": (vgg, (8, 8, 3)),
    "resnet20": (resnet20, (8, 8, 3)),
    "resnet18": (resnet18, (8, 8, 3)),
}
EACH = pytest.mark.parametrize("name", MODELS)
NORMALISED = ("vgg", "resnet20", "resnet18")


def _shapes(layer, image):
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    return jax.eval_shape(layer.init, KEY, x)


def _count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _shaken(rng, tree):
    """He-normal kernels, and random numbers where zeros and ones are initialised."""

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            return values * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return np.abs(1 + 0.2 * values) if path[-1].key in ("scale", "var") else values

    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32),
        jax.tree_util.tree_map_with_path(draw, tree),
    )


# --- parameters ---


def _conv(size, inputs, outputs, bias):
    return size * size * inputs * outputs + bias * outputs


def _resnet(widths, blocks, image_channels, classes):
    """Two 3x3 convolutions a block, norms of two parameters, 1x1 where it widens."""
    total = _conv(3, image_channels, widths[0], False) + 2 * widths[0]
    inputs = widths[0]
    for width in widths:
        for _ in range(blocks):
            total += _conv(3, inputs, width, False) + _conv(3, width, width, False)
            total += 4 * width
            if inputs != width:
                total += _conv(1, inputs, width, False) + 2 * width
            inputs = width
    return total + widths[-1] * classes + classes


def _vgg(widths, image_channels, classes):
    total, inputs = 0, image_channels
    for width in widths:
        for _ in range(2):
            total += _conv(3, inputs, width, False) + 2 * width
            inputs = width
    return total + inputs * classes + classes


def _small(height, width, channels, widths, hidden, classes):
    flat = (height // 4) * (width // 4) * widths[1]
    convolutions = _conv(3, channels, widths[0], True) + _conv(3, *widths, True)
    return convolutions + (flat + 1) * hidden + (hidden + 1) * classes


_LENET = 156 + 2416 + 48120 + 10164  # C1, C3 with all maps connected, C5, F6


@pytest.mark.parametrize(
    ("layer", "image", "expected"),
    [
        (lenet5(), (28, 28, 1), _LENET + 850),
        (lenet5(7), (28, 28, 3), _LENET + 2 * 25 * 6 + 85 * 7),
        (small_cnn(), (28, 28, 1), _small(28, 28, 1, (32, 64), 256, 10)),
        (
            small_cnn(4, widths=(3, 5), hidden=7),
            (9, 13, 2),
            _small(9, 13, 2, (3, 5), 7, 4),
        ),
        (vgg(), (32, 32, 3), _vgg((64, 128, 256), 3, 10)),
        (vgg(5, widths=(4, 6)), (8, 8, 1), _vgg((4, 6), 1, 5)),
        (resnet20(), (32, 32, 3), _resnet((16, 32, 64), 3, 3, 10)),
        (
            resnet20(100, rematerialize=True),
            (32, 32, 3),
            _resnet((16, 32, 64), 3, 3, 100),
        ),
        (resnet18(), (32, 32, 3), _resnet((64, 128, 256, 512), 2, 3, 10)),
        (resnet18(100), (32, 32, 1), _resnet((64, 128, 256, 512), 2, 1, 100)),
    ],
)
def test_parameters_are_counted_by_the_closed_form(layer, image, expected):
    params, _ = _shapes(layer, image)
    assert _count(params) == expected


@pytest.mark.parametrize(
    ("layer", "image", "millions"),
    [
        (lenet5(), (28, 28, 1), 0.06),  # LeCun et al.: 60,000
        (resnet20(), (32, 32, 3), 0.27),  # He et al., table 6
        (resnet18(), (32, 32, 3), 11.17),
        # torchvision's documentation, rounded
        (imagenet_resnet(depth=18), (224, 224, 3), 11.69),
        (imagenet_resnet(depth=34, padding="SYMMETRIC"), (224, 224, 3), 21.80),
        (imagenet_resnet(), (224, 224, 3), 25.56),
        (imagenet_resnet(depth=101), (224, 224, 3), 44.55),
        (imagenet_resnet(depth=152), (224, 224, 3), 60.19),
    ],
)
def test_parameters_are_as_many_as_in_the_papers(layer, image, millions):
    params, _ = _shapes(layer, image)
    assert round(_count(params) / 1e6, 2) == millions


@EACH
def test_the_state_is_a_mean_and_a_variance_for_each_norm(name):
    model, image = MODELS[name]
    params, state = _shapes(model(), image)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    scales = sum(path[-1].key == "scale" for path in paths)
    assert len(jax.tree.leaves(state)) == 2 * scales
    norms = {"lenet5": 0, "small_cnn": 0, "vgg": 6, "resnet20": 21, "resnet18": 20}
    assert scales == norms[name]


# --- values, by PyTorch ---


class _Torch:
    """The operations that models are made of, as PyTorch does them."""

    def __init__(self):
        self.torch = pytest.importorskip("torch")
        self.f = self.torch.nn.functional

    def tensors(self, tree):
        return jax.tree.map(lambda a: self.torch.tensor(np.asarray(a)), tree)

    def conv(self, x, p, *, stride=1, same=True):
        kernel = p["kernel"].permute(3, 2, 0, 1)
        if same:
            pads = []
            for n, k in ((x.shape[3], kernel.shape[3]), (x.shape[2], kernel.shape[2])):
                total = max((-(-n // stride) - 1) * stride + k - n, 0)
                pads += [total // 2, total - total // 2]
            x = self.f.pad(x, pads)
        return self.f.conv2d(x, kernel, p.get("bias"), stride)

    def norm(self, x, p, s, train):
        mean, var = (None, None) if train else (s["mean"], s["var"])
        return self.f.batch_norm(x, mean, var, p["scale"], p["bias"], training=train)

    def dense(self, x, p):
        return x @ p["kernel"] + p["bias"]

    def flatten(self, x):
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)

    def unit(self, x, p, s, train):
        return self.norm(self.conv(x, p["conv"]), p["norm"], s["norm"], train).relu()

    def lenet5(self, x, p, s, train):
        x = self.f.avg_pool2d(self.conv(x, p["conv1"]).tanh(), 2)
        x = self.f.avg_pool2d(self.conv(x, p["conv2"], same=False).tanh(), 2)
        x = self.dense(self.flatten(x), p["fc1"]).tanh()
        return self.dense(self.dense(x, p["fc2"]).tanh(), p["head"])

    def small_cnn(self, x, p, s, train):
        for name in ("conv1", "conv2"):
            x = self.f.max_pool2d(self.conv(x, p[name]).relu(), 2)
        return self.dense(self.dense(self.flatten(x), p["fc1"]).relu(), p["head"])

    def vgg(self, x, p, s, train):
        for stage in ("stage1", "stage2", "stage3"):
            for unit in ("unit1", "unit2"):
                x = self.unit(x, p[stage][unit], s[stage][unit], train)
            x = self.f.max_pool2d(x, 2)
        return self.dense(x.mean((2, 3)), p["head"])

    def block(self, x, p, s, train, stride):
        p, s = p["sum"], s["sum"]
        body, state = p["body"], s["body"]
        y = self.conv(x, body["conv1"], stride=stride)
        y = self.norm(y, body["norm1"], state["norm1"], train).relu()
        y = self.conv(y, body["conv2"])
        y = self.norm(y, body["norm2"], state["norm2"], train)
        if "shortcut" in p:
            short, state = p["shortcut"], s["shortcut"]
            x = self.conv(x, short["conv"], stride=stride)
            x = self.norm(x, short["norm"], state["norm"], train)
        return (x + y).relu()

    def resnet20(self, x, p, s, train, stages=3, blocks=3):
        x = self.unit(x, p["stem"], s["stem"], train)
        for i in range(1, stages + 1):
            for j in range(1, blocks + 1):
                name, stride = f"stage{i}_block{j}", 2 if i > 1 and j == 1 else 1
                x = self.block(x, p[name], s[name], train, stride)
        return self.dense(x.mean((2, 3)), p["head"])

    def resnet18(self, x, p, s, train):
        return self.resnet20(x, p, s, train, stages=4, blocks=2)

    def imagenet_resnet18(self, x, p, s):
        stem, state = p["stem"], s["stem"]
        x = self.conv(x, stem["conv"], stride=2)
        x = self.norm(x, stem["norm"], state["norm"], False)
        # "SAME" of an even size: one pixel, behind. The ReLU's outputs are at least 0.
        x = self.f.max_pool2d(self.f.pad(x.relu(), (0, 1, 0, 1)), 3, 2)
        for i in range(1, 5):
            for j in (1, 2):
                name, stride = f"stage{i}_block{j}", 2 if i > 1 and j == 1 else 1
                x = self.block(x, p[name], s[name], False, stride)
        return self.dense(x.mean((2, 3)), p["head"])


class _Run(NamedTuple):
    """What a model was given, and what it made of it out of training and in it."""

    params: Any
    state: Any
    x: jax.Array
    logits: tuple[jax.Array, jax.Array]
    states: tuple[Any, Any]
    grads: Any


@lru_cache(None)
def _run(name, dtype="float32"):
    """All in one program, since these are slow to compile; x is cast to the dtype."""
    model, image = MODELS[name]
    layer = model()
    rng = np.random.default_rng(list(name.encode()))
    params, state = _shaken(rng, _shapes(layer, image))
    x = jnp.asarray(rng.normal(size=(6, *image)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, 6))

    @jax.jit
    def compute(params, state, x):
        def loss(params):
            y, new = layer.apply(params, state, x, train=True, key=KEY)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                y.astype(jnp.float32), labels
            )
            return losses.mean(), (y, new)

        grads, (trained, new) = jax.grad(loss, has_aux=True)(params)
        evaluated, same = layer.apply(params, state, x)
        return (evaluated, trained), (same, new), grads

    return _Run(params, state, x, *compute(params, state, x.astype(dtype)))


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_logits_are_those_of_pytorch(name, training):
    oracle, run = _Torch(), _run(name)
    p, s, x = oracle.tensors((run.params, run.state, run.x))
    expected = getattr(oracle, name)(x.permute(0, 3, 1, 2), p, s, training).numpy()
    y = run.logits[training]
    assert y.shape == expected.shape == (6, 10) and y.dtype == jnp.float32
    # A few float32 roundings in each of up to 20 layers, some of them normalised.
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


def test_imagenets_residual_network_is_pytorchs_with_same_padding(rng):
    oracle, layer = _Torch(), imagenet_resnet(depth=18)
    params, state = _shaken(rng, _shapes(layer, (64, 48, 3)))
    x = jnp.asarray(rng.normal(size=(2, 64, 48, 3)), jnp.float32)
    p, s, images = oracle.tensors((params, state, x))
    expected = oracle.imagenet_resnet18(images.permute(0, 3, 1, 2), p, s).numpy()
    y, _ = jax.jit(layer.apply)(params, state, x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@EACH
def test_logits_are_as_many_as_the_classes(name):
    model, image = MODELS[name]
    layer = model(7)
    x = jax.ShapeDtypeStruct((3, *image), jnp.float32)
    y, _ = jax.eval_shape(layer.apply, *jax.eval_shape(layer.init, KEY, x), x)
    assert y.shape == (3, 7)


def test_dropout_of_small_cnn_is_before_the_head(rng):
    layer = small_cnn(dropout=1.0)
    params, _ = _shapes(layer, (8, 8, 1))
    params = _shaken(rng, params)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 1)), jnp.float32)
    y, _ = jax.jit(partial(layer.apply, train=True, key=KEY))(params, {}, x)
    assert np.array_equal(y, np.tile(params["head"]["bias"], (2, 1)))
    assert not np.array_equal(jax.jit(layer.apply)(params, {}, x)[0], y)
    with pytest.raises(ValueError, match="key must be given"):
        layer.apply(params, {}, x, train=True)
    with pytest.raises(ValueError, match="rate must be from 0 to 1"):
        small_cnn(dropout=1.5)


def test_residual_networks_are_of_known_depths_and_paddings():
    with pytest.raises(ValueError, match=r"depth must be one of \[18, .*\], got 20"):
        imagenet_resnet(depth=20)
    for model in (imagenet_resnet, resnet18, resnet20):
        with pytest.raises(ValueError, match="padding must be 'SAME' or 'SYMM.*got 1"):
            model(padding=1)


def test_lenet5_wants_images_of_its_size():
    with pytest.raises(ValueError, match="larger than the input"):
        _shapes(lenet5(), (7, 7, 1))


# --- gradients and state ---


# ResNet-18 is made of the same blocks as ResNet-20, and slower to compile.
@pytest.mark.parametrize("name", few_of(["lenet5", "resnet20", "small_cnn", "vgg"], 2))
def test_in_bfloat16_a_model_is_close_to_float32_and_keeps_it(name):
    wide, short = _run(name), _run(name, "bfloat16")
    kept = (short.states, short.grads)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(kept))
    assert all(y.dtype == jnp.bfloat16 for y in short.logits)

    def error(got, expected):
        got, expected = (
            np.concatenate([np.ravel(a).astype("f8") for a in jax.tree.leaves(tree)])
            for tree in (got, expected)
        )
        return np.linalg.norm(got - expected) / np.linalg.norm(expected)

    # Roundings by 2^-9 of values that 5 to 21 layers pass on.
    assert error(short.logits, wide.logits) <= 2**-9 * np.sqrt(21)
    if name in NORMALISED:
        assert error(short.states[1], wide.states[1]) <= 2**-9
    # What is rounded to the other side of a ReLU, or of the second largest of a window,
    # has another gradient altogether. A factor or a term that is missing is more.
    assert error(short.grads, wide.grads) <= (0.02 if name == "lenet5" else 0.2)


@EACH
def test_every_parameter_is_used(name):
    run = _run(name)
    assert jax.tree.structure(run.grads) == jax.tree.structure(run.params)
    for path, grad in jax.tree_util.tree_flatten_with_path(run.grads)[0]:
        assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


@EACH
def test_training_and_nothing_else_moves_the_state(name):
    run = _run(name)
    same, new = run.states
    assert jax.tree.structure(new) == jax.tree.structure(run.state)
    for a, b, c in zip(*map(jax.tree.leaves, (run.state, same, new)), strict=True):
        assert np.array_equal(a, b)
        assert np.isfinite(c).all() and not np.any(c == a)
    assert bool(run.state) == (name in NORMALISED)


# --- export ---


@pytest.mark.parametrize("name", few_of(sorted(MODELS, key="resnet20".__ne__), 2))
def test_the_training_step_is_exported_for_all_platforms(name):
    model, image = MODELS[name]
    layer, tx = model(), optax.adam(1e-3)
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    state = jax.eval_shape(lambda key: train.create(layer, tx, key, x), KEY)
    loss_fn, _ = train.classification(
        layer, lambda images, key: images.astype(jnp.float32) / 255
    )
    batch = {
        "image": jax.ShapeDtypeStruct((4, *image), jnp.uint8),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    step = train.make_step(loss_fn, tx)
    exported = export.export(step, platforms=("cpu", "cuda", "tpu"))(state, batch)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    new, metrics = outputs
    for old, out in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert (out.shape, out.dtype) == (old.shape, old.dtype)
    assert sorted(metrics) == ["accuracy", "finite", "loss"]
    assert exported.nr_devices == 1 and "@main" in exported.mlir_module()


@pytest.mark.parametrize("size", ((13, 10), (7, 21), (1, 3)))
def test_a_unet_takes_any_size(size, rng):
    net = unet(3, widths=(4, 6, 8))
    x = jnp.asarray(rng.normal(size=(2, *size, 2)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    y, _ = net.apply(params, state, x)
    assert y.shape == (2, *size, 3)
    gradient = jax.grad(lambda x: net.apply(params, state, x)[0][:, -1, -1].sum())(x)
    assert np.any(gradient[:, -1, -1])
