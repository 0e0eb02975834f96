"""Weights of Flax, Linen and NNX, by the outputs of its networks, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcnn
from jcnn.layers import BatchNorm, Conv, ConvTranspose, Dense
from jcnn.weights import from_flax, to_flax

KEY = jax.random.key(0)
NAMES = {"stem/conv": "Conv_0", "stem/norm": "BatchNorm_0"}
NAMES |= {"up": "ConvTranspose_0", "head": "Dense_0"}


def _layer(strides=2, padding="SAME"):
    """Strides of an even image: "SAME" is not symmetric."""
    conv = Conv(6, 3, strides=strides, padding=padding)
    return jcnn.serial(
        stem=jcnn.serial(conv=conv, norm=BatchNorm()),
        relu=jax.nn.relu,
        up=ConvTranspose(4, 3, strides=2),
        flatten=jcnn.flatten,
        head=Dense(5),
    )


def _linen(rng, x):
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(6, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            x = nn.ConvTranspose(4, (3, 3), strides=(2, 2))(x)
            return nn.Dense(5)(x.reshape(x.shape[0], -1))

    variables = _drawn(rng, jax.eval_shape(Net().init, KEY, x))
    return variables, lambda variables: Net().apply(variables, x), NAMES


def _nnx(rng, x):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            conv = nnx.Conv(3, 6, (3, 3), strides=2, rngs=rngs)
            norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
            self.stem = nnx.Sequential(conv, norm)
            self.up = nnx.ConvTranspose(6, 4, (3, 3), strides=(2, 2), rngs=rngs)
            self.head = nnx.Linear(8 * 10 * 4, 5, rngs=rngs)

        def __call__(self, x):
            x = self.up(nnx.relu(self.stem(x)))
            return self.head(x.reshape(x.shape[0], -1))

    model = Net(nnx.Rngs(0))
    graph, state, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
    names = {"stem/conv": "stem/layers/0", "stem/norm": "stem/layers/1"}
    return _drawn(rng, state), lambda state: nnx.merge(graph, state, rest)(x), names


def _drawn(rng, tree):
    def draw(path, a):
        drawn = rng.normal(size=a.shape)
        is_var = "var" in jax.tree_util.keystr(path, simple=True, separator="/")
        return jnp.asarray(0.5 + np.abs(drawn) if is_var else drawn, a.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


@pytest.fixture(params=[_linen, _nnx], ids=["linen", "nnx"])
def case(request, rng):
    x = jnp.asarray(rng.normal(size=(2, 8, 10, 3)), jnp.float32)
    variables, run, names = request.param(rng, x)
    return x, variables, run, names


def test_outputs_are_flaxs_and_the_variables_come_back(case):
    x, variables, run, names = case
    y = run(variables)
    params, state = from_flax(_layer(), x, y, variables, names=names)
    ours, _ = _layer().apply(params, state, x)
    np.testing.assert_allclose(ours, y, rtol=0, atol=1e-5 * np.abs(y).max())
    back = to_flax(params, state, jax.tree.map(jnp.zeros_like, variables), names=names)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, variables))
    assert np.array_equal(run(back), y)


def test_what_differs_is_refused(case):
    x, variables, run, names = case
    y = run(variables)
    with pytest.raises(ValueError, match="the arrays fit, but not the network"):
        from_flax(_layer(padding=1), x, y, variables, names=names)
    with pytest.raises(
        ValueError, match=r"missing: other/bias \(stem/conv/bias\).*left over: "
    ):
        from_flax(_layer(), x, y, variables, names=names | {"stem/conv": "other"})
    params, state = from_flax(_layer(), x, y, variables, names=names)
    with pytest.raises(ValueError, match="left over: .*mean, .*var"):
        to_flax(params, {}, variables, names=names)
    params["head"]["bias"] = jnp.zeros(4)
    with pytest.raises(ValueError, match="of another shape: .*head/bias is"):
        to_flax(params, state, variables, names=names)
