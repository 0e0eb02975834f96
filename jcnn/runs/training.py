"""A run in training, and the order of its writes.

A call to the device does one or more steps. Then the run folder gets, in this order,

1. a line of `metrics.jsonl`,
2. a line of `certificate.jsonl`, each epoch and every `certify_every` steps,
3. a checkpoint, if one is due, which contains both files,
4. if the run is interrupted within an epoch, a last line of `certificate.jsonl`, which
   is not in the checkpoint and so is removed when the run resumes.

Last come `params.safetensors`, the pictures, the final line of `metrics.jsonl`, and
the page.
"""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from rich.console import Console

from ..compilation import Options
from ..finite import NotFinite, find_fault
from ..inspect.summary import Row
from ..train import BatchAt, TrainState
from .config import OptionError
from .devices import Devices
from .evaluation import Epochs, evaluated, make_evaluator
from .interrupt import Interrupts
from .output import reason_of
from .pictures import draw_run
from .processes import gather, is_first, on_host
from .progress import describe_metrics, format_metric, say
from .recipe import Recipe, network_logits
from .report.contents import collect, write_contents
from .report.page import try_page
from .store.digests import combine, take_snapshot
from .store.folder import read_metrics
from .store.network import write_network
from .store.record import NoRecord, Progress, Record
from .store.weights import write_weights

_STEPS = "steps"  # among the sums of metrics: how many steps they are of


class Result(NamedTuple):
    """The result of a run.

    Attributes:
        state: The last training state.
        tested: The metrics of the test images, by the averaged parameters if any.
        stopped_by: The signal that ended the run early, or None.
    """

    state: TrainState
    tested: dict[str, float]
    stopped_by: signal.Signals | None


