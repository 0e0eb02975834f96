"""Outputs of parts, and attributions, where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcnn
from jcnn import residual, serial, summarize
from jcnn.inspect.attribution import grad_cam, input_gradient, integrated_gradients
from jcnn.inspect.parts import evaluate, part_outputs
from jcnn.layers import BatchNorm, Conv, Dense, MaxPool

KEY = jax.random.key(0)
CONV = Conv(3, 3)
PARTS = {
    "conv": CONV,
    "norm": BatchNorm(),
    "relu": jax.nn.relu,
    "block": residual(serial(conv=CONV, relu=jax.nn.relu)),
    "pool": MaxPool(2),
    "mean": jcnn.global_avg_pool,
    "head": Dense(4),
}


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(KEY, (2, 8, 8, 2))


@pytest.fixture(scope="module")
def variables(images):
    return serial(**PARTS).init(KEY, images)


def _scores(variables, parts=PARTS):
    net = serial(**parts)
    return lambda x: net.apply(*variables, x)[0]


@pytest.mark.parametrize("wrap", (lambda f: f, jax.jit, jax.checkpoint))
def test_each_part_gives_what_the_network_up_to_it_gives(wrap, variables, images):
    outputs = part_outputs(wrap(_scores(variables)), images)
    assert [name for name in outputs if "/" not in name] == list(PARTS)
    for number, name in enumerate(PARTS):
        until = dict(list(PARTS.items())[: number + 1])
        expected = _scores(variables, until)(images)
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-6)
    inner = jcnn.conv(outputs["relu"], **variables[0]["block"]["body"]["conv"])
    np.testing.assert_allclose(outputs["block/body/conv"], inner, rtol=1e-5, atol=1e-6)
    rows = summarize(serial(**PARTS), images)
    assert {row.name for row in rows} <= set(outputs)


def test_the_result_is_the_functions_own(variables, images):
    def scores(x):
        return {"scores": _scores(variables)(x), "twice": (2 * x,)}

    results, _ = evaluate(scores, images)
    jax.tree.map(np.testing.assert_array_equal, results, scores(images))


def test_the_gradient_to_what_is_added_is_that_to_the_output(variables, images):
    behind = _scores(variables, {n: PARTS[n] for n in ("pool", "mean", "head")})
    output = part_outputs(_scores(variables), images)["block"]

    def loss(added):
        return jnp.sum(evaluate(_scores(variables), images, {"block": added})[0] ** 2)

    gradient = jax.jit(jax.grad(loss))(jnp.zeros_like(output))
    expected = jax.grad(lambda a: jnp.sum(behind(a) ** 2))(output)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_grad_cam_as_defined(variables, images):
    """By sums over NumPy's arrays, from the gradient that the network's tail has."""
    classes = np.array([1, 3])
    maps = np.asarray(part_outputs(_scores(variables), images)["block"])
    behind = _scores(variables, {n: PARTS[n] for n in ("pool", "mean", "head")})
    gradient = np.asarray(jax.grad(lambda a: behind(a)[(0, 1), classes].sum())(maps))
    expected = np.zeros(maps.shape[:3])
    for n in range(2):
        for k in range(maps.shape[3]):
            expected[n] += gradient[n, :, :, k].mean() * maps[n, :, :, k]
    found = grad_cam(_scores(variables), images, classes, "block")
    assert found.shape == (2, 8, 8) and np.any(found)
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-4, atol=1e-7)


def test_grad_cam_finds_the_one_feature_that_a_network_knows(rng):
    """The kernel answers to a bright pixel between dark ones; that is the class."""
    kernel = -np.ones((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 8
    net = serial(
        feature=lambda x: jcnn.conv(x, kernel, padding="SAME"),
        relu=jax.nn.relu,
        mean=jcnn.global_avg_pool,
        scores=lambda y: jnp.concatenate([y, -y], 1),
    )
    images = np.full((4, 9, 9, 1), 0.5, np.float32)
    places = rng.integers(1, 8, (4, 2))
    for image, (row, column) in zip(images, places):
        image[row, column] = 1
    found = grad_cam(lambda x: net.apply({}, {}, x)[0], images, [0] * 4, "relu")
    strongest = [np.unravel_index(np.argmax(a), a.shape) for a in found]
    np.testing.assert_array_equal(strongest, places)
    other = grad_cam(lambda x: net.apply({}, {}, x)[0], images, [1] * 4, "relu")
    assert not np.any(other)


def test_input_gradients_are_those_of_one_image_each(variables, images):
    found = input_gradient(_scores(variables), images, [2, 0])
    for n, which in enumerate((2, 0)):
        one = jax.grad(lambda x, c=which: _scores(variables)(x[None])[0, c])(images[n])
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(found[n], one, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_are_complete(variables, images):
    """Section 3 of the paper: they sum to the difference of the scores."""
    scores, classes = _scores(variables), np.array([0, 3])
    baseline = jax.random.normal(jax.random.key(1), (8, 8, 2))
    found = integrated_gradients(scores, images, classes, baseline=baseline, steps=400)
    ends = scores(images) - scores(jnp.broadcast_to(baseline, images.shape))
    expected = ends[(0, 1), classes]
    assert np.abs(expected).min() > 0.01
    np.testing.assert_allclose(found.sum((1, 2, 3)), expected, rtol=0.01, atol=1e-3)


def test_integrated_gradients_of_a_linear_function_are_its_terms(rng):
    weights = rng.normal(size=(12, 3)).astype("float32")
    x = rng.normal(size=(2, 2, 3, 2)).astype("float32")
    found = integrated_gradients(lambda x: x.reshape(2, -1) @ weights, x, [2, 1])
    expected = x.reshape(2, -1) * weights[:, (2, 1)].T
    np.testing.assert_allclose(found.reshape(2, -1), expected, rtol=1e-5)


def test_errors(variables, images):
    scores = _scores(variables)
    with pytest.raises(ValueError, match="part must be one .*block/body/conv.*'con'"):
        grad_cam(scores, images, [0, 1], "con")
    with pytest.raises(ValueError, match="part must be one with an output .*'head'"):
        grad_cam(scores, images, [0, 1], "head")
    with pytest.raises(ValueError, match="part must be one of .*'nothing'"):
        evaluate(scores, images, {"nothing": images})
    with pytest.raises(ValueError, match=r"\[N, classes\] .* \(2, 4\) and \(3,\)"):
        input_gradient(scores, images, [0, 1, 2])
    with pytest.raises(ValueError, match="steps"):
        integrated_gradients(scores, images, [0, 1], steps=0)
