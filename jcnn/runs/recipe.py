"""The recipe of an experiment, and the inputs of its network."""

import dataclasses
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..data import Dataset
from ..layers import Layer, Params, State
from ..train import (
    Batch,
    BatchAt,
    Classification,
    ExampleMetrics,
    LossFn,
    Prepare,
    TrainState,
    batch_at,
)
from .config import OptionError
from .output import reason_of


class Recipe(NamedTuple):
    """Model, optimizer, loss, metrics and data of a run.

    Attributes:
        layer: The model.
        tx: The optimizer, or a function from the run's number of steps to it;
            `max_steps` does not change that number.
        loss_fn: As for `jcnn.train.make_step`. Its metrics are scalars, whose names
            must not be other keys of `metrics.jsonl`; "loss" is added if it is missing.
        example_metrics: As for `jcnn.train.make_evaluate`.
        train: Training images.
        test: Images to evaluate at the end, never used for model selection.
        prepare: (images, key) -> inputs of the network, as for
            `jcnn.train.classification`. None: that of `classification` if loss or
            metrics are its own, else the inputs have the shape of the images. With
            `--dtype bfloat16` it must give bfloat16, unless loss and metrics are those
            of `classification`, which cast.
        watch: The metric of `example_metrics` to report, draw and compare epochs by.
            None: "accuracy" if there is one, else "loss".
        higher_is_better: Whether a higher watched metric is better. None: yes for
            names that end in "accuracy", no for "loss"; with a validation split other
            names need it.
        validation: Images to evaluate after each epoch, if any; `--validation` takes
            them from `train`.
        batch_at: (key, step, data, batch_size) -> the batch of a step, for batches that
            are composed of several images, or that depend on the epoch. By default
            `jcnn.train.batch_at`: examples in an order drawn for each epoch, which
            streamed images must have.
        split_metrics: Metrics of a whole split that are no means over examples, such as
            mean IoU: functions (state, data) -> number, by name. Streamed images have
            none.
        draw: (folder, state): called at the end to write more pictures into the run's
            folder.
    """

    layer: Layer
    tx: optax.GradientTransformation | Callable[[int], optax.GradientTransformation]
    loss_fn: LossFn
    example_metrics: ExampleMetrics
    train: Dataset
    test: Dataset
    prepare: Prepare | None = None
    watch: str | None = None
    higher_is_better: bool | None = None
    validation: Dataset | None = None
    batch_at: BatchAt = batch_at
    split_metrics: Mapping[str, Callable[[TrainState, Batch], SupportsFloat]] = {}
    draw: Callable[[Path, TrainState], None] | None = None


def with_num_steps(recipe: Recipe, num_steps: int) -> Recipe:
    """Return the recipe with its optimizer made for a number of steps.

    >>> from jcnn import flatten
    >>> recipe = Recipe(flatten, lambda n: optax.sgd(1 / n), *[None] * 4)
    >>> hasattr(with_num_steps(recipe, 10).tx, "update")
    True
    """
    return recipe._replace(tx=recipe.tx(num_steps)) if callable(recipe.tx) else recipe


def network_inputs(recipe: Recipe) -> Any:
    """Return the shapes [1, …] of the network's inputs, floats as float32.

    Raises:
        OptionError: If `prepare` rejects the images.
    """

    def as_float32(x):
        return jax.ShapeDtypeStruct(x.shape, "float32" if _floating(x) else x.dtype)

    return jax.tree.map(as_float32, batch_inputs(recipe))


def input_dtypes(recipe: Recipe) -> set[str]:
    """Return the float dtypes that `prepare` gives.

    Raises:
        OptionError: If `prepare` rejects the images.
    """
    return {x.dtype.name for x in jax.tree.leaves(batch_inputs(recipe)) if _floating(x)}


