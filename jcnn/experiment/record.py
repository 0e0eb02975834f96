"""What a run writes while it goes: metrics, certificate and checkpoints, which agree.

A checkpoint knows how far both files were when it was saved. A run that goes on takes
them back to that, so that they end as if it had never been interrupted.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ..train import TrainState
from .certificate import refuse_other_data, state_line
from .checkpoints import Checkpoints, Notes
from .digests import Snapshot
from .journal import EMPTY, Journal, Mark


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

    def restore(self, state: TrainState) -> tuple[TrainState, Progress]:
        """Go back to the last good checkpoint, or to the beginning if there is none.

        Args:
            state: The state before the first step.
        """
        found = self._checkpoints.restore(state, self._refuse)
        marks = found.notes["journals"] if found else {}
        for journal in self._journals():
            journal.rewind(Mark(*marks.get(journal.path.name, EMPTY)))
        if found:
            return found.tree, _progress(found.notes)
        self._certificate.append(self._data_line)
        return state, Progress()

    def add_metrics(self, line: dict[str, Any]) -> None:
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
        marks = {journal.path.name: journal.mark() for journal in self._journals()}
        notes = {"progress": progress._asdict(), "journals": marks}
        self._checkpoints.save(progress.step, snapshot, notes, metric=metric)

    def wait(self) -> None:
        """Until the last checkpoint is there."""
        self._checkpoints.wait()

    def _journals(self) -> tuple[Journal, Journal]:
        return self._metrics, self._certificate

    def _refuse(self, notes: Notes) -> str | None:
        _progress(notes)
        for journal in self._journals():
            if not journal.reaches(Mark(*notes["journals"][journal.path.name])):
                return f"{journal.path.name} is not what it was then"
        return None


def _progress(notes: Notes) -> Progress:
    """What a checkpoint says of it, which may be anything.

    Raises:
        ValueError: If it is not what was saved.
    """
    if notes["progress"].keys() != set(Progress._fields):
        raise ValueError("it does not say how far the run was")
    progress = Progress(**notes["progress"])
    numbers = [progress.seconds, *progress.sums.values()]
    if type(progress.step) is not int or progress.step < 0:
        raise ValueError(f"its step is {progress.step!r}")
    if not all(type(number) is float for number in numbers):
        raise ValueError("its sums and seconds are not all numbers")
    return progress
