"""Unmodified JAX programs under `accelerate()`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jcnn import acceleration
from jcnn.acceleration import accelerate


def _gradients():
    """Compiled anew at each call, so that it is lowered by the rules of the moment."""

    def loss(x, w):
        layouts = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layouts)
        return jnp.sum(jnp.sin(y))

    return jax.jit(jax.grad(loss, (0, 1)))


@pytest.fixture
def operands(rng):
    x = rng.standard_normal((5, 15, 16, 32)).astype(np.float32)
    return x, rng.standard_normal((3, 3, 32, 40)).astype(np.float32)


def _convolutions(operands) -> int:
    return _gradients().lower(*operands).as_text().count("stablehlo.convolution")


def test_it_replaces_convolutions_and_gives_the_same(operands):
    expected = _gradients()(*operands)
    assert _convolutions(operands) == 3
    with accelerate() as handle:
        assert handle.on
        assert _convolutions(operands) == 0
        got = _gradients()(*operands)
    assert not handle.on
    assert _convolutions(operands) == 3
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_handles_may_be_undone_in_any_order(operands):
    first, second = accelerate(), accelerate()
    first.undo()
    assert _convolutions(operands) == 0
    second.undo()
    second.undo()
    assert _convolutions(operands) == 3


def test_an_error_undoes_it(operands):
    with pytest.raises(KeyError), accelerate():
        raise KeyError
    assert _convolutions(operands) == 3


def test_what_no_fast_path_covers_is_laxs(rng):
    x = rng.integers(0, 9, (1, 2, 8)).astype(np.int32)
    expected = lax.conv_general_dilated(x, x[:, :, :3], (1,), "SAME")
    with accelerate():
        got = jax.jit(lambda x: lax.conv_general_dilated(x, x[:, :, :3], (1,), "SAME"))
        assert np.array_equal(got(x), expected)


def test_an_unknown_release_of_jax_is_refused_and_left_alone(operands, monkeypatch):
    monkeypatch.setattr(acceleration.Convolution, "_fields", ("lhs",))
    with pytest.raises(RuntimeError, match="nothing was changed"):
        accelerate()
    monkeypatch.undo()
    assert _convolutions(operands) == 3
