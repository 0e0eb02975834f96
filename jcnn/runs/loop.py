"""The training loop of an experiment, writing its folder and saying how it goes."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import jax
import numpy as np
from rich.console import Console

from ..compilation import Options
from ..finite import Fault, NotFinite, find_fault
from ..inspect.summary import Row, summarize
from ..layers import Params, State
from ..train import TrainState, averaged, create, make_evaluate
from .config import OptionError
from .interrupt import catch_interrupt
from .pictures import draw_curves, draw_filters, try_picture
from .progress import (
    describe_metrics,
    format_metric,
    model_table,
    open_console,
    progress_bar,
    say,
)
from .recipe import Recipe, arrays, check_recipe, input_dtypes, network_inputs
from .stepping import compile_steps, count_steps, split_epoch, steps_per_call
from .store.digests import take_snapshot
from .store.folder import read_metrics
from .store.record import Progress, Record
from .store.weights import write_weights
from .verify.certificate import data_line


class Result(NamedTuple):
    """What a run has reached.

    Attributes:
        state: The last training state.
        tested: The metrics of the test images, by the averaged parameters of `state` if
            it has them.
        stopped_by: The signal that ended the run before its last step, or None.
    """

    state: TrainState
    tested: dict[str, float]
    stopped_by: signal.Signals | None


def fit(
    recipe: Recipe,
    run_dir: Path,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    max_steps: int | None = None,
    not_finite: Literal["stop", "skip"] = "stop",
    ema_decay: float | None = None,
    certify_every: int = 0,
    keep_checkpoints: int = 2,
    weights: tuple[Params, State] | None = None,
    first_step: int = 0,
    compiler_options: Options | None = None,
    on_resume: Callable[[int], None] = lambda step: None,
    console: Console | None = None,
) -> Result:
    """Train, and fill `run_dir` with metrics, certificate, weights and pictures.

    If the folder has checkpoints of the same run, it goes on from the last good one,
    and ends with the same bytes as if it had never been interrupted.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run after the call that is running,
    with all of them written and a checkpoint; the second one at once. SIGUSR1 saves a
    checkpoint after that call, and the run goes on.

    Args:
        recipe: What to train, on what, and how.
        run_dir: An existing folder.
        seed: Decides everything random.
        epochs: Passes over the training images.
        batch_size: Images per training step.
        max_steps: The run ends after so many steps, if the epochs have more.
        not_finite: What to do if a step's loss or gradients are not finite: "stop" the
            run at the last good state, or "skip" the step and count it.
        ema_decay: If given, what is tested, written and drawn is the exponential
            average of the parameters, see `jcnn.train.make_step`.
        certify_every: Steps of an epoch between two lines of the certificate; with 0
            it has one for each epoch.
        keep_checkpoints: How many of the last checkpoints are kept, beside the one of
            the epoch with the least training loss.
        weights: Parameters and model state to begin with; None: those that are drawn.
        first_step: The step that a run was made longer after, before which it must not
            go back.
        compiler_options: As for `jcnn.train.make_step`.
        on_resume: Is told the number of steps done when a run begins or goes on.
        console: Where to say how it goes; otherwise standard output.

    Returns:
        What was reached.

    Raises:
        OptionError: If `batch_size` or `epochs` is out of range, the recipe cannot be
            trained (see `check_recipe`), or the folder is of a run on other data.
        NotFinite: If a step was not finite and `not_finite` is "stop"; it names the
            step and its images. The state before is in a checkpoint.
        OSError: If a file cannot be written; the checkpoints before are left.

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
    ...     print(*sorted(file.stem for file in run_dir.iterdir()))
    certificate checkpoints curves filters metrics params
    >>> int(result.state.step), result.stopped_by
    (6, None)
    """
    console = console or open_console()
    started = time.monotonic()
    num_images = len(recipe.train.label)
    total = count_steps(num_images, batch_size=batch_size, epochs=epochs)
    per_epoch = total // epochs
    total = min(total, max_steps or total)
    recipe = check_recipe(recipe, batch_size=batch_size)
    watch = recipe.watch or ""  # checked: it is there
    data = data_line(recipe.train, recipe.test)
    inputs = network_inputs(recipe)
    rows = summarize(recipe.layer, inputs)
    console.print(model_table(rows))
    for dtype in sorted(input_dtypes(recipe) - {"float32"}):
        say(console, f"the network computes in {dtype}")
    work = batch_size * sum(row.multiply_adds or 0 for row in rows)
    sizes = split_epoch(per_epoch, steps_per_call(work), certify_every)

    train, test = jax.device_put([arrays(recipe.train), arrays(recipe.test)])
    key, with_ema = jax.random.key(seed), ema_decay is not None
    first = create(recipe.layer, recipe.tx, key, inputs, weights=weights, ema=with_ema)
    evaluate = make_evaluate(
        recipe.example_metrics,
        batch_size=min(500, len(recipe.test.label)),
        compiler_options=compiler_options,
    )
    with (
        Record(run_dir, data, keep=keep_checkpoints) as record,
        catch_interrupt() as interrupted,
        progress_bar(console, total) as show,
    ):
        state, (done, sums, earlier) = record.restore(first, first_step=first_step)
        if done > total:
            raise OptionError(f"{run_dir} has a checkpoint after step {total}, its end")
        on_resume(done)

        def taken() -> float:
            return earlier + time.monotonic() - started

        if done:
            say(console, f"going on after {done} of {total} steps")
        left = list(_sizes_from(done, total, sizes))
        calls = compile_steps(
            recipe.loss_fn,
            recipe.tx,
            batch_size=batch_size,
            sizes=set(left),
            state=first,
            data=train,
            not_finite=not_finite,
            ema_decay=ema_decay,
            compiler_options=compiler_options,
        )
        tested: dict[str, float] = {}
        saved = done
        for size in left:
            before = time.perf_counter()
            state, by_step = calls[size](state, train)
            by_step = jax.device_get(by_step)
            images_per_second = size * batch_size / (time.perf_counter() - before)
            finite = by_step.pop("finite")
            of_call = _sums(by_step, finite)
            sums = {name: sums.get(name, 0.0) + of_call[name] for name in of_call}
            failed = not_finite == "stop" and not finite.all()
            done = int(state.step) if failed else done + size
            epoch, epoch_ends = round(done / per_epoch, 6), done % per_epoch == 0
            if failed:
                progress = Progress(done, sums, taken())
                find = partial(find_fault, recipe.loss_fn, state, train)
                find = partial(find, batch_size=batch_size)
                _stop(record, state, progress, find, epoch=epoch, save=done > saved)
            of_epoch, tested = {}, {}
            if epoch_ends:
                of_epoch, sums = _means(sums), {}
                tested = evaluate(_tested(state), test)
            line = {"step": done, "epoch": epoch, **_means(of_call)}
            line |= _prefixed("epoch_", of_epoch)
            if not finite.all():
                line["skipped"] = int((~finite).sum())
            line["images_per_second"] = round(images_per_second, 1)
            line |= _prefixed("test_", tested)
            record.add_metrics(line)
            text = describe_metrics(line, epochs, watch=watch)
            show(done, text)
            if epoch_ends or done == total:
                say(console, text)
            stop = interrupted() is not None
            certify = epoch_ends or done == total
            certify |= certify_every > 0 and done % per_epoch % certify_every == 0
            save = stop or interrupted.save_asked() or done == total
            save |= epoch_ends and record.due()
            if certify or save:
                snapshot = take_snapshot(state)
                if certify:
                    record.certify(snapshot, step=done, epoch=epoch)
                if save:
                    progress = Progress(done, sums, taken())
                    loss = of_epoch.get("loss", math.nan)
                    record.save(snapshot, progress, metric=loss)
                    saved = done
                # Not in the checkpoint: it goes if the run goes on.
                if stop and not certify:
                    record.certify(snapshot, step=done, epoch=epoch)
            if stop:
                break
        record.wait()
        tested = tested or evaluate(_tested(state), test)
        stopped_by = interrupted() if done < total else None
        last = {"step": done, "epoch": round(done / per_epoch, 6)}
        last |= _prefixed("test_", tested)
        last["interrupted"] = stopped_by is not None
        last["seconds"] = round(taken(), 1)
        reached = f"test {watch} {format_metric(watch, tested[watch])}"
        title = f"{run_dir.name}: {reached}"
        best = _tested(state)
        params, model_state = jax.device_get((best.params, best.model_state))
        write_weights(run_dir / "params.safetensors", params, model_state)
        _draw(run_dir, [*read_metrics(run_dir), last], params, rows, title, watch)
        # The very last thing written: it says that nothing is missing.
        record.add_metrics(last)
    how = f"interrupted after {done} of {total} steps" if stopped_by else "done"
    say(console, f"{how}: {reached}, {last['seconds']} s; everything is in {run_dir}")
    return Result(state, tested, stopped_by)


def _stop(
    record: Record,
    state: TrainState,
    progress: Progress,
    find: Callable[[], Fault],
    *,
    epoch: float,
    save: bool,
) -> NoReturn:
    """Keep the last good state, then raise what is wrong with the step after it."""
    snapshot = take_snapshot(state)
    if save:
        record.save(snapshot, progress, metric=math.nan)
    record.wait()
    error = NotFinite(find())
    record.certify(snapshot, step=progress.step, epoch=epoch, not_finite=str(error))
    raise error


def _sizes_from(done: int, total: int, sizes: list[int]) -> Iterator[int]:
    """The sizes of the calls that are left of a run, epoch after epoch.

    They end where those of all epochs do: if `done` is within a call, what is left of
    it comes first.
    """
    end = done - done % sum(sizes)
    for size in cycle(sizes):
        if done == total:
            return
        end = min(end + size, total)
        if end > done:
            yield end - done
            done = end


def _tested(state: TrainState) -> TrainState:
    """What a run is judged by: the averaged parameters if there are any."""
    return state if state.ema is None else averaged(state)


def _sums(by_step: dict[str, np.ndarray], finite: np.ndarray) -> dict[str, float]:
    """Of each metric over the steps that are finite, and how many these are."""
    sums = {k: float(v[finite].sum(dtype="float64")) for k, v in by_step.items()}
    return sums | {_STEPS: float(finite.sum())}


def _means(sums: dict[str, float]) -> dict[str, float]:
    steps = sums[_STEPS] or math.nan
    return {name: total / steps for name, total in sums.items() if name != _STEPS}


_STEPS = "steps"


def _prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def _draw(
    run_dir: Path,
    metrics: list[dict[str, Any]],
    params: Any,
    rows: list[Row],
    title: str,
    watch: str,
) -> None:
    draw = partial(draw_curves, metrics, title=title, watch=watch)
    try_picture(run_dir / "curves.png", draw)
    for row in rows:
        kernel = _find(params, row.name).get("kernel")
        if kernel is not None and kernel.ndim == 4:
            name = f"filters of {row.name}"
            draw = partial(draw_filters, kernel, title=name)
            try_picture(run_dir / "filters.png", draw)
            break


def _find(params: Any, name: str) -> dict[str, Any]:
    """The part of `params` called `name`, say "stage1/conv"; empty if it has none."""
    for part in name.split("/"):
        params = params.get(part, {})
    return params
