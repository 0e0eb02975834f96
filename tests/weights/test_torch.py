"""State dicts of PyTorch: residual networks layer by layer, others, refusals."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcnn
from jcnn.layers import BatchNorm, Conv, ConvTranspose, Dense, MaxPool
from jcnn.models import imagenet_resnet, resnet18
from jcnn.weights import from_torch, to_torch

KEY = jax.random.key(0)
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def _torch_resnet(depth, classes=1000, cifar=False):
    """Return torchvision's ResNet, written from its state dict and the paper."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def conv(inputs, outputs, size, stride=1):
        return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            outputs = width if depth < 50 else 4 * width
            self.conv1 = conv(inputs, width, *((3, stride) if depth < 50 else (1,)))
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = conv(width, width, 3, 1 if depth < 50 else stride)
            self.bn2 = nn.BatchNorm2d(width)
            if depth >= 50:
                self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
            self.downsample = None
            if stride > 1 or inputs != outputs:
                norm = nn.BatchNorm2d(outputs)
                self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), norm)

        def forward(self, x):
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            if depth >= 50:
                y = self.bn3(self.conv3(y.relu()))
            return (y + (self.downsample(x) if self.downsample else x)).relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = conv(3, 64, *((3, 1) if cifar else (7, 2)))
            self.bn1 = nn.BatchNorm2d(64)
            self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
            inputs = 64
            for i, count in enumerate(BLOCKS[depth]):
                stage = []
                for j in range(count):
                    stage += [Block(inputs, 64 << i, 2 if i and not j else 1)]
                    inputs = (64 << i) * (1 if depth < 50 else 4)
                setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(inputs, classes)

        def forward(self, x):
            x = self.maxpool(self.bn1(self.conv1(x)).relu())
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(self.avgpool(x).flatten(1))

    return _drawn(Net())


def _drawn(net):
    """Return the module in evaluation with every parameter and statistic drawn."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(7)
    for name, value in net.state_dict().items():
        if value.ndim > 1:
            value.normal_(generator=generator)
            value.mul_((2 / value[0].numel()) ** 0.5)
        elif value.ndim:
            value.normal_(0, 0.2, generator=generator)
            if name.endswith("var") or f"{name[:-6]}running_var" in net.state_dict():
                value.abs_().add_(0.5)
    return net.eval()


def _images(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def _outputs(net, x):
    """Return the outputs of all modules for x [N, H, W, C], channels last."""
    torch, found = pytest.importorskip("torch"), {}
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, y, name=name: found.update({name: _channels_last(y)})
        )
        for name, module in net.named_modules()
    ]
    with torch.no_grad():
        net(torch.tensor(x).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    return found


def _channels_last(y):
    return (y.permute(0, 2, 3, 1) if y.ndim == 4 else y).numpy()


class _Pair(NamedTuple):
    net: Any
    weights: dict[str, Any]
    layer: jcnn.Layer
    params: Any
    state: Any


@lru_cache(None)
def _pair(depth):
    net = _torch_resnet(depth)
    layer = imagenet_resnet(depth=depth, padding="SYMMETRIC")
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    weights = net.state_dict()
    return _Pair(net, weights, layer, *from_torch(layer, x, weights))


def _modules(depth):
    """Return the path of each part by the name of torchvision's module."""
    paths = {"conv1": "stem/conv", "bn1": "stem/norm", "maxpool": "pool"}
    paths |= {"avgpool": "mean", "fc": "head"}
    for i, count in enumerate(BLOCKS[depth], 1):
        for j in range(count):
            block, part = f"layer{i}.{j}", f"layer{i}_block{j + 1}"
            paths[block] = part
            for k in range(1, 3 if depth < 50 else 4):
                paths[f"{block}.conv{k}"] = f"{part}/sum/body/conv{k}"
                paths[f"{block}.bn{k}"] = f"{part}/sum/body/norm{k}"
            if j == 0 and (i > 1 or depth >= 50):
                paths[f"{block}.downsample.0"] = f"{part}/sum/shortcut/conv"
                paths[f"{block}.downsample.1"] = f"{part}/sum/shortcut/norm"
    return paths


