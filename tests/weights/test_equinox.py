"""Weights of Equinox by the outputs of its networks, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcnn
from jcnn.layers import BatchNorm, Conv, ConvTranspose, Dense
from jcnn.weights import from_equinox, to_equinox

eqx = pytest.importorskip("equinox")

KEY = jax.random.key(0)
NAMES = {"conv": "layers/0", "norm": "layers/1", "up": "layers/3"}


class _Net(eqx.Module):
    layers: list
    head: eqx.nn.Linear

    def __init__(self, mode):
        self.layers = [
            eqx.nn.Conv2d(3, 6, 3, 2, 1, key=KEY),
            eqx.nn.BatchNorm(6, "batch", mode=mode, momentum=0.9),
            jax.nn.relu,
            eqx.nn.ConvTranspose2d(6, 4, 3, 2, padding=1, key=KEY),
        ]
        self.head = eqx.nn.Linear(7 * 9 * 4, 5, key=KEY)

    def __call__(self, x, state):
        conv, norm, relu, up = self.layers
        x, state = norm(conv(x), state)
        return self.head(jnp.ravel(up(relu(x)))), state


def _channels_first(x):
    return jcnn.flatten(x.transpose(0, 3, 1, 2))


def _layer(padding=1, flatten=_channels_first):
    return jcnn.serial(
        conv=Conv(6, 3, strides=2, padding=padding),
        norm=BatchNorm(),
        relu=jax.nn.relu,
        up=ConvTranspose(4, 3, strides=2, padding=1),
        flatten=flatten,
        head=Dense(5),
    )


def _run(model, state, x, *, inference=True):
    """Return the outputs for x [N, H, W, C], and the new state."""
    model = eqx.nn.inference_mode(model, inference)
    run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    state = jax.tree.map(jnp.asarray, state)  # Equinox lets no state be used twice
    return run(x.transpose(0, 3, 1, 2), state)


@pytest.fixture(params=["batch", "ema"])
def case(request, rng):
    """Return images, a model that has seen two batches, and its outputs."""
    model, state = eqx.nn.make_with_state(_Net)(request.param)

    def draw(a):
        drawn = jnp.asarray(rng.normal(size=a.shape), a.dtype)
        return drawn if eqx.is_inexact_array(a) else a

    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    model = eqx.combine(jax.tree.map(draw, arrays), rest)
    x = jnp.asarray(rng.normal(size=(4, 8, 10, 3)), jnp.float32)
    for _ in range(2):
        state = _run(model, state, x, inference=False)[1]
    return x, model, state, _run(model, state, x)[0]


def test_outputs_are_equinoxs_and_the_model_comes_back(case):
    x, model, model_state, y = case
    params, state = from_equinox(_layer(), x, y, model, model_state, names=NAMES)
    ours, _ = _layer().apply(params, state, x)
    np.testing.assert_allclose(ours, y, rtol=0, atol=1e-5 * np.abs(y).max())

    mode = model.layers[1].mode
    empty, empty_state = eqx.nn.make_with_state(_Net)(mode)
    back, back_state = to_equinox(params, state, empty, empty_state, names=NAMES)
    assert eqx.tree_equal(back, model)
    np.testing.assert_allclose(
        _run(back, back_state, x)[0], y, rtol=0, atol=1e-5 * np.abs(y).max()
    )
    # The old state can still be used, and the new one be trained on.
    _run(empty, empty_state, x)
    after = _run(back, _run(back, back_state, x, inference=False)[1], x)[0]
    ours_after = _layer().apply(params, state, x, train=True)[1]
    expected, _ = _layer().apply(params, ours_after, x)
    np.testing.assert_allclose(
        after, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_what_differs_is_refused(case):
    x, model, model_state, y = case
    for layer in (_layer(padding="SAME"), _layer(flatten=jcnn.flatten)):
        with pytest.raises(ValueError, match="the arrays fit, but not the network"):
            from_equinox(layer, x, y, model, model_state, names=NAMES)
    with pytest.raises(ValueError, match="missing: .*left over: layers/0/weight"):
        from_equinox(_layer(), x, y, model, model_state)
    with pytest.raises(ValueError, match="model_state must be given: layers/1 is"):
        from_equinox(_layer(), x, y, model, names=NAMES)