@dataclass
class Training:
    """A run in training; its methods are in the order of their calls."""

    recipe: Recipe
    run_dir: Path
    record: Record | NoRecord
    interrupts: Interrupts
    console: Console
    epochs: int
    per_epoch: int
    total: int
    batch_size: int
    batch_at: BatchAt
    accumulate: int
    devices: Devices
    certify_every: int
    patience: int | None
    test_each_epoch: bool
    stop_not_finite: bool
    compiler_options: Options | None
    began: float

    def __post_init__(self):
        self.watch = self.recipe.watch or ""  # checked: it is there
        self.train = self.devices.copy_set(self.recipe.train)
        how = {"compiler_options": self.compiler_options, "devices": self.devices}
        make = partial(make_evaluator, **how)
        self.test = make(self.recipe, "test")
        validated = self.recipe.validation is not None
        self.validate = make(self.recipe, "validation") if validated else None
        self.compared = Epochs(
            self.watch,
            higher_is_better=bool(self.recipe.higher_is_better),
            patience=self.patience,
        )

    def begin(self, first: TrainState, first_step: int) -> None:
        """Begin with the state of the last good checkpoint, or with the first one."""
        state, progress = self.record.restore(first, first_step=first_step)
        self.state = self.devices.place(state)
        lines = []
        # It is missing if a step of the first call was not finite.
        if is_first() and (self.run_dir / "metrics.jsonl").exists():
            lines = read_metrics(self.run_dir)
        told, lines = gather((progress, lines))[0]
        progress = Progress(*told)
        for line in lines:
            self.compared.add(line)
        self.done, self.sums = progress.step, progress.sums
        self.over = self.done == self.total
        # It may have been killed when it stopped early, unless it was made longer.
        if self.epoch_ends and self.done > first_step:
            self.over |= self.compared.out_of_patience()
        self.saved = self.done
        self.began -= progress.seconds
        if self.done > self.total:
            raise OptionError(
                f"{self.run_dir} has a checkpoint after step {self.total}, its end"
            )
        if self.done:
            say(self.console, f"going on after {self.done} of {self.total} steps")

    def call(self, steps: Callable[..., Any], size: int) -> dict[str, Any]:
        """Do `size` steps; return their line of metrics.

        Raises:
            NotFinite: If the run is to stop at a step that is not finite. The state
                before it is written.
        """
        before = time.perf_counter()
        self.state, by_step = steps(self.state, self.train)
        by_step = jax.device_get(by_step)
        images_per_second = size * self.batch_size / (time.perf_counter() - before)
        finite = by_step.pop("finite")
        of_call = _sum(by_step, finite)
        self.sums = {k: self.sums.get(k, 0.0) + of_call[k] for k in of_call}
        if self.stop_not_finite and not finite.all():
            self.done = int(self.state.step)
            self._fail()
        self.done += size
        line = {"step": self.done, "epoch": self.epoch, **_means(of_call)}
        if self.epoch_ends:
            line |= {f"epoch_{k}": v for k, v in _means(self.sums).items()}
            self.sums = {}
        if not finite.all():
            line["skipped"] = int((~finite).sum())
        line["images_per_second"] = round(images_per_second, 1)
        self.over = self.done == self.total
        if self.epoch_ends and self.validate:
            line |= self.validate(self.state)
            self.compared.add(line)
            self.over |= self.compared.out_of_patience()
        if self.epoch_ends and self.test_each_epoch:
            line |= self.test(self.state)
        return line

    def tell(self, line: dict[str, Any]) -> str:
        """Return a line of metrics in words, printed at the end of an epoch."""
        text = describe_metrics(line, self.epochs, watch=self.watch)
        if self.epoch_ends or self.over:
            say(self.console, text)
        return text

    def asked(self) -> tuple[bool, bool]:
        """Return whether to stop and whether to save, by a signal to any process."""
        mine = self.interrupts(), self.interrupts.save_asked()
        signals, saves = zip(*gather(mine))
        for number in filter(None, signals):
            self.interrupts.note(number)
        return any(signals), any(saves)  # one that came since is for the next call

    def save(self, line: dict[str, Any], stop: bool, save: bool) -> None:
        """Write a line of the certificate and a checkpoint if they are due."""
        certify = self.epoch_ends or self.over
        if self.certify_every:
            certify |= self.done % self.per_epoch % self.certify_every == 0
        save |= stop or self.over
        if self.epoch_ends and not save:
            save = self.compared.last_is_best() or any(gather(self.record.due()))
        if not (certify or save):
            return
        snapshot = take_snapshot(self.state)
        if len({*gather(combine(snapshot.descriptions))}) > 1:
            raise OptionError(
                f"the processes of a run have other states after step {self.done}: "
                "their source, the files that it reads, libraries or processors differ"
            )
        write = partial(self.record.certify, snapshot, step=self.done, epoch=self.epoch)
        if certify:
            write()
        if save:
            metric = line.get("epoch_loss", math.nan)
            if self.validate and self.epoch_ends:
                metric = -self.compared.score(line)
            self.record.save(snapshot, self.progress(), metric=metric)
            self.saved = self.done
        if stop and not certify:
            write()  # after the checkpoint: resuming removes it

    def end(self, rows: list[Row], report: bool) -> Result:
        """Evaluate, and write weights, pictures, the last line, and the page.

        Args:
            rows: What `jcnn.summarize` returns of the layer.
            report: Whether to draw pictures and to write the page.
        """
        self.record.wait()
        tested = self.test(self.state)
        stopped_by = None if self.over else self.interrupts()
        final = evaluated(self.state)
        params, model_state = on_host((final.params, final.model_state))
        if not is_first():
            return Result(self.state, tested, stopped_by)
        last: dict[str, Any] = {"step": self.done, "epoch": self.epoch}
        last |= tested
        last["interrupted"] = stopped_by is not None
        last["seconds"] = round(self.seconds, 1)
        if self.devices.count > 1:  # one device computes the rest
            final = final._replace(params=params, model_state=model_state)
        write_weights(self.run_dir / "params.safetensors", params, model_state)
        try_network(self.recipe, self.run_dir, params, model_state, self.console)
        value = format_metric(self.watch, tested[f"test_{self.watch}"])
        reached = f"test {self.watch} {value}"
        if report:
            lines = [*read_metrics(self.run_dir), last]
            draw_run(self.run_dir, lines, params, rows, reached, watch=self.watch)
            if self.recipe.draw:
                self.recipe.draw(self.run_dir, final)
            write_contents(self.run_dir, collect(self.recipe, final, rows))
        self.record.add_metrics(last)
        if report:
            try_page(self.run_dir / "report.html", [self.run_dir])
        how = "done"
        if self.done < self.total:
            how = "interrupted" if stopped_by else "stopped early"
            how += f" after {self.done} of {self.total} steps"
        where = f"everything is in {self.run_dir}{': open report.html' * report}"
        say(self.console, f"{how}: {reached}, {last['seconds']} s; {where}")
        tested = {name.removeprefix("test_"): v for name, v in tested.items()}
        return Result(self.state, tested, stopped_by)

    @property
    def epoch(self) -> float:
        return round(self.done / self.per_epoch, 6)

    @property
    def epoch_ends(self) -> bool:
        return self.done % self.per_epoch == 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def progress(self) -> Progress:
        return Progress(self.done, self.sums, self.seconds)

    def _fail(self) -> NoReturn:
        """Save the last good state, then raise `NotFinite` for the step after it."""
        snapshot, epoch = take_snapshot(self.state), self.epoch
        if self.done > self.saved:
            self.record.save(snapshot, self.progress(), metric=math.nan)
        self.record.wait()
        error = NotFinite(
            find_fault(
                self.recipe.loss_fn,
                self.state,
                self.train,
                batch_size=self.batch_size,
                batch_at=self.batch_at,
                accumulate=self.accumulate,
            )
        )
        reason = str(error)
        self.record.certify(snapshot, step=self.done, epoch=epoch, not_finite=reason)
        raise error


def try_network(
    recipe: Recipe, run_dir: Path, params: Any, model_state: Any, console: Console
) -> None:
    """Write a trained network as a program; if it cannot be one, that is told of."""
    try:
        logits = network_logits(recipe)
        write_network(run_dir, logits, params, model_state, recipe.train)
    except Exception as error:  # that of a custom layer can be any
        say(console, f"the network cannot be exported: {reason_of(error)}")


def _sum(by_step: dict[str, np.ndarray], finite: np.ndarray) -> dict[str, float]:
    """Sum each metric over the steps that are finite, and count these."""
    sums = {k: float(v[finite].sum(dtype="float64")) for k, v in by_step.items()}
    return sums | {_STEPS: float(finite.sum())}


def _means(sums: dict[str, float]) -> dict[str, float]:
    steps = sums[_STEPS] or math.nan
    return {name: total / steps for name, total in sums.items() if name != _STEPS}
