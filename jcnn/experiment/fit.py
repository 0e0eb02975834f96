"""The training loop of an experiment, writing its folder and saying how it goes."""

import time
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console

from ..data import Dataset
from ..layers import Layer
from ..summary import Row, summarize
from ..train import ExampleMetrics, LossFn, TrainState, create, make_evaluate
from .interrupt import catch_interrupt
from .pictures import draw_curves, draw_filters, write_picture
from .progress import describe_metrics, model_table, progress_bar
from .run_folder import append_metrics, read_metrics
from .stepping import compile_steps, count_steps, split_epoch, steps_per_call
from .weights import write_weights


class Recipe(NamedTuple):
    """What to train, on what, and how.

    Attributes:
        layer: The model.
        tx: The optimizer.
        loss_fn: As `jcnn.train.make_step` takes it; metrics are loss and accuracy.
        example_metrics: As `jcnn.train.make_evaluate` takes it; the same metrics.
        train: The images to train on.
        test: The images to look at after each epoch; nothing is chosen by them.
    """

    layer: Layer
    tx: optax.GradientTransformation
    loss_fn: LossFn
    example_metrics: ExampleMetrics
    train: Dataset
    test: Dataset


class Result(NamedTuple):
    """What a run has reached.

    Attributes:
        state: The last training state.
        test_accuracy: Part of the test images that `state` gets right.
        interrupted: Whether Ctrl-C ended the run before its last step.
    """

    state: TrainState
    test_accuracy: float
    interrupted: bool


def fit(
    recipe: Recipe,
    run_dir: Path,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    console: Console | None = None,
) -> Result:
    """Train, and fill `run_dir` with metrics, weights and pictures.

    The first Ctrl-C ends the run after the call that is running, with all of them
    written; the second one at once.

    Args:
        recipe: What to train, on what, and how.
        run_dir: An existing folder.
        seed: Decides everything random.
        epochs: Passes over the training images.
        batch_size: Images per training step.
        console: Where to say how it goes; otherwise standard output.

    Returns:
        What was reached.

    Raises:
        OptionError: If `batch_size` or `epochs` is out of range.

    >>> import io, tempfile
    >>> import optax
    >>> from jcnn.data import load
    >>> from jcnn import flatten, serial
    >>> from jcnn.layers import Conv, Dense
    >>> from jcnn.train import classification
    >>> layer = serial(conv1=Conv(4, 3), flatten=flatten, head=Dense(10))
    >>> losses = classification(layer, lambda images, key: images.astype("float32"))
    >>> digits = load("digits", "test")
    >>> recipe = Recipe(layer, optax.adam(1e-2), *losses, train=digits, test=digits)
    >>> quiet = Console(file=io.StringIO())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run_dir = Path(folder)
    ...     result = fit(
    ...         recipe, run_dir, seed=0, epochs=1, batch_size=60, console=quiet
    ...     )
    ...     print(*sorted(file.name for file in run_dir.iterdir()))
    curves.png filters.png metrics.jsonl params.safetensors
    >>> int(result.state.step), result.interrupted
    (6, False)
    """
    console = console or Console()
    started = time.perf_counter()
    num_images = len(recipe.train.label)
    total = count_steps(num_images, batch_size=batch_size, epochs=epochs)
    per_epoch = total // epochs
    inputs = jax.ShapeDtypeStruct((1, *recipe.train.image.shape[1:]), "float32")
    rows = summarize(recipe.layer, inputs)
    console.print(model_table(rows))
    work = batch_size * sum(row.multiply_adds for row in rows)
    sizes = split_epoch(per_epoch, steps_per_call(work))

    train, test = jax.device_put([_arrays(recipe.train), _arrays(recipe.test)])
    state = create(recipe.layer, recipe.tx, jax.random.key(seed), inputs)
    evaluate = make_evaluate(
        recipe.example_metrics, batch_size=min(500, len(recipe.test.label))
    )
    done = 0
    line: dict[str, Any] = {}
    with catch_interrupt() as interrupted, progress_bar(console, total) as show:
        calls = compile_steps(
            recipe.loss_fn,
            recipe.tx,
            batch_size=batch_size,
            sizes=set(sizes),
            state=state,
            data=train,
        )
        for size in chain.from_iterable(repeat(sizes, epochs)):
            before = time.perf_counter()
            state, by_step = calls[size](state, train)
            means = {k: float(v.mean()) for k, v in jax.device_get(by_step).items()}
            images_per_second = size * batch_size / (time.perf_counter() - before)
            done += size
            line = {"step": done, "epoch": round(done / per_epoch, 6), **means}
            line["images_per_second"] = round(images_per_second, 1)
            show(done, describe_metrics(line, epochs))
            stop = done == total or interrupted()
            if stop or done % per_epoch == 0:
                line |= {f"test_{k}": v for k, v in evaluate(state, test).items()}
                console.print(describe_metrics(line, epochs), highlight=False)
            append_metrics(run_dir, line)
            if stop:
                break
        result = Result(state, line["test_accuracy"], interrupted=done < total)
        last = {name: line[name] for name in ("step", "epoch", "test_loss")}
        last["test_accuracy"] = result.test_accuracy
        last["interrupted"] = result.interrupted
        last["seconds"] = round(time.perf_counter() - started, 1)
        append_metrics(run_dir, last)
        params, model_state = jax.device_get((state.params, state.model_state))
        write_weights(run_dir / "params.safetensors", params, model_state)
        _draw(run_dir, params, rows, result.test_accuracy)
    how = f"interrupted after {done} of {total} steps" if result.interrupted else "done"
    console.print(
        f"{how}: test accuracy {result.test_accuracy:.2%}, "
        f"{last['seconds']} s; everything is in {run_dir}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return result


def _arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    return {"image": dataset.image, "label": dataset.label}


def _draw(run_dir: Path, params: Any, rows: list[Row], test_accuracy: float) -> None:
    title = f"{run_dir.name}: test accuracy {test_accuracy:.2%}"
    curves = draw_curves(read_metrics(run_dir), title=title)
    write_picture(run_dir / "curves.png", curves)
    for row in rows:
        kernel = _find(params, row.name).get("kernel")
        if kernel is not None and kernel.ndim == 4:
            filters = draw_filters(kernel, title=f"filters of {row.name}")
            write_picture(run_dir / "filters.png", filters)
            break


def _find(params: Any, name: str) -> dict[str, Any]:
    """The part of `params` called `name`, say "stage1/conv"; empty if it has none."""
    for part in name.split("/"):
        params = params.get(part, {})
    return params
