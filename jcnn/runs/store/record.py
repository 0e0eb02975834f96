"""What a run writes while it goes: metrics, certificate and checkpoints, which agree.

A checkpoint holds both files as they were when it was saved. A run that goes on takes
them back to that, so that they end as if it had never been interrupted, whatever has
become of them.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ...train import TrainState
from ..config import OptionError
from ..verify.certificate import refuse_other_data, state_line
from .checkpoints import Checkpoints
from .digests import Snapshot
from .journal import Journal, read_lines


class Progress(NamedTuple):
    """What a loop has to know beside the training state to go on.

    Attributes:
        step: Number of steps done.
        sums: Of each metric over the steps done of the epoch that is not over.
        seconds: Time that the run has taken.
    """

    step: int = 0
    sums: dict[str, float] = {}
    seconds: float = 0.0


class Record:
    """The growing files of a run folder.

    Args:
        run_dir: The run's folder.
        data_line: The certificate's first line, of the data that are there now.
        keep: How many of the last checkpoints are kept, and beside them the best.

    Raises:
        OptionError: If the folder is of a run on other data.
    """

    def __init__(self, run_dir: Path, data_line: dict[str, Any], *, keep: int = 2):
        self._data_line = data_line
        self._metrics = Journal(run_dir / "metrics.jsonl")
        self._certificate = Journal(run_dir / "certificate.jsonl")
        refuse_other_data(self._certificate.path, data_line)
        self._checkpoints = Checkpoints(run_dir / "checkpoints", keep=keep)

    def __enter__(self):
        self._checkpoints.__enter__()
        return self

    def __exit__(self, *error):
        self._checkpoints.__exit__(*error)

    def restore(
        self, state: TrainState, *, first_step: int = 0
    ) -> tuple[TrainState, Progress]:
        """Go back to the last good checkpoint, or to the beginning if there is none.

        Args:
            state: The state before the first step.
            first_step: The step before which it must not go.

        Raises:
            OptionError: If the checkpoints cannot be used, or are gone; nothing was
                changed then.
        """
        found = self._checkpoints.restore(state, first_step=first_step)
        if found is None and first_step > 0:
            raise OptionError(
                f"--run-dir: that run was made longer after step {first_step}, and "
                "there is no checkpoint of then or later"
            )
        if found is None:
            self._refuse_lost_checkpoints()
        progress, contents = _checked(found.notes) if found else (Progress(), {})
        for journal in self._journals():
            journal.restore(contents.get(journal.path.name, "").encode())
        self._checkpoints.tidy()  # last: what is half-done tells that none is lost
        if found:
            return found.tree, progress
        self._certificate.append(self._data_line)
        return state, progress

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`. There is one for each call to the device:

        - `step`, `epoch`: how many are done, the epochs with a fraction.
        - `loss`, `accuracy` and what else the loss function measures: the mean over the
          steps since the line before, but for those that were not finite.
        - `skipped`: how many of these were not finite, where there are any.
        - `images_per_second`: in this call.

        On a line that ends an epoch there are also

        - `epoch_loss`, `epoch_accuracy`, …: the mean over the epoch's finite steps.
        - `validation_loss`, …: the mean over the validation images, if there are any.
        - `test_loss`, …: the mean over the test images, with `--test-each-epoch`.

        The last line of a run has `step`, `epoch`, the `test_…` of what was written to
        `params.safetensors`, `interrupted` (whether it is to go on) and `seconds` (that
        the run took, all its parts together). A number that JSON does not have is null.
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
        """Add the digests of a state to the certificate; for the rest see `state_line`.

        A line that is added after `save` goes if the run goes on from there.
        """
        line = state_line(
            snapshot.descriptions, step=step, epoch=epoch, not_finite=not_finite
        )
        self._certificate.append(line)

    def due(self) -> bool:
        """Whether there is time for a checkpoint, see `Checkpoints.due`."""
        return self._checkpoints.due()

    def save(self, snapshot: Snapshot, progress: Progress, *, metric: float) -> None:
        """Save a checkpoint in the background; `metric` as `Checkpoints.save`."""
        contents = {j.path.name: j.content().decode() for j in self._journals()}
        notes = {"progress": progress._asdict(), "journals": contents}
        self._checkpoints.save(progress.step, snapshot, notes, metric=metric)

    def wait(self) -> None:
        """Until the last checkpoint is there."""
        self._checkpoints.wait()

    def _journals(self) -> tuple[Journal, Journal]:
        return self._metrics, self._certificate

    def _refuse_lost_checkpoints(self) -> None:
        """Raise if the certificate goes further than runs go without a checkpoint.

        The first one is saved after the first epoch, and takes a moment.
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


def _checked(notes: dict[str, Any]) -> tuple[Progress, dict[str, str]]:
    """How far the run was and what its files were, which `save` has noted.

    Raises:
        OptionError: If that is not what a run writes: somebody has made it.
    """
    try:
        progress, contents = Progress(**notes["progress"]), notes["journals"]
        numbers = [progress.seconds, *progress.sums.values()]
        good = notes["progress"].keys() == set(Progress._fields)
        good &= type(progress.step) is int and progress.step >= 0
        good &= all(type(number) is float for number in numbers)
        good &= all(type(content) is str for content in contents.values())
    except (AttributeError, KeyError, TypeError):
        good, progress, contents = False, Progress(), {}
    if not good:
        raise OptionError(
            "--run-dir: the notes of its checkpoint are not those that a run writes"
        )
    return progress, contents