@pytest.mark.parametrize(
    ("depth", "size"), [(18, (64, 64)), (18, (65, 47)), (50, (64, 64)), (50, (33, 58))]
)
def test_all_layers_of_a_residual_network_are_pytorchs(depth, size, rng):
    pair, x = _pair(depth), _images(rng, 2, *size, 3)
    theirs = _outputs(pair.net, x)

    @jax.jit
    def parts(params, state, x):
        def apply(x):
            return pair.layer.apply(params, state, x)[0]

        return jcnn.inspect.part_outputs(apply, x)

    ours, modules = parts(pair.params, pair.state, x), _modules(depth)
    containers = {"", "layer1", "layer2", "layer3", "layer4"}
    containers |= {name for name in theirs if name.endswith("downsample")}
    assert set(modules) == set(theirs) - containers
    for name, path in modules.items():
        expected = theirs[name].reshape(ours[path].shape)
        error = np.abs(ours[path] - expected).max() / np.abs(expected).max()
        # float32 rounds sums of up to 4,608 products, and Winograd is not as exact.
        assert error <= 2e-5, (name, error)


def test_the_oracle_has_the_names_and_sizes_of_torchvision():
    for depth, entries, size in ((18, 122, 11_689_512), (50, 320, 25_557_032)):
        pair = _pair(depth)
        assert len(pair.weights) == entries
        assert sum(a.size for a in jax.tree.leaves(pair.params)) == size


@pytest.mark.parametrize("depth", [18, 50])
def test_a_residual_network_comes_back_bit_by_bit(depth, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    from safetensors.torch import load_file

    pair, path = _pair(depth), tmp_path / "weights.safetensors"
    safetensors.save_file(to_torch(pair.params, pair.state), path)
    weights = load_file(path)
    assert all(torch.equal(weights[name], a) for name, a in pair.weights.items())
    pair.net.load_state_dict(weights, strict=True)
    again = from_torch(
        pair.layer, np.zeros((1, 64, 64, 3), np.float32), safetensors.load_file(path)
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, again, (pair.params, pair.state)))


def test_cifars_residual_network_is_pytorchs_too(rng):
    net, x = _torch_resnet(18, 10, cifar=True), _images(rng, 2, 32, 32, 3)
    layer = resnet18(padding="SYMMETRIC")
    # The outputs are compared there, and nothing is returned if they differ.
    from_torch(layer, x, net.state_dict(), y=_outputs(net, x)["fc"])


# --- what belongs to the other padding ---


def _renamed(tree, old, new):
    return {name.replace(old, new): value for name, value in tree.items()}


def test_weights_of_either_padding_are_refused_by_the_other(tmp_path, rng):
    pair, x = _pair(18), _images(rng, 1, 64, 64, 3)
    same = imagenet_resnet(depth=18)
    with pytest.raises(ValueError, match="SYMMETRIC.*'stage1_block1/sum/body/conv1'"):
        from_torch(same, x, pair.weights)
    params, state = (
        _renamed(tree, "layer", "stage") for tree in (pair.params, pair.state)
    )
    with pytest.raises(ValueError, match="SYMMETRIC.*'stage1_block1/sum/body/conv1'"):
        to_torch(params, state)
    path = tmp_path / "params.safetensors"
    jcnn.runs.write_weights(path, params, state)
    with pytest.raises(ValueError, match="layer1_block1/sum/body/conv1: params must"):
        jax.eval_shape(pair.layer.apply, *jcnn.runs.read_weights(path), x)
    jcnn.runs.write_weights(path, pair.params, pair.state)
    with pytest.raises(ValueError, match="stage1_block1/sum/body/conv1: params must"):
        jax.eval_shape(same.apply, *jcnn.runs.read_weights(path), x)

    # Were they not refused, the outputs would be wrong without a word.
    expected = _outputs(pair.net, x)["fc"]
    y, _ = jax.jit(same.apply)(params, state, x)
    assert np.abs(y - expected).max() > 0.1 * np.abs(expected).max()


