"""Metrics that are no mean over examples: confusion matrices and their ratios.

    batch -> confusion_matrix -> make_sums -> accuracy, precision, recall, f1, iou

Counts are exact integers. Ratios take a `matrix` of counts [K, K] as `make_sums` adds
them up, and are NumPy's float64, for each class [K] or for all. A ratio without a case
is NaN, as the recall of a class that no label has.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike

from . import compilation
from ._layer import Params, State
from ._shapes import integer
from .train import Batch, TrainState, num_examples

Sums = dict[str, np.ndarray]


def make_sums(
    batch_sums: Callable[[Params, State, Batch], dict[str, jax.Array]],
    *,
    batch_size: int,
    compiler_options: compilation.Options | None = None,
) -> Callable[[TrainState, Batch], Sums]:
    """Return `sums(state, data) -> {name: sum}` over all examples, each counted once.

    Sums of batches are added in int64 if they are integers, else in float64.

    Args:
        batch_sums: (params, model_state, batch) -> {name: sum over the batch}, of a
            shape that does not depend on the number of examples. Within a batch an
            int32 has to hold it.
        batch_size: Examples computed at a time; the last batch may be smaller.
        compiler_options: As for `jcnn.train.make_step`.

    Returns:
        A function of a state and of data, a pytree of arrays [N, …]. Of NumPy arrays
        one batch at a time is put on the device.

    Raises:
        ValueError: When called, if the shape of a sum depends on the size of the batch.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> from jcnn.train import create
    >>> layer = Dense(3)
    >>> def batch_sums(params, model_state, batch):
    ...     logits, _ = layer.apply(params, model_state, batch["image"])
    ...     return {"confusion": confusion_matrix(batch["label"], logits.argmax(-1), 3)}
    >>> state = create(layer, optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 2)))
    >>> data = {"image": jnp.zeros((7, 2)), "label": jnp.arange(7) % 3}
    >>> make_sums(batch_sums, batch_size=4)(state, data)["confusion"]
    array([[3, 0, 0],
           [2, 0, 0],
           [2, 0, 0]])
    """
    batch_size = integer("batch_size", batch_size, minimum=1)

    def checked(params, model_state, batch):
        sums = batch_sums(params, model_state, batch)
        longer = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((a.shape[0] + 1, *a.shape[1:]), a.dtype),
            batch,
        )
        others = jax.eval_shape(batch_sums, params, model_state, longer)
        for name, value in sums.items():
            if jnp.shape(value) != others[name].shape:
                raise ValueError(
                    "batch_sums must give sums over the batch, got "
                    f"{name} of shape {jnp.shape(value)} for {num_examples(batch)} "
                    f"examples and {others[name].shape} for one more"
                )
        return sums

    of_batch = compilation.jit(checked, compiler_options=compiler_options)

    def sums(state: TrainState, data: Batch) -> Sums:
        totals: Sums = {}
        for start in range(0, num_examples(data), batch_size):
            part = slice(start, start + batch_size)
            batch = jax.tree.map(lambda a, part=part: a[part], data)
            found = of_batch(state.params, state.model_state, batch)
            for name, value in jax.device_get(found).items():
                totals[name] = totals.get(name, 0) + _widest(value)
        return totals

    return sums


def confusion_matrix(
    labels: JaxArrayLike,
    predictions: JaxArrayLike,
    num_classes: int,
    *,
    ignore_label: int | None = None,
) -> jax.Array:
    """Count pairs of classes: rows are labels, columns predictions.

    Args:
        labels: Integers of any shape, [N] or [N, H, W] for instance.
        predictions: Integers of the same shape: `logits.argmax(-1)`.
        num_classes: K.
        ignore_label: Examples with this label are not counted; any integer.

    Returns:
        int32 [K, K]. If a label that counts, or the prediction for one, is not from 0
        to K - 1, all numbers are the least int32 (integers have no NaN), which the
        ratios reject.

    Raises:
        TypeError: If labels or predictions are no integers.
        ValueError: If their shapes differ.

    >>> confusion_matrix([0, 0, 1, 255], [0, 1, 1, 0], 2, ignore_label=255)
    Array([[1, 1],
           [0, 1]], dtype=int32)
    """
    num_classes = integer("num_classes", num_classes, minimum=1)
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    for name, array in (("labels", labels), ("predictions", predictions)):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"{name} must be integers, got {array.dtype}")
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions must have the shape of labels {labels.shape}, got "
            f"{predictions.shape}: is an argmax(-1) missing?"
        )
    labels, predictions = (  # int8 cannot hold 128 classes
        a.astype(jnp.promote_types(a.dtype, jnp.int32)) for a in (labels, predictions)
    )
    counted = jnp.ones(labels.shape, bool)
    if ignore_label is not None:
        counted = labels != jnp.int32(integer("ignore_label", ignore_label))
    inside = _inside(labels, num_classes) & _inside(predictions, num_classes)
    rows = jnp.where(counted & inside, labels, num_classes)  # beyond: dropped
    counts = jnp.zeros((num_classes, num_classes), jnp.int32)
    counts = counts.at[rows, predictions].add(1, mode="drop")
    bad = (counted & ~inside).any()
    return jnp.where(bad, jnp.iinfo(jnp.int32).min, counts)


def accuracy(matrix: ArrayLike) -> float:
    """Return the fraction of correct predictions.

    >>> accuracy([[3, 1], [0, 4]])
    0.875
    """
    right, labelled, _ = _counts(matrix)
    return float(_ratio(right.sum(), labelled.sum()))


def precision(matrix: ArrayLike) -> np.ndarray:
    """Return the precision of each class: TP / (TP + FP).

    >>> precision([[3, 1], [0, 4]])
    array([1. , 0.8])
    """
    right, _, predicted = _counts(matrix)
    return _ratio(right, predicted)


def recall(matrix: ArrayLike) -> np.ndarray:
    """Return the recall of each class: TP / (TP + FN).

    >>> recall([[3, 1], [0, 4]])
    array([0.75, 1.  ])
    """
    right, labelled, _ = _counts(matrix)
    return _ratio(right, labelled)


def f1(matrix: ArrayLike) -> np.ndarray:
    """Return the F1 score of each class: 2 TP / (2 TP + FP + FN).

    van Rijsbergen, "Information Retrieval" (1979), chapter 7, with equal weights.
    `np.nanmean` of it is the macro average over the classes that occur.

    >>> f1([[1, 1], [0, 0]])
    array([0.66666667, 0.        ])
    """
    right, labelled, predicted = _counts(matrix)
    return _ratio(2 * right, labelled + predicted)


def iou(matrix: ArrayLike) -> np.ndarray:
    """Return the intersection over union of each class: TP / (TP + FP + FN).

    Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge" (2010).

    >>> iou([[3, 1], [0, 4]])
    array([0.75, 0.8 ])
    """
    right, labelled, predicted = _counts(matrix)
    return _ratio(right, labelled + predicted - right)


def mean_iou(matrix: ArrayLike) -> float:
    """Return the mean of `iou` over the classes that occur.

    >>> mean_iou([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    0.775
    """
    found = iou(matrix)
    there = ~np.isnan(found)
    return float(_ratio(found[there].sum(), there.sum()))


def _inside(classes: jax.Array, num_classes: int) -> jax.Array:
    return (classes >= 0) & (classes < jnp.int32(num_classes))


def _widest(value: Any) -> np.ndarray:
    exact = np.issubdtype(value.dtype, np.integer) or value.dtype == bool
    return np.asarray(value, "int64" if exact else "float64")


def _counts(matrix: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each class the correct, labelled and predicted examples."""
    counts = np.asarray(matrix)
    if counts.ndim != 2 or len(counts) != counts.shape[1]:
        raise ValueError(f"matrix must be [K, K], got shape {counts.shape}")
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"matrix must be integers, got {counts.dtype}")
    if (counts < 0).any():
        raise ValueError(
            "matrix must be counts, got numbers below 0: confusion_matrix gives these "
            "if a label or a prediction is outside of 0 to K - 1"
        )
    counts = counts.astype("int64")
    return counts.diagonal(), counts.sum(1), counts.sum(0)


def _ratio(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(part, whole))
