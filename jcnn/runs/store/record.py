"""The files that a run writes while it trains: metrics, certificate and checkpoints.

A checkpoint contains both journals, and resuming restores them.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ...train import TrainState
from ..config import OptionError
from ..processes import is_first
from ..verify.certificate import check_data, state_line
from .checkpoints import Checkpoints
from .digests import Snapshot
from .journal import Journal, read_lines


class Progress(NamedTuple):
    """Steps done, sums of metrics over those of the current epoch, and seconds."""

    step: int = 0
    sums: dict[str, float] = {}
    seconds: float = 0.0


class _Saving:
    """Holds the checkpoints within a block."""

    def __init__(self, run_dir: Path, *, keep: int, together: bool):
        folder = run_dir / "checkpoints"
        self._checkpoints = Checkpoints(folder, keep=keep, together=together)

    def __enter__(self):
        self._checkpoints.__enter__()
        return self

    def __exit__(self, *error):
        self._checkpoints.__exit__(*error)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete."""
        self._checkpoints.wait()


class Record(_Saving):
    """The journals and checkpoints of a run folder.

    Args:
        run_dir: The run's folder.
        data_line: The certificate's first line, of the current data.
        keep: How many of the latest checkpoints are kept, beside the best.
        together: Whether all processes save checkpoints; see `Checkpoints`.

    Raises:
        OptionError: If the folder is of a run on other data.
    """

    def __init__(
        self,
        run_dir: Path,
        data_line: dict[str, Any],
        *,
        keep: int = 2,
        together: bool = False,
    ):
        self._data_line = data_line
        self._metrics = Journal(run_dir / "metrics.jsonl")
        self._certificate = Journal(run_dir / "certificate.jsonl")
        check_data(self._certificate.path, data_line)
        super().__init__(run_dir, keep=keep, together=together)

    def restore(
        self, state: TrainState, *, first_step: int = 0
    ) -> tuple[TrainState, Progress]:
        """Go back to the latest good checkpoint, or else to the state before step 1.

        Raises:
            OptionError: If there is none of `first_step` or later, or they cannot be
                used or are lost; nothing was changed then.
        """
        found = self._checkpoints.restore(state, first_step=first_step)
        if found is None and first_step > 0:
            raise OptionError(
                f"--run-dir: that run was made longer after step {first_step}, and "
                "there is no checkpoint of then or later"
            )
        if found is None:
            self._check_not_lost()
        progress, contents = Progress(), {}
        if found:
            try:
                progress = Progress(**found.notes["progress"])
                contents = {k: v.encode() for k, v in found.notes["journals"].items()}
            except (AttributeError, KeyError, TypeError) as error:
                raise OptionError(
                    "--run-dir: the checkpoint has no progress"
                ) from error
        for journal in (self._metrics, self._certificate):
            journal.restore(contents.get(journal.path.name, b""))
        if found:
            return found.tree, progress
        self._certificate.append(self._data_line)
        return state, progress

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`, one for each call to the device.

        It has `step`, `epoch`, the mean of each metric over the finite steps since the
        line before, `skipped` if steps were not finite, and `images_per_second`. At the
        end of an epoch it has `epoch_loss`, … over the epoch's finite steps,
        `validation_loss`, …, and `test_loss`, … with `--test-each-epoch`. The last line
        has `test_loss`, … of `params.safetensors`, `interrupted` and `seconds`.
        """
        self._metrics.append(line)

    def certify(
        self,
        snapshot: Snapshot,
        *,
        step: int,
        epoch: float,
        not_finite: str | None = None,
    ) -> None:
        """Append the digests of a state to the certificate; see `state_line`."""
        line = state_line(
            snapshot.descriptions, step=step, epoch=epoch, not_finite=not_finite
        )
        self._certificate.append(line)

    def due(self) -> bool:
        """Return whether there is time for a checkpoint; see `Checkpoints.due`."""
        return self._checkpoints.due()

    def save(self, snapshot: Snapshot, progress: Progress, *, metric: float) -> None:
        """Save a checkpoint; see `Checkpoints.save`."""
        journals = (self._metrics, self._certificate)
        contents = {j.path.name: j.content().decode() for j in journals}
        notes = {"progress": progress._asdict(), "journals": contents}
        self._checkpoints.save(progress.step, snapshot, notes, metric=metric)

    def _check_not_lost(self) -> None:
        """Raise if the certificate is longer than it can be without a checkpoint.

        The first one is saved after the first epoch.
        """
        try:
            lines = read_lines(self._certificate.path)
        except (FileNotFoundError, ValueError):
            return
        epoch = max([line.get("epoch", 0) for line in lines], default=0)
        if epoch > 2 and not self._checkpoints.was_saving():
            raise OptionError(
                f"--run-dir: there is no checkpoint in {self._checkpoints.folder}, but "
                f"certificate.jsonl goes to epoch {epoch:g}; nothing was changed: put "
                "them back, or give --begin-anew"
            )


def open_record(
    run_dir: Path, data_line: dict[str, Any], *, keep: int, together: bool
) -> "Record | NoRecord":
    """Return the record of this process; see `Record`."""
    if is_first():
        return Record(run_dir, data_line, keep=keep, together=together)
    if not together:
        return NoRecord()
    return PartRecord(run_dir, keep=keep, together=True)


class NoRecord:
    """In the place of a `Record`, in a process that writes nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def restore(
        self, state: TrainState, *, first_step: int = 0
    ) -> tuple[TrainState, Progress]:
        return state, Progress()

    def due(self) -> bool:
        return False

    def _nothing(self, *args: Any, **how: Any) -> None: ...

    add_metrics = certify = save = wait = _nothing


class PartRecord(_Saving, NoRecord):
    """In the place of a `Record`, in a process that saves its parts of arrays."""

    def save(self, snapshot: Snapshot, progress: Progress, *, metric: float) -> None:
        self._checkpoints.save(progress.step, snapshot, {}, metric=metric)
