"""What an experiment trains and tests on, tried with shapes alone before it begins."""

import dataclasses
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..data import Dataset
from ..layers import Layer
from ..train import (
    Classification,
    ExampleMetrics,
    LossFn,
    Prepare,
    check_example_metrics,
)
from .config import OptionError

# Other keys of a line of metrics.jsonl, and of the sums that become its means.
_TAKEN = "epoch finite images_per_second interrupted seconds skipped step steps".split()


class Recipe(NamedTuple):
    """What to train, on what, and how.

    Attributes:
        layer: The model.
        tx: The optimizer.
        loss_fn: As `jcnn.train.make_step` takes it. Its metrics are scalars of any
            names but those that other keys of `metrics.jsonl` have; if "loss" is not
            among them, it is added.
        example_metrics: As `jcnn.train.make_evaluate` takes it.
        train: The images to train on.
        test: The images to look at after each epoch; nothing is chosen by them.
        prepare: (images, key) -> inputs, as `jcnn.train.classification` takes it: the
            parameters are made for what it gives. None: that of `classification` if
            the loss or the metrics are its, else inputs are as large as the images.
            `--dtype bfloat16` casts what it gives where both are of `classification`;
            others have to use a `prepare` that gives bfloat16 then.
        watch: Which of the metrics of the test images a run tells and draws. None:
            "accuracy" if there is one, else "loss".
    """

    layer: Layer
    tx: optax.GradientTransformation
    loss_fn: LossFn
    example_metrics: ExampleMetrics
    train: Dataset
    test: Dataset
    prepare: Prepare | None = None
    watch: str | None = None


def check_recipe(recipe: Recipe, *, batch_size: int) -> Recipe:
    """Try a recipe with shapes alone: nothing is compiled, computed or written.

    Args:
        recipe: What to train.
        batch_size: Images per training step.

    Returns:
        The recipe with what it has left open: `prepare` and `watch`, and "loss" among
        the metrics of `loss_fn`. Checking it again changes nothing.

    Raises:
        OptionError: In one line, if the layer cannot be made for the images, loss or
            metrics cannot be computed of images of such shapes, have other shapes than
            they must or names that are taken; if there are labels that the layer has
            no logits for; or if the watched metric is none of the test images.

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
    task = _classification(recipe)
    if recipe.prepare is None and task is not None:
        recipe = recipe._replace(prepare=task.prepare)
    inputs = network_inputs(recipe)
    key = jax.random.key(0)
    layer = f"the layer cannot be made for inputs {_described(inputs)}"
    params, model_state = _shapes(layer, recipe.layer.init, key, inputs)
    hint = (
        "" if recipe.prepare else "; if it prepares them, Recipe.prepare must say how"
    )

    batch = _batch(recipe.train, batch_size)
    images = f"images {_described(batch['image'])}"
    found = _shapes(
        f"loss_fn cannot be computed of training {images}{hint}",
        *(recipe.loss_fn, params, model_state, batch, key),
    )
    metrics = _check_loss(found, model_state)
    if "loss" not in metrics:
        recipe = recipe._replace(loss_fn=partial(_with_loss, recipe.loss_fn))

    batch = _batch(recipe.test, 500)
    metrics = _shapes(
        "example_metrics cannot be computed of test images "
        f"{_described(batch['image'])} after training on {images}{hint}",
        *(recipe.example_metrics, params, model_state, batch),
    )
    _check_names("example_metrics", metrics, taken=())
    try:
        check_example_metrics(metrics, len(batch["label"]))
    except ValueError as error:
        raise OptionError(str(error)) from error
    if task is not None:
        logits, _ = jax.eval_shape(recipe.layer.apply, params, model_state, inputs)
        _check_labels(recipe, logits.shape[-1])
    return recipe._replace(watch=_watched(recipe.watch, metrics))


def network_inputs(recipe: Recipe) -> Any:
    """What the parameters are made for: `jax.ShapeDtypeStruct` [1, …].

    It is as large as what `prepare` makes of a training image, and float32 whichever
    floats these are.

    Raises:
        OptionError: If `prepare` does not take the images.
    """

    def as_float32(x):
        return jax.ShapeDtypeStruct(x.shape, "float32" if _floating(x) else x.dtype)

    return jax.tree.map(as_float32, _prepared(recipe))


def input_dtypes(recipe: Recipe) -> set[str]:
    """Which floats `prepare` gives, and so the network computes in.

    Raises:
        OptionError: If `prepare` does not take the images.
    """
    return {x.dtype.name for x in jax.tree.leaves(_prepared(recipe)) if _floating(x)}


def cast_inputs(recipe: Recipe, dtype: str) -> Recipe:
    """The recipe of a run with `--dtype`: floats that `prepare` gives are cast.

    Args:
        recipe: What to train.
        dtype: "float32" for what `prepare` gives as it is, else the dtype.

    Raises:
        OptionError: If it cannot be done, since there are no floats, or since loss or
            metrics are not those of `jcnn.train.classification` and prepare images
            themselves, and `Recipe.prepare` does not say that they are of this dtype.

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
    tasks = [_task(f) for f in (recipe.loss_fn, recipe.example_metrics)]
    if None not in tasks:
        prepare = recipe.prepare or tasks[0].prepare  # pyright: ignore
        recipe = recipe._replace(prepare=partial(_cast, prepare, dtype))
    if input_dtypes(recipe) != {dtype}:
        got = ", ".join(map(_described, jax.tree.leaves(_prepared(recipe))))
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
    """What loss and metrics are given of a data set."""
    return {"image": dataset.image, "label": dataset.label}


