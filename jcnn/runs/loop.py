"""`fit`: train a recipe, with everything that a run folder gets."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console

from ..compilation import Options
from ..inspect.summary import summarize
from ..inspect.table import model_table
from ..layers import Params, State
from ..train import create
from .check import check_recipe
from .config import OptionError
from .devices import choose_devices
from .interrupt import catch_interrupt
from .output import printable
from .processes import are_several, gather, is_first
from .profiling import profile_steps
from .progress import open_console, progress_bar, say
from .recipe import Recipe, batch_inputs, input_dtypes, network_inputs, with_num_steps
from .stepping import (
    compile_steps,
    count_steps,
    sizes_left,
    split_epoch,
    suggest_steps_per_call,
)
from .store.folder import read_metrics
from .store.record import open_record
from .training import Result, Training
from .verify.certificate import data_differences, data_line


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
    accumulate: int = 1,
    devices: int | Literal["all"] = 1,
    shard_parameters: int | None = None,
    patience: int | None = None,
    test_each_epoch: bool = False,
    certify_every: int = 0,
    keep_checkpoints: int = 2,
    weights: tuple[Params, State] | None = None,
    first_step: int = 0,
    compiler_options: Options | None = None,
    steps_per_call: int | None = None,
    report: bool = True,
    tensorboard: bool = False,
    profile: bool = False,
    on_resume: Callable[[int], None] = lambda step: None,
    on_metrics: Callable[[dict[str, Any]], None] = lambda line: None,
    compile_steps: Callable[..., dict[int, Any]] = compile_steps,
    console: Console | None = None,
) -> Result:
    """Train, and fill `run_dir` with metrics, certificate, weights and pictures.

    If the folder has checkpoints of the same run, training resumes from the last good
    one, and ends with the same bytes as if it had never been interrupted.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run after the call that is running,
    with all files and a checkpoint written; the second one ends it at once. SIGUSR1
    saves a checkpoint after that call, and the run goes on.

    Args:
        recipe: What to train, on what, and how.
        run_dir: An existing folder.
        seed, epochs, batch_size, max_steps, not_finite, ema_decay: As in `RunConfig`.
        accumulate, devices, shard_parameters, patience: As in `RunConfig`.
        test_each_epoch, certify_every, keep_checkpoints: As in `RunConfig`.
        weights: Initial parameters and model state; None: draw them.
        first_step: The step that a run was made longer after; it never goes back
            behind that.
        compiler_options: As for `jcnn.train.make_step`.
        steps_per_call: Steps between two lines of metrics, at most; None: what takes
            about a second.
        report: Whether to draw pictures and to write `report.html`.
        on_resume: Called with the number of steps done when training begins or resumes.
        tensorboard: Whether to write event files for TensorBoard.
        profile: As in `RunConfig`.
        on_metrics: Called with each line of `metrics.jsonl` once it is written, the
            last of which has "interrupted". If it raises an exception, that is told of,
            the run goes on, and it is not called again.
        compile_steps: As `jcnn.runs.stepping.compile_steps`.
        console: Where to report progress; None: standard output.

    Returns:
        What was reached.

    Raises:
        OptionError: If `batch_size` or `epochs` is out of range, the recipe cannot be
            trained (see `check_recipe`), or the folder is of a run on other data.
        NotFinite: If a step was not finite and `not_finite` is "stop"; it names the
            step and its images. The state before is in a checkpoint.
        OSError: If a file cannot be written; earlier checkpoints are kept.

    >>> import io, tempfile
    >>> import optax
    >>> from jcnn import flatten, serial
    >>> from jcnn.data import load
    >>> from jcnn.layers import Conv, Dense
    >>> from jcnn.train import classification
    >>> layer = serial(conv1=Conv(4, 3), flatten=flatten, head=Dense(10))
    >>> losses = classification(layer, lambda images, key: images.astype("float32"))
    >>> digits = load("digits", "test")
    >>> recipe = Recipe(layer, optax.adam(1e-2), *losses, train=digits, test=digits)
    >>> how = {"epochs": 1, "batch_size": 60, "console": Console(file=io.StringIO())}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     int(fit(recipe, Path(folder), seed=0, **how).state.step)
    ...     print(*sorted(file.stem for file in Path(folder).iterdir()))
    6
    certificate checkpoints curves filters metrics network network params
    report report
    """
    began = time.monotonic()
    first_process = is_first()
    trackers = [on_metrics] if first_process else []
    if tensorboard and first_process:
        from .tensorboard import event_writer

        trackers.append(event_writer(run_dir))
    console = console or open_console()
    console.quiet |= not first_process
    num_images = len(recipe.train.label)
    num_steps = count_steps(num_images, batch_size=batch_size, epochs=epochs)
    recipe = with_num_steps(recipe, num_steps)
    recipe = check_recipe(
        recipe, batch_size=batch_size, accumulate=accumulate, patience=patience
    )
    used = choose_devices(
        devices,
        batch_size=batch_size,
        accumulate=accumulate,
        min_size=shard_parameters,
    )
    data = data_line(recipe.train, recipe.test, recipe.validation)
    together = used.min_size is not None and are_several()
    found = gather((data, run_dir.is_dir()))
    for other, _ in found:
        if other != found[0][0]:
            text = "the processes of a run must have the same data: "
            raise OptionError(text + data_differences(found[0][0], other))
    if together and not all(there for _, there in found):
        raise OptionError(
            "--shard-parameters: each process saves its parts of the parameters, so "
            f"all of them must see the run's folder, {run_dir}"
        )
    rows = summarize(recipe.layer, batch_inputs(recipe, batch_size // accumulate))
    console.print(model_table(rows, console.width))
    for dtype in sorted(input_dtypes(recipe) - {"float32"}):
        say(console, f"the network computes in {dtype}")
    work = batch_size * sum(row.multiply_adds or 0 for row in rows)
    limit = steps_per_call or suggest_steps_per_call(work)
    sizes = split_epoch(num_steps // epochs, limit, certify_every)
    total = min(num_steps, max_steps or num_steps)
    key, ema = jax.random.key(seed), ema_decay is not None
    tx: Any = recipe.tx  # no function any more
    inputs = network_inputs(recipe)
    with used.making():
        first = create(recipe.layer, tx, key, inputs, weights=weights, ema=ema)
    with (
        open_record(run_dir, data, keep=keep_checkpoints, together=together) as record,
        catch_interrupt() as interrupts,
        progress_bar(console, total) as show,
        used.batches(recipe) as batch_at,
    ):
        run = Training(
            recipe=recipe,
            run_dir=run_dir,
            record=record,
            interrupts=interrupts,
            console=console,
            epochs=epochs,
            per_epoch=num_steps // epochs,
            total=total,
            batch_size=batch_size,
            batch_at=batch_at,
            accumulate=accumulate,
            devices=used,
            certify_every=certify_every,
            patience=patience,
            test_each_epoch=test_each_epoch,
            stop_not_finite=not_finite == "stop",
            compiler_options=compiler_options,
            began=began,
        )
        with used.making():
            run.begin(first, first_step)
        on_resume(run.done)
        end = run.done if run.over else total
        left = list(sizes_left(sizes, done=run.done, total=end))
        calls = compile_steps(
            used.divide(recipe.loss_fn),
            tx,
            batch_size=batch_size,
            sizes=set(left),
            state=run.state,
            data=run.train,
            not_finite=not_finite,
            ema_decay=ema_decay,
            accumulate=accumulate,
            batch_at=batch_at,
            compiler_options=compiler_options,
        )
        if profile:
            profile_steps(run, calls)
        for size in left:
            line = run.call(calls[size], size)
            record.add_metrics(line)
            show(run.done, run.tell(line))
            tell(trackers, line)
            stop, save = run.asked()
            run.save(line, stop, save)
            if stop or run.over:
                break
        result = run.end(rows, report)
        if trackers:
            tell(trackers, read_metrics(run_dir)[-1])
        return result


def tell(
    trackers: list[Callable[[dict[str, Any]], None]], line: dict[str, Any]
) -> None:
    """Give a line of metrics to each tracker; one that fails gets no more of them."""
    for tracker in list(trackers):
        try:
            tracker(dict(line))
        except Exception as error:  # a tracker's server may be down
            trackers.remove(tracker)
            text = printable(f"the metrics are tracked no more: {error!r}")
            print(text, file=sys.stderr)