# --- names and shapes ---


def test_wrong_names_and_shapes_are_named():
    pair, x = _pair(18), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    weights = {name: value.numpy() for name, value in pair.weights.items()}
    moved = dict(weights)
    moved["fc.weights"] = moved.pop("fc.weight")
    with pytest.raises(
        ValueError, match=r"missing: fc.weight \(head/kernel.*over: fc.weights"
    ):
        from_torch(pair.layer, x, moved)
    with pytest.raises(
        ValueError, match=r"shape: fc.bias \(gives \(10,\), head/bias is"
    ):
        from_torch(pair.layer, x, weights | {"fc.bias": np.zeros(10, np.float32)})
    with pytest.raises(ValueError, match="left over: layer1.0.conv1.bias"):
        from_torch(pair.layer, x, weights | {"layer1.0.conv1.bias": np.zeros(64)})
    with pytest.raises(
        ValueError, match=r"conv3.weight .* and \d+ more; of another shape"
    ):
        deeper = imagenet_resnet(depth=101, padding="SYMMETRIC")
        from_torch(deeper, x, weights)
    with pytest.raises(ValueError, match="no array .*norm1/mean"):
        to_torch(pair.params, {})


# --- other networks ---


def _small(**changed):
    """Return a network of everything that may go wrong, and PyTorch's names."""

    def channels_first(x):
        return jcnn.flatten(x.transpose(0, 3, 1, 2))

    parts = {
        "conv": Conv(8, 3, strides=2, padding=1, feature_group_count=2),
        "norm": BatchNorm(),
        "relu": jax.nn.relu,
        "pool": MaxPool(3, strides=2, ceil_mode=True),
        "flatten": channels_first,
        "head": Dense(5),
    }
    names = {"conv": "features.0", "norm": "features.1", "head": "classifier"}
    return jcnn.serial(**(parts | changed)), names


@pytest.fixture
def small(rng):
    nn = pytest.importorskip("torch").nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(4, 8, 3, 2, 1, groups=2),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, ceil_mode=True),
            )
            self.classifier = nn.Linear(8 * 3 * 4, 5)

        def forward(self, x):
            return self.classifier(self.features(x).flatten(1))

    net, x = _drawn(Net()), _images(rng, 3, 12, 16, 4)
    return net.state_dict(), x, _outputs(net, x)["classifier"]


def test_any_network_is_read_by_the_names_of_its_modules(small):
    weights, x, y = small
    layer, names = _small()
    params, state = from_torch(layer, x, weights, names=names, y=y)
    np.testing.assert_allclose(
        layer.apply(params, state, x)[0], y, rtol=0, atol=1e-5 * np.abs(y).max()
    )
    with pytest.raises(ValueError, match="y must be given with names"):
        from_torch(layer, x, weights, names=names)
    with pytest.raises(ValueError, match=r"y must be the outputs \(3, 5\)"):
        from_torch(layer, x, weights, names=names, y=y[:1])


@pytest.mark.parametrize(
    "changed",
    [
        {"conv": Conv(8, 3, strides=2, feature_group_count=2)},
        {"norm": BatchNorm(epsilon=1e-3)},
        {"relu": jax.nn.gelu},
        {"pool": MaxPool(3, strides=2, padding=1)},
        {"flatten": jcnn.flatten},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_network_that_differs_is_refused_though_its_arrays_fit(small, changed):
    weights, x, y = small
    layer, names = _small(**changed)
    with pytest.raises(ValueError, match="the arrays fit, but not the network"):
        from_torch(layer, x, weights, names=names, y=y)


def test_transposed_convolutions_are_refused(rng):
    torch = pytest.importorskip("torch")
    up, x = _drawn(torch.nn.ConvTranspose2d(4, 4, 2, 2)), _images(rng, 1, 3, 3, 4)
    weights, y = up.state_dict(), _outputs(up, x)[""]
    with pytest.raises(ValueError, match="the arrays fit, but not the network"):
        from_torch(ConvTranspose(4, 2, strides=2), x, weights, names={}, y=y)
