"""Counts and their ratios: against loops by the definition, and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcnn import metrics
from jcnn.layers import Dense
from jcnn.metrics import confusion_matrix, make_sums
from jcnn.train import create

pytestmark = pytest.mark.cover(1)

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def _by_hand(labels, predictions, num_classes, ignored=None):
    counts = np.zeros((num_classes, num_classes), np.int64)
    for label, prediction in zip(np.ravel(labels), np.ravel(predictions)):
        if label != ignored:
            counts[label, prediction] += 1
    return counts


def _ratios_by_hand(labels, predictions, num_classes):
    """Of each class precision, recall, F1 and IoU, from sets of examples."""
    found = {"precision": [], "recall": [], "f1": [], "iou": []}
    for c in range(num_classes):
        of_label = {i for i, label in enumerate(labels) if label == c}
        of_prediction = {i for i, p in enumerate(predictions) if p == c}
        right, either = of_label & of_prediction, of_label | of_prediction
        nan = float("nan")
        precision = len(right) / len(of_prediction) if of_prediction else nan
        recall = len(right) / len(of_label) if of_label else nan
        sizes = len(of_label) + len(of_prediction)
        found["precision"].append(precision)
        found["recall"].append(recall)
        found["f1"].append(2 * len(right) / sizes if sizes else nan)
        found["iou"].append(len(right) / len(either) if either else nan)
    return found


# Confusion matrices


@pytest.mark.parametrize("shape", [(0,), (1,), (40,), (3, 5, 4), ()])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int8"])
def test_confusions_are_counted_whatever_the_shape(shape, dtype, rng):
    labels = rng.integers(0, 5, shape).astype(dtype)
    predictions = rng.integers(0, 5, shape).astype("int32")
    expected = _by_hand(labels, predictions, 5)
    for function in (confusion_matrix, jax.jit(confusion_matrix, static_argnums=2)):
        counts = function(labels, predictions, 5)
        assert counts.dtype == jnp.int32
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("ignored", [255, 2, 4])
def test_what_has_the_ignored_label_is_not_counted(ignored, rng):
    labels = rng.integers(0, 4, (3, 6, 5)).astype("uint8")
    labels[rng.random(labels.shape) < 0.3] = ignored
    predictions = rng.integers(0, 4, labels.shape)
    counts = confusion_matrix(labels, predictions, 4, ignore_label=ignored)
    np.testing.assert_array_equal(counts, _by_hand(labels, predictions, 4, ignored))
    # A prediction there may be anything.
    predictions[labels == ignored] = 99
    again = confusion_matrix(labels, predictions, 4, ignore_label=ignored)
    np.testing.assert_array_equal(again, counts)


def test_a_negative_ignored_label_goes_with_bytes():
    labels = np.array([0, 1, 255], "uint8")
    with pytest.raises(ValueError, match="outside of 0 to K - 1"):
        metrics.accuracy(confusion_matrix(labels, [0, 1, 1], 2, ignore_label=-1))
    labels = np.array([0, 1, -1])
    counts = confusion_matrix(labels, [0, 0, 1], 2, ignore_label=-1)
    np.testing.assert_array_equal(counts, [[1, 0], [1, 0]])


@pytest.mark.parametrize("num_classes", [3, 300])
@pytest.mark.parametrize("where", ["labels", "predictions"])
@pytest.mark.parametrize("value", [-1, "K", 2**31 - 1])
def test_what_is_outside_of_the_classes_is_never_lost(num_classes, where, value, rng):
    arrays = {name: rng.integers(0, 3, 20) for name in ("labels", "predictions")}
    arrays[where][7] = num_classes if value == "K" else value
    counts = jax.jit(lambda a: confusion_matrix(**a, num_classes=num_classes))(arrays)
    # Also after good ones were added to it.
    for matrix in (counts, np.asarray(counts, "int64") + 10**6):
        for ratio in (metrics.accuracy, metrics.f1, metrics.mean_iou):
            with pytest.raises(ValueError, match="outside of 0 to K - 1"):
                ratio(matrix)


def test_confusions_of_each_example_come_by_vmap(rng):
    labels, predictions = rng.integers(0, 3, (2, 4, 6, 5))
    counts = jax.vmap(lambda a, b: confusion_matrix(a, b, 3))(labels, predictions)
    expected = [_by_hand(a, b, 3) for a, b in zip(labels, predictions)]
    np.testing.assert_array_equal(counts, expected)


def test_a_matrix_needs_memory_for_the_pixels_and_not_for_their_classes():
    """150 classes at 16 images of 256x256: one-hots alone would take 630 MB."""
    pixels = jax.ShapeDtypeStruct((16, 256, 256), jnp.int32)
    compiled = jax.jit(lambda a, b: confusion_matrix(a, b, 150)).lower(pixels, pixels)
    size = compiled.compile().memory_analysis().temp_size_in_bytes
    assert size <= 6 * 4 * 16 * 256 * 256


@pytest.mark.parametrize(
    ("labels", "predictions", "error", "words"),
    [
        ([0, 1], [[0.5, 0.5], [1, 0]], TypeError, "predictions must be integers"),
        ([0.0, 1.0], [0, 1], TypeError, "labels must be integers, got float32"),
        ([0, 1], [[0, 1]], ValueError, r"labels \(2,\), got \(1, 2\): .*argmax"),
    ],
)
def test_what_cannot_be_counted_is_refused(labels, predictions, error, words):
    with pytest.raises(error, match=words):
        confusion_matrix(jnp.array(labels), jnp.array(predictions), 2)


# Ratios


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("of_labels", [(0, 1, 2, 3, 4), (0, 1, 4), (2,)])
@pytest.mark.parametrize("of_predictions", [(0, 1, 2, 3, 4), (1, 2), (3,)])
def test_ratios_are_those_of_the_definition(of_labels, of_predictions, rng):
    """Also of classes that no label has, no prediction, or neither."""
    labels, predictions = rng.choice(of_labels, 50), rng.choice(of_predictions, 50)
    matrix = confusion_matrix(labels, predictions, 5)
    by_hand = _ratios_by_hand(labels, predictions, 5)
    for name, expected in by_hand.items():
        found = getattr(metrics, name)(matrix)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert metrics.accuracy(matrix) == np.mean(labels == predictions)
    mean = np.nanmean(by_hand["iou"])
    assert metrics.mean_iou(matrix) == pytest.approx(mean, rel=1e-15)

    how = {"labels": range(5), "average": None, "zero_division": np.nan}
    for name in ("precision", "recall", "f1"):
        expected = getattr(sklearn_metrics, f"{name}_score")(labels, predictions, **how)
        np.testing.assert_allclose(getattr(metrics, name)(matrix), expected)
    there = sorted({*labels, *predictions})
    expected = sklearn_metrics.jaccard_score(
        labels, predictions, labels=there, average="macro", zero_division=0
    )
    assert metrics.mean_iou(matrix) == pytest.approx(expected)
    expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=range(5))
    np.testing.assert_array_equal(matrix, expected)


def test_of_nothing_every_ratio_is_nan():
    empty = np.zeros((2, 2), int)
    assert np.isnan([metrics.accuracy(empty), metrics.mean_iou(empty)]).all()
    for ratio in (metrics.precision, metrics.recall, metrics.f1, metrics.iou):
        assert np.isnan(ratio(empty)).all()


def test_ratios_of_large_counts_are_exact():
    big = 2**40 + 1
    assert metrics.accuracy([[big, 1], [0, big]]) == 2 * big / (2 * big + 1)
    # int32 alone would have overflowed in the sums of rows.
    half = np.full((2, 2), 2**30, np.int32)
    assert metrics.recall(half).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("matrix", "error", "words"),
    [
        (np.zeros((2, 3), int), ValueError, r"\[K, K\], got shape \(2, 3\)"),
        (np.zeros((2, 2)), TypeError, "integers, got float64"),
        (np.zeros(4, int), ValueError, r"\[K, K\]"),
    ],
)
def test_what_is_no_matrix_of_counts_is_refused(matrix, error, words):
    for ratio in (metrics.accuracy, metrics.precision, metrics.mean_iou):
        with pytest.raises(error, match=words):
            ratio(matrix)


# Sums over a set


def _state():
    key = jax.random.key(0)
    return create(Dense(2), optax.sgd(0.1), key, jnp.zeros((1, 3)))


@pytest.mark.parametrize("put", [np.asarray, jnp.asarray], ids=["host", "device"])
@pytest.mark.parametrize("n", [1, 13, 24])
def test_every_example_is_in_the_sums_once(n, put, rng):
    labels, predictions = rng.integers(0, 4, (2, n, 3, 5))
    values = rng.normal(size=(n, 2)).astype("float32")
    data = jax.tree.map(put, {"a": labels, "b": predictions, "value": values})

    def batch_sums(params, model_state, batch):
        return {
            "confusion": confusion_matrix(batch["a"], batch["b"], 4),
            "value": batch["value"].sum(0),
            "right": (batch["a"] == batch["b"]).sum(),
            "any": (batch["a"] == 3).any(),
        }

    for batch_size in (1, 5, 8, 13, 100):
        sums = make_sums(batch_sums, batch_size=batch_size)(_state(), data)
        assert sums["confusion"].dtype == sums["any"].dtype == np.int64
        assert sums["value"].dtype == np.float64
        np.testing.assert_array_equal(
            sums["confusion"], _by_hand(labels, predictions, 4)
        )
        np.testing.assert_allclose(sums["value"], values.sum(0, "f8"), rtol=1e-5)
        assert sums["right"] == (labels == predictions).sum()
        parts = [labels[i : i + batch_size] for i in range(0, n, batch_size)]
        assert sums["any"] == sum((part == 3).any() for part in parts)


def test_sums_see_the_state(rng):
    images = rng.normal(size=(9, 3)).astype("float32")
    state = _state()

    def batch_sums(params, model_state, batch):
        logits, _ = Dense(2).apply(params, model_state, batch["image"])
        return {"ones": logits.argmax(-1).sum()}

    kernel, bias = np.asarray(state.params["kernel"]), np.asarray(state.params["bias"])
    expected = (images @ kernel + bias).argmax(-1).sum()
    assert 0 < expected < 9
    sums = make_sums(batch_sums, batch_size=4)(state, {"image": images})
    assert sums["ones"] == expected


def test_counts_are_exact_beyond_what_floats_and_int32_hold():
    """As those of pixels of a large set are: 5 batches of 2^30 + 1."""

    def batch_sums(params, model_state, batch):
        return {"pixels": batch["pixels"].sum()}

    data = {"pixels": np.full(5, 2**30 + 1, np.int32)}
    sums = make_sums(batch_sums, batch_size=1)(_state(), data)
    assert sums["pixels"] == 5 * (2**30 + 1)


def test_floats_are_added_in_float64():
    def batch_sums(params, model_state, batch):
        return {"value": batch["value"].sum()}

    data = {"value": np.tile(np.float32([1.0, 2**-20]), 500)}
    sums = make_sums(batch_sums, batch_size=2)(_state(), data)
    assert sums["value"] == 500 + 500 * 2**-20


def test_what_is_no_sum_is_refused_also_where_all_batches_are_whole():
    def batch_sums(params, model_state, batch):
        return {"right": batch["label"] == 0}

    data = {"label": np.zeros(8, np.int32)}
    for batch_size in (4, 5, 1):
        with pytest.raises(ValueError, match="sums over the batch, got right of shape"):
            make_sums(batch_sums, batch_size=batch_size)(_state(), data)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        make_sums(lambda *args: {}, batch_size=0)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        confusion_matrix([0], [0], 0)
    with pytest.raises(ValueError, match="data must be arrays of one length"):
        make_sums(lambda *args: {}, batch_size=2)(_state(), {"a": np.zeros((0, 2))})
