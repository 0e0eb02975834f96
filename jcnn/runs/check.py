"""Checks of a recipe by shapes alone, before anything is compiled or written."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data import Dataset, is_streamed
from ..train import Classification, batch_at, check_example_metrics
from .config import OptionError
from .progress import is_accuracy
from .recipe import (
    Recipe,
    arrays,
    batch_shapes,
    described,
    network_inputs,
    shapes_of,
    task_of,
)

# Other keys of a line of metrics.jsonl, and of the sums that become its means.
_TAKEN = "epoch finite images_per_second interrupted seconds skipped step steps".split()


def check_recipe(
    recipe: Recipe,
    *,
    batch_size: int,
    accumulate: int = 1,
    patience: int | None = None,
) -> Recipe:
    """Check a recipe by shapes, and set the defaults of its fields.

    Args:
        recipe: What to train.
        batch_size: Images per training step.
        accumulate, patience: As for `fit`.

    Returns:
        The recipe with `prepare`, `watch` and `higher_is_better`, and with "loss" among
        the metrics of `loss_fn`.

    Raises:
        OptionError: If layer, loss or metrics do not take the images, the optimizer
            does not take the parameters, metrics have wrong shapes or reserved names, a
            label has no logit, or there is no watched metric.

    >>> import optax
    >>> from jcnn import flatten, serial
    >>> from jcnn.data import load
    >>> from jcnn.layers import Dense
    >>> from jcnn.train import classification
    >>> digits = load("digits", "test")
    >>> layer = serial(flatten=flatten, head=Dense(9))
    >>> losses = classification(layer, lambda images, key: images.astype("float32"))
    >>> recipe = Recipe(layer, optax.adam(1e-3), *losses, train=digits, test=digits)
    >>> check_recipe(recipe, batch_size=8)
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: labels of the training images are 0 to 9, but
    the layer gives 9 logits, which are for labels 0 to 8
    """
    _check_streamed(recipe)
    task = _classification(recipe)
    if recipe.prepare is None and task is not None:
        recipe = recipe._replace(prepare=task.prepare)
    inputs = network_inputs(recipe)
    key = jax.random.key(0)
    layer = f"the layer cannot be made for inputs {described(inputs)}"
    params, model_state = shapes_of(layer, recipe.layer.init, key, inputs)
    if not callable(recipe.tx):
        shapes_of("the optimizer takes no such parameters", recipe.tx.init, params)
    hint = (
        "" if recipe.prepare else "; if it prepares them, Recipe.prepare must say how"
    )

    if batch_size % accumulate:
        raise OptionError(
            f"--accumulate must divide the batch size, {batch_size}, got {accumulate}"
        )
    batch = batch_shapes(recipe, batch_size // accumulate)
    images = f"images {described(batch['image'])}"
    found = shapes_of(
        f"loss_fn cannot be computed of training {images}{hint}",
        *(recipe.loss_fn, params, model_state, batch, key),
    )
    metrics = _check_loss(found, model_state)
    if "loss" not in metrics:
        recipe = recipe._replace(loss_fn=partial(_with_loss, recipe.loss_fn))

    for split, dataset in _evaluated(recipe):
        batch = _batch(dataset, 500)
        metrics = shapes_of(
            f"example_metrics cannot be computed of {split} images "
            f"{described(batch['image'])} after training on {images}{hint}",
            *(recipe.example_metrics, params, model_state, batch),
        )
        _check_names("example_metrics", metrics, taken=())
        _check_names("split_metrics", recipe.split_metrics, taken=metrics)
        try:
            check_example_metrics(metrics, len(batch["label"]))
        except ValueError as error:
            raise OptionError(str(error)) from error
    if task is not None:
        logits, _ = jax.eval_shape(recipe.layer.apply, params, model_state, inputs)
        _check_labels(recipe, logits.shape[-1])
    names = [*metrics, *recipe.split_metrics]
    recipe = recipe._replace(watch=_watched(recipe.watch, names))
    if recipe.validation is not None:
        return recipe._replace(higher_is_better=_direction(recipe))
    if patience is not None:
        raise OptionError(
            "--patience needs a validation split: --validation must be above 0, got 0"
        )
    return recipe


def _check_streamed(recipe: Recipe) -> None:
    if is_streamed(recipe.train) and recipe.batch_at is not batch_at:
        raise OptionError(
            "Recipe.batch_at must be jcnn.train.batch_at for streamed training images, "
            f"got {recipe.batch_at}"
        )
    for split, dataset in _evaluated(recipe):
        if is_streamed(dataset) and recipe.split_metrics:
            raise OptionError(
                f"Recipe.split_metrics must be empty for streamed {split} images, got "
                f"{', '.join(recipe.split_metrics)}"
            )


def _classification(recipe: Recipe) -> Classification | None:
    """Return the `Classification` of the loss or the metrics, if there is one."""
    return task_of(recipe.loss_fn) or task_of(recipe.example_metrics)


def _batch(dataset: Dataset, size: int) -> dict[str, np.ndarray]:
    return {name: array[:size] for name, array in arrays(dataset).items()}


def _check_loss(found: Any, model_state: Any) -> dict[str, Any]:
    """Check the shapes that `loss_fn` returns, and return its metrics."""
    try:
        loss, (new_state, metrics) = found
    except (TypeError, ValueError) as error:
        raise OptionError(
            "loss_fn must return (loss, (model_state, metrics))"
        ) from error
    _check_names("loss_fn", metrics, taken=_TAKEN)
    for name, value in {"the loss": loss, **metrics}.items():
        if getattr(value, "shape", None) != ():
            raise OptionError(
                f"loss_fn must give scalars, got {name} {described(value)}: is a mean "
                "missing?"
            )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise OptionError(f"loss_fn must give a loss of floats, got {loss.dtype}")
    before, after = (jax.tree.map(described, s) for s in (model_state, new_state))
    if before != after:
        raise OptionError(
            f"loss_fn must return a model_state as it was given, {before}, got {after}"
        )
    return metrics


def _check_names(what: str, metrics: Any, *, taken: Iterable[str]) -> None:
    if not isinstance(metrics, dict):
        raise OptionError(f"{what} must give its metrics as a dict, got {metrics!r}")
    for name in metrics:
        if not isinstance(name, str):
            raise OptionError(f"{what}: names of metrics must be str, got {name!r}")
        prefixes = ("epoch_", "validation_", "test_")
        if taken and (name in taken or name.startswith(prefixes)):
            raise OptionError(
                f"{what} must not call a metric {name!r}: metrics.jsonl has other uses "
                f"for {', '.join(taken)}, and for names that begin with "
                f"{', '.join(prefixes)}"
            )


def _check_labels(recipe: Recipe, num_logits: int) -> None:
    for split, dataset in (("training", recipe.train), *_evaluated(recipe)):
        low, high = dataset.label.min(), dataset.label.max()
        if low < 0 or high >= num_logits:
            raise OptionError(
                f"labels of the {split} images are {low} to {high}, but the layer "
                f"gives {num_logits} logits, which are for labels 0 to {num_logits - 1}"
            )


def _evaluated(recipe: Recipe) -> list[tuple[str, Dataset]]:
    """Return the splits to evaluate, `test` last."""
    splits = (("validation", recipe.validation), ("test", recipe.test))
    return [(name, dataset) for name, dataset in splits if dataset is not None]


def _direction(recipe: Recipe) -> bool:
    watch = recipe.watch or ""
    if recipe.higher_is_better is not None:
        return recipe.higher_is_better
    if is_accuracy(watch) or watch.endswith("loss"):
        return is_accuracy(watch)
    raise OptionError(
        f"Recipe.higher_is_better must be True or False for the metric {watch!r} of "
        "validation images, got None"
    )


def _watched(watch: str | None, metrics: Iterable[str]) -> str:
    for name in ("accuracy", "loss") if watch is None else (watch,):
        if name in metrics:
            return name
    there = ", ".join(sorted(metrics)) or "none"
    raise OptionError(
        f"watch is {watch!r}, but must be a metric of the test images: {there}"
    )


def _with_loss(loss_fn, params, model_state, batch, key):
    loss, (model_state, metrics) = loss_fn(params, model_state, batch, key)
    return loss, (model_state, {"loss": loss, **metrics})
