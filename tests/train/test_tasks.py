"""Targets of classification: smoothed, mixed, and averaged over views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcnn import flatten, serial
from jcnn.augment import average_views, mixup
from jcnn.layers import Dense, child_key
from jcnn.train import classification

CLASSES = 3
LAYER = serial(flatten=flatten, head=Dense(CLASSES))


@pytest.fixture
def batch(rng):
    return {
        "image": jnp.asarray(rng.normal(size=(6, 4, 5, 1)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, CLASSES, 6), jnp.int32),
    }


@pytest.fixture
def params(batch):
    return LAYER.init(jax.random.key(1), batch["image"])[0]


def _plain(images, key):
    return images


def _logits(params, images):
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    return flat @ np.asarray(params["head"]["kernel"], np.float64)


def _cross_entropy(logits, targets):
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -(targets * log_p).sum(-1)


def _trained(params, batch, **options):
    loss_fn, _ = classification(LAYER, _plain, **options)
    loss, (_, metrics) = loss_fn(params, {}, batch, jax.random.key(2))
    assert float(loss) == float(metrics["loss"])
    return float(loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_labels_are_smoothed(smoothing, params, batch):
    targets = np.eye(CLASSES)[batch["label"]]
    targets = (1 - smoothing) * targets + smoothing / CLASSES
    expected = _cross_entropy(_logits(params, batch["image"]), targets).mean()
    found = _trained(params, batch, label_smoothing=smoothing)
    assert found == pytest.approx(expected, rel=1e-5)


def test_smoothing_is_that_of_pytorch(params, batch):
    torch = pytest.importorskip("torch")
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.2)
    logits = torch.tensor(_logits(params, batch["image"]))
    expected = loss(logits, torch.tensor(np.asarray(batch["label"], np.int64)))
    found = _trained(params, batch, label_smoothing=0.2)
    assert found == pytest.approx(float(expected), rel=1e-5)


def _swapped(key, images, targets):
    return images[::-1], 0.25 * targets + 0.75 * targets[::-1]


def test_images_and_targets_are_mixed_in_training(params, batch):
    targets = np.eye(CLASSES)[batch["label"]]
    targets = 0.25 * targets + 0.75 * targets[::-1]
    targets = 0.9 * targets + 0.1 / CLASSES
    expected = _cross_entropy(_logits(params, batch["image"][::-1]), targets).mean()
    found = _trained(params, batch, mix=_swapped, label_smoothing=0.1)
    assert found == pytest.approx(expected, rel=1e-5)


def test_mixup_gives_the_loss_of_blended_targets(params, batch):
    key = child_key(jax.random.key(2), "mix")
    targets = jax.nn.one_hot(batch["label"], CLASSES)
    images, targets = mixup(key, batch["image"], targets, alpha=5.0)
    assert 0.01 < np.asarray(targets).max(-1).min() < 0.99
    expected = _cross_entropy(_logits(params, images), np.asarray(targets)).mean()
    found = _trained(params, batch, mix=lambda *a: mixup(*a, alpha=5.0))
    assert found == pytest.approx(expected, rel=1e-5)


def test_views_are_averaged_in_float32(params, batch):
    _, metrics = classification(
        LAYER, lambda images, key: images.astype(jnp.bfloat16), views=average_views
    )
    seen = metrics(params, {}, batch)["loss"]
    narrow = batch["image"].astype(jnp.bfloat16)
    logits = [
        np.asarray(LAYER.apply(params, {}, x)[0], np.float64)
        for x in (narrow, narrow[:, :, ::-1])
    ]
    targets = np.eye(CLASSES)[batch["label"]]
    np.testing.assert_allclose(
        seen, _cross_entropy(np.mean(logits, 0), targets), rtol=1e-5
    )


def test_evaluation_neither_mixes_nor_smooths(params, batch):
    _, changed = classification(LAYER, _plain, mix=_swapped, label_smoothing=0.3)
    _, plain = classification(LAYER, _plain)
    found, expected = (f(params, {}, batch) for f in (changed, plain))
    np.testing.assert_array_equal(found["loss"], expected["loss"])


def test_views_are_averaged_in_evaluation(params, batch):
    _, metrics = classification(LAYER, _plain, views=average_views)
    images = np.asarray(batch["image"])
    logits = (_logits(params, images) + _logits(params, images[:, :, ::-1])) / 2
    targets = np.eye(CLASSES)[batch["label"]]
    found = metrics(params, {}, batch)
    np.testing.assert_allclose(
        found["loss"], _cross_entropy(logits, targets), rtol=1e-5
    )
    np.testing.assert_array_equal(
        found["accuracy"], logits.argmax(-1) == batch["label"]
    )


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_smoothing_out_of_range_is_rejected(smoothing):
    with pytest.raises(ValueError, match="label_smoothing must be from 0 to 1"):
        classification(LAYER, _plain, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classes_are_weighted_in_training_only(smoothing, params, batch):
    weights = np.array([0.5, 2.0, 1.25])
    targets = np.eye(CLASSES)[batch["label"]]
    targets = (1 - smoothing) * targets + smoothing / CLASSES
    losses = _cross_entropy(_logits(params, batch["image"]), targets)
    expected = (losses * weights[batch["label"]]).mean()
    how = {"class_weights": weights, "label_smoothing": smoothing}
    assert _trained(params, batch, **how) == pytest.approx(expected, rel=1e-5)
    weighted, plain = (
        classification(LAYER, _plain, **options)[1](params, {}, batch)
        for options in (how, {})
    )
    np.testing.assert_array_equal(weighted["loss"], plain["loss"])


def test_mixed_examples_are_weighted_as_they_are_mixed(params, batch):
    """Against the weights of both classes, in the parts in which they are mixed."""
    weights = np.array([0.5, 2.0, 1.25])
    targets = np.eye(CLASSES)[batch["label"]]
    mixed = 0.7 * targets + 0.3 * targets[::-1]

    def mix(key, x, targets):
        return x, 0.7 * targets + 0.3 * targets[::-1]

    losses = _cross_entropy(_logits(params, batch["image"]), mixed)
    by_class = [sum(row[c] * weights[c] for c in range(CLASSES)) for row in mixed]
    expected = (losses * by_class).mean()
    found = _trained(params, batch, class_weights=weights, mix=mix)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "how",
    [{}, {"label_smoothing": 0.1}, {"mix": _swapped}, {"class_weights": [1.0] * 3}],
)
def test_labels_without_a_logit_make_the_loss_nan(how, params, batch):
    """So that the step is not taken; other examples of the batch keep their loss."""
    loss_fn, metrics = classification(LAYER, _plain, **how)

    @jax.jit
    def losses(label):
        given = batch | {"label": batch["label"].at[2].set(label)}
        loss, _ = loss_fn(params, {}, given, jax.random.key(2))
        return loss, metrics(params, {}, given)

    with jax.debug_nans(True):
        mean, good = losses(0)
    assert np.isfinite(mean)
    for label in (-CLASSES - 1, -1, CLASSES, 255):
        mean, bad = losses(label)
        assert np.isnan(mean) and bad["accuracy"][2] == 0
        expected = np.where(np.arange(6) == 2, np.nan, good["loss"])
        np.testing.assert_array_equal(bad["loss"], expected)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0] * 5])
def test_there_is_a_weight_for_each_class(weights, params, batch):
    with pytest.raises(ValueError, match=r"class_weights must be \[3\]"):
        _trained(params, batch, class_weights=weights)


@pytest.mark.parametrize("weights", [1.0, [1.0, np.nan, 1.0], [1.0, -1.0, 1.0]])
def test_bad_class_weights_are_rejected(weights):
    with pytest.raises(ValueError, match="class_weights must be numbers"):
        classification(LAYER, _plain, class_weights=weights)