def _classification(recipe: Recipe) -> Classification | None:
    """Where the loss or the metrics come from, if that is known."""
    return _task(recipe.loss_fn) or _task(recipe.example_metrics)


def _task(function: Callable[..., Any]) -> Classification | None:
    task = getattr(function, "__self__", None)
    return task if isinstance(task, Classification) else None


def _with_inputs(function: Any, dtype: str) -> Any:
    """A method of `Classification` that casts what it prepares; others as they are."""
    task = _task(function)
    if task is None:
        return function
    task = dataclasses.replace(task, prepare=partial(_cast, task.prepare, dtype))
    return getattr(task, function.__name__)


def _cast(prepare: Prepare, dtype: str, images: jax.Array, key: jax.Array | None):
    inputs = prepare(images, key)
    return jax.tree.map(lambda x: x.astype(dtype) if _floating(x) else x, inputs)


def _prepared(recipe: Recipe) -> Any:
    """What `prepare` makes of a training image, by shapes: [1, …]."""
    image = recipe.train.image[:1]
    if recipe.prepare is None:
        return jax.ShapeDtypeStruct(image.shape, jnp.dtype("float32"))
    what = f"prepare cannot be computed of training images {_described(image)}"
    return _shapes(what, recipe.prepare, image, jax.random.key(0))


def _floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _batch(dataset: Dataset, size: int) -> dict[str, np.ndarray]:
    return {name: array[:size] for name, array in arrays(dataset).items()}


def _shapes(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns, by shapes; a refusal if it raises about them."""
    try:
        return jax.eval_shape(function, *args)
    except (TypeError, ValueError) as error:
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise OptionError(f"{what}: {reason}{_place(error)}") from error


def _place(error: Exception) -> str:
    """The line of the user's own code that it came from, if one did."""
    others = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"))
    lines = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(others)
        and "site-packages" not in frame.filename
    ]
    return lines[-1] if lines else ""


def _check_loss(found: Any, model_state: Any) -> dict[str, Any]:
    """The metrics of what `loss_fn` returns, if all of it is what it must be."""
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
                f"loss_fn must give scalars, got {name} {_described(value)}: is a mean "
                "missing?"
            )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise OptionError(f"loss_fn must give a loss of floats, got {loss.dtype}")
    before, after = (jax.tree.map(_described, s) for s in (model_state, new_state))
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
        if taken and (name in taken or name.startswith(("test_", "epoch_"))):
            raise OptionError(
                f"{what} must not call a metric {name!r}: metrics.jsonl has other uses "
                f"for {', '.join(taken)}, and for what begins with test_ or epoch_"
            )


def _check_labels(recipe: Recipe, num_logits: int) -> None:
    for split, dataset in (("training", recipe.train), ("test", recipe.test)):
        low, high = dataset.label.min(), dataset.label.max()
        if low < 0 or high >= num_logits:
            raise OptionError(
                f"labels of the {split} images are {low} to {high}, but the layer "
                f"gives {num_logits} logits, which are for labels 0 to {num_logits - 1}"
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


def _described(x: Any) -> str:
    """Dtype and shape, such as uint8[70, 8, 8, 1]."""
    if not hasattr(x, "shape"):
        return repr(x)
    return f"{jax.dtypes.canonicalize_dtype(x.dtype)}{list(x.shape)}"
