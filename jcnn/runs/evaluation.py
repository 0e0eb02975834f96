"""Evaluation during a run: the validation split, the best epoch, early stopping."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from ..compilation import Options, jit
from ..data import Dataset, evaluation_batch_size, evaluation_batches, is_streamed
from ..layers import child_key
from ..order import batch_indices
from ..train import (
    Batch,
    ExampleMetrics,
    TrainState,
    averaged,
    make_evaluate,
    metrics_by_example,
)
from .config import OptionError
from .devices import Devices
from .recipe import Recipe


def hold_out(recipe: Recipe, fraction: float, *, seed: int) -> Recipe:
    """Move a part of the training images, drawn by the seed, to a validation split.

    Args:
        recipe: What to train.
        fraction: Part of the training images, from 0 (none) to below 1.
        seed: The run's seed.

    Raises:
        OptionError: If that is none or all of the images, or the recipe has a
            validation split already.

    >>> import optax
    >>> from jcnn import flatten
    >>> from jcnn.data import load
    >>> from jcnn.train import classification
    >>> digits, tx = load("digits", "test"), optax.sgd(0.1)
    >>> losses = classification(flatten, lambda images, key: images)
    >>> recipe = Recipe(flatten, tx, *losses, train=digits, test=digits)
    >>> recipe = hold_out(recipe, 0.25, seed=0)
    >>> len(recipe.train.label), len(recipe.validation.label)
    (270, 90)
    """
    if fraction == 0:
        return recipe
    if recipe.validation is not None:
        raise OptionError(
            "--validation must be 0 for a recipe with a validation split, got "
            f"{fraction}"
        )
    number = len(recipe.train.label)
    held_out = round(fraction * number)
    if not 0 < held_out < number:
        raise OptionError(
            f"--validation must hold out 1 to {number - 1} of {number} images, "
            f"got {fraction}"
        )
    key = child_key(jax.random.key(seed), "validation")
    order = batch_indices(key, 0, num_examples=number, batch_size=number)
    validation, train = (
        dataclasses.replace(
            recipe.train,
            image=recipe.train.image[indices],
            label=recipe.train.label[indices],
        )
        for indices in map(np.sort, np.split(np.asarray(order), [held_out]))
    )
    return recipe._replace(train=train, validation=validation)


def evaluated(state: TrainState) -> TrainState:
    """Return the state to evaluate: with the averaged parameters if it has any."""
    return state if state.ema is None else averaged(state)


def make_evaluator(
    recipe: Recipe, split: str, compiler_options: Options | None, devices: Devices
) -> Callable[[TrainState], dict[str, float]]:
    """Return a function from a state to the metrics of one of a recipe's splits."""
    dataset: Dataset = getattr(recipe, split)
    data = devices.copy_set(dataset)
    size = evaluation_batch_size(dataset.image)
    make = _make_evaluate_streamed if is_streamed(dataset) else make_evaluate
    evaluate = make(
        devices.divide(recipe.example_metrics),
        batch_size=-(-size // devices.count) * devices.count,
        compiler_options=compiler_options,
    )

    def metrics(state: TrainState) -> dict[str, float]:
        state = evaluated(state)
        found = evaluate(state, data)
        for name, function in recipe.split_metrics.items():
            found[name] = float(function(state, data))
        return {f"{split}_{name}": value for name, value in found.items()}

    return metrics


def _make_evaluate_streamed(
    example_metrics: ExampleMetrics,
    *,
    batch_size: int,
    compiler_options: Options | None,
) -> Callable[[TrainState, Batch], dict[str, float]]:
    """Return what `make_evaluate` does, for images that are read batch by batch."""
    values = jit(
        partial(metrics_by_example, example_metrics), compiler_options=compiler_options
    )

    def evaluate(state: TrainState, data: Batch) -> dict[str, float]:
        found = []
        images, labels = data["image"], data["label"]
        for batch, indices in evaluation_batches(images, labels, batch_size):
            metrics = jax.device_get(values(state.params, state.model_state, batch))
            found.append({k: v[: len(indices)] for k, v in metrics.items()})
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        return {k: float(v.mean(dtype="float64")) for k, v in whole.items()}

    return evaluate


class Epochs:
    """The epochs of a run, compared by the watched metric of the validation images.

    >>> epochs = Epochs("loss", higher_is_better=False, patience=2)
    >>> for loss in (0.5, 0.3, 0.4):
    ...     epochs.add({"epoch": 1.0, "validation_loss": loss})
    >>> epochs.last_is_best(), epochs.out_of_patience()
    (False, False)
    >>> epochs.add({"epoch": 4.0, "validation_loss": math.nan})
    >>> epochs.out_of_patience()
    True
    """

    def __init__(self, watch: str, *, higher_is_better: bool, patience: int | None):
        self._key = f"validation_{watch}"
        self._sign = 1 if higher_is_better else -1
        self._patience = patience
        self._scores: list[float] = []

    def add(self, line: dict[str, Any]) -> None:
        """Note a line of metrics; one without the metric ends no epoch."""
        if self._key in line:
            self._scores.append(self.score(line))

    def score(self, line: dict[str, Any]) -> float:
        """Return what is higher for better epochs; the lowest if it is not finite."""
        value = line[self._key]  # None: a number that JSON does not have
        if value is None or not math.isfinite(value):
            return -math.inf
        return self._sign * value

    def last_is_best(self) -> bool:
        """Return whether no epoch before the last one was as good."""
        return bool(self._scores) and self._since_best() == 0

    def out_of_patience(self) -> bool:
        """Return whether the best epoch is `patience` epochs ago."""
        if self._patience is None or not self._scores:
            return False
        return self._since_best() >= self._patience

    def _since_best(self) -> int:
        return len(self._scores) - 1 - self._scores.index(max(self._scores))