def cast_inputs(recipe: Recipe, dtype: str) -> Recipe:
    """Return the recipe with float inputs cast to a dtype; "float32" changes nothing.

    Raises:
        OptionError: If there are no floats, or loss or metrics are not those of
            `jcnn.train.classification` and `Recipe.prepare` gives another dtype.

    >>> from jcnn.data import load
    >>> from jcnn.layers import Dense
    >>> from jcnn.train import classification
    >>> losses = classification(Dense(10), lambda images, key: images / 255)
    >>> digits = load("digits", "test")
    >>> recipe = Recipe(Dense(10), optax.adam(1e-3), *losses, train=digits, test=digits)
    >>> input_dtypes(cast_inputs(recipe, "bfloat16"))
    {'bfloat16'}
    """
    if dtype == "float32":
        return recipe
    tasks = [task_of(f) for f in (recipe.loss_fn, recipe.example_metrics)]
    if None not in tasks:
        prepare = recipe.prepare or tasks[0].prepare  # pyright: ignore
        recipe = recipe._replace(prepare=partial(_cast, prepare, dtype))
    if input_dtypes(recipe) != {dtype}:
        got = ", ".join(map(described, jax.tree.leaves(batch_inputs(recipe))))
        raise OptionError(
            f"--dtype: {dtype} is for inputs of floats, with loss and metrics of "
            "jcnn.train.classification or a Recipe.prepare that gives this dtype; "
            f"got inputs {got}"
        )
    return recipe._replace(
        loss_fn=_with_inputs(recipe.loss_fn, dtype),
        example_metrics=_with_inputs(recipe.example_metrics, dtype),
    )


def arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the batch that loss and metrics get: all of a data set."""
    return {"image": dataset.image, "label": dataset.label}


def network_logits(
    recipe: Recipe,
) -> Callable[[Params, State, jax.Array], jax.Array]:
    """Return the function (params, model state, images) -> the network's output."""
    task = task_of(recipe.example_metrics)
    prepare = recipe.prepare or (lambda images, key: images)

    def output(params, model_state, images):
        if task:
            return task.logits(params, model_state, {"image": images})
        return recipe.layer.apply(params, model_state, prepare(images, None))[0]

    return output


def batch_shapes(recipe: Recipe, batch_size: int) -> Batch:
    """Return the shapes of a training step's batch."""
    step = jax.ShapeDtypeStruct((), "int32")
    return shapes_of(
        "batch_at cannot be computed of the training images",
        lambda key, step, data: recipe.batch_at(key, step, data, batch_size),
        *(jax.random.key(0), step, arrays(recipe.train)),
    )


def task_of(function: Callable[..., Any]) -> Classification | None:
    """Return the `Classification` whose method this is, if it is one."""
    task = getattr(function, "__self__", None)
    return task if isinstance(task, Classification) else None


def _with_inputs(function: Any, dtype: str) -> Any:
    """Let a method of `Classification` cast its inputs; return others unchanged."""
    task = task_of(function)
    if task is None:
        return function
    task = dataclasses.replace(task, prepare=partial(_cast, task.prepare, dtype))
    return getattr(task, function.__name__)


def _cast(prepare: Prepare, dtype: str, images: jax.Array, key: jax.Array | None):
    inputs = prepare(images, key)
    return jax.tree.map(lambda x: x.astype(dtype) if _floating(x) else x, inputs)


def batch_inputs(recipe: Recipe, batch_size: int = 1) -> Any:
    """Return the shapes [N, …] of the prepared images of a batch."""
    image = batch_shapes(recipe, batch_size)["image"]
    if recipe.prepare is None:
        return jax.ShapeDtypeStruct(image.shape, jnp.dtype("float32"))
    what = f"prepare cannot be computed of training images {described(image)}"
    return shapes_of(what, recipe.prepare, image, jax.random.key(0))


def _floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def shapes_of(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """Return the shapes of a result; an `OptionError` if the function rejects them."""
    try:
        return jax.eval_shape(function, *args)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{what}: {reason_of(error)}{_place(error)}") from error


def _place(error: Exception) -> str:
    """Return the line of the user's own code that raised an error, if any."""
    others = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"))
    lines = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(others)
        and "site-packages" not in frame.filename
    ]
    return lines[-1] if lines else ""


def described(x: Any) -> str:
    """Return dtype and shape, such as uint8[70, 8, 8, 1]."""
    if not hasattr(x, "shape"):
        return repr(x)
    return f"{jax.dtypes.canonicalize_dtype(x.dtype)}{list(x.shape)}"
