"""Checkpoints by Orbax, each with the digests of its arrays.

    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        found = checkpoints.restore(state)
        ...
        checkpoints.save(step, take_snapshot(state), notes)

Orbax's `CheckpointManager` writes in the background, renames what is complete and
removes old checkpoints. The item `content` lists the digests, and has one of its own.
"""

import logging
import math
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from ..._files import unused
from ..config import OptionError
from ..processes import is_first
from .digests import Snapshot, host_arrays, like
from .reading import (
    FORMAT,
    Damaged,
    content_digest,
    error_number,
    first_line,
    read_checkpoint,
    read_content,
    unreadable_now,
)

_REMOVED = ".removed"  # subfolder that Orbax moves old checkpoints to
Notes = dict[str, Any]


class CheckpointError(OSError):
    """A checkpoint could not be written; earlier ones are intact."""


class Restored(NamedTuple):
    """The content of a checkpoint: its step, the pytree, and what was saved with it."""

    step: int
    tree: Any
    notes: Notes


class Checkpoints:
    """The latest checkpoints of a run, and the best one.

    Args:
        folder: Where they are, or will be, each in a folder named by its step.
        keep: How many of the latest ones are kept.
        share: Fraction of the time that saving may take, background work included.
        together: Whether all processes save, each its parts of divided arrays.

    Raises:
        CheckpointError: If `folder` is a symbolic link.

    >>> import tempfile
    >>> from jcnn.runs.store.digests import take_snapshot
    >>> state = {"kernel": jnp.ones((2, 3))}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Checkpoints(Path(folder, "checkpoints")) as checkpoints:
    ...         checkpoints.save(5, take_snapshot(state), {"loss": 0.5})
    ...     with Checkpoints(Path(folder, "checkpoints")) as checkpoints:
    ...         print(checkpoints.restore(state))
    Restored(step=5, tree={'kernel': Array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)}, notes={'loss': 0.5})
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        share: float = 0.02,
        together: bool = False,
    ):
        if folder.is_symlink():
            raise CheckpointError(f"{folder} must be a folder, not a symbolic link")
        self.folder = folder.absolute()
        self._keep = keep
        self._share = share
        self._together = together
        self._step = 0
        self._began = 0.0
        self._next = -math.inf
        self._metrics: dict[int, float] = {}
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self):
        self._usual_hook = usual = sys.unraisablehook

        def hook(unraisable: Any) -> None:
            """Leave out tasks that Orbax does not wait for when one file fails."""
            if str(unraisable.exc_value) != "Event loop is closed":
                usual(unraisable)

        sys.unraisablehook = hook
        return self

    def __exit__(self, *error):
        if self._together and error[0] is not None:
            return  # the others, who would have to finish theirs, may have ended
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._attempt(self._manager.close)
        if error[0] is None:  # else Orbax's stragglers are still to come
            sys.unraisablehook = self._usual_hook

    def due(self) -> bool:
        """Return whether saving now keeps its time below `share`.

        Raises:
            CheckpointError: If the last one could not be written.
        """
        if self._manager is not None and self._manager.is_saving_in_progress():
            return False
        self.wait()
        return time.monotonic() >= self._next

    def save(
        self, step: int, snapshot: Snapshot, notes: Notes, *, metric: float = math.nan
    ) -> None:
        """Save in the background, after waiting for the checkpoint before.

        Args:
            step: Number of the step, which has no checkpoint yet.
            snapshot: The arrays, by `take_snapshot`.
            notes: JSON values to save with them.
            metric: Lower is better; NaN is worst.

        Raises:
            CheckpointError: If this one or the one before cannot be written.
        """
        self.wait()
        content = {
            "format": FORMAT,
            "step": step,
            "metric": metric,
            "arrays": snapshot.descriptions,
            "notes": notes,
        }
        # Orbax takes no empty arrays; `content` is enough to restore them.
        stored = {k: array for k, array in snapshot.arrays.items() if array.size}
        items = ocp.args.Composite(
            arrays=ocp.args.PyTreeSave(stored),
            content=ocp.args.JsonSave(content | {"sha256": content_digest(content)}),
        )
        self._metrics[step] = metric
        self._step, self._began = step, time.monotonic()
        self._attempt(self._save, items)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete.

        Raises:
            CheckpointError: If it could not be written.
        """
        if self._manager is not None:
            self._attempt(self._manager.wait_until_finished)
        if is_first():
            shutil.rmtree(self.folder / _REMOVED, ignore_errors=True)

    def restore(self, tree: Any, *, first_step: int = 0) -> Restored | None:
        """Return the latest good checkpoint, or None if there is no checkpoint.

        Later ones that are damaged are reported and renamed. Nothing is changed unless
        there is a good one.

        Args:
            tree: Pytree of the names, dtypes and shapes that were saved.
            first_step: Earlier checkpoints are ignored.

        Raises:
            OptionError: If one is of another model or cannot be read at the moment, or
                all are damaged.
        """
        wanted, damaged = host_arrays(tree), {}
        try:
            steps = [s for s in saved_steps(self.folder) if s >= first_step]
        except OSError as error:
            raise unreadable_now(self.folder, str(error.strerror)) from error
        for step in reversed(steps):
            path = checkpoint_path(self.folder, step)
            try:
                arrays, notes = read_checkpoint(path, step, wanted)
            except Damaged as error:
                damaged[path] = str(error)
                continue
            for other, reason in damaged.items():
                aside = unused(other.with_suffix(".damaged"))
                text = f"{other} is damaged and renamed to {aside.name}: {reason}"
                print(text, file=sys.stderr)
                other.rename(aside)
            return Restored(step, _like(tree, arrays), notes)
        if damaged:
            reasons = [f"{path}: {reason}" for path, reason in damaged.items()]
            raise OptionError(
                "\n  ".join(["--run-dir: all checkpoints are damaged:", *reasons])
                + "\n  put back good ones, or give --begin-anew"
            )
        return None

    def was_saving(self) -> bool:
        """Return whether a process was killed while it wrote a checkpoint."""
        return any(self.folder.glob("*.orbax-checkpoint-tmp*"))

    def _save(self, items: ocp.args.Composite) -> None:
        if self._manager is None:
            self._manager = self._make_manager()
        self._manager.save(self._step, args=items, force=True)

    def _make_manager(self) -> ocp.CheckpointManager:
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_not_of_orbax)
        self.folder.mkdir(parents=True, exist_ok=True)
        active = None if self._together else {0}
        processes = ocp.options.MultiprocessingOptions(active_processes=active)
        policies = [managers.LatestN(self._keep), _Best(self._metric)]
        options = ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=processes,
            step_format_fixed_length=10,
            preservation_policy=managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            todelete_subdir=_REMOVED,
            save_root_metadata=False,
            lightweight_initialize=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._committed),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _metric(self, step: int) -> float | None:
        """Return the metric of a checkpoint, None if it cannot be read."""
        if step not in self._metrics:
            try:
                content = read_content(checkpoint_path(self.folder, step), step)
                self._metrics[step] = float(content["metric"])
            except Exception:  # damaged files raise almost anything
                return None
        return self._metrics[step]

    def _committed(self) -> None:
        """Decide when the next one is due; called in Orbax's thread."""
        now = time.monotonic()
        self._next = now + (now - self._began) / self._share

    def _attempt(self, function: Callable[..., Any], *args: Any) -> None:
        """Call Orbax, whose errors of writing have many types."""
        try:
            with warnings.catch_warnings():
                message = "coroutine .* was never awaited"
                warnings.filterwarnings("ignore", message, RuntimeWarning)
                function(*args)
        except Exception as error:
            code = error_number(error)
            reason = first_line(error) if code is None else os.strerror(code)
            path = checkpoint_path(self.folder, self._step)
            raise CheckpointError(f"{path} could not be written: {reason}") from error


class _Best(managers.PreservationPolicy):
    """Preserve the checkpoint of the lowest metric, and any whose metric is unknown.

    Unlike Orbax's `BestN` it needs no further file in each checkpoint.
    """

    def __init__(self, metric: Callable[[int], float | None]):
        self._metric = metric

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        steps = [info.step for info in checkpoints]
        metrics = {step: self._metric(step) for step in steps}
        ranks = [
            (math.inf if math.isnan(metric) else metric, -step)
            for step, metric in metrics.items()
            if metric is not None
        ]
        best = -min(ranks)[1] if ranks else None
        return [step == best or metrics[step] is None for step in steps]


def saved_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, good or damaged, in order."""
    names = []
    with suppress(FileNotFoundError):
        names = [path.name for path in folder.iterdir()]
    return sorted(int(name) for name in names if re.fullmatch("[0-9]{10}", name))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return folder / f"{step:010d}"


def _like(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return arrays in the structure of a tree, on the devices of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    values = [
        _leaf(leaf, arrays[name]) for leaf, name in zip(leaves, host_arrays(tree))
    ]
    return structure.unflatten(values)


def _leaf(leaf: Any, array: np.ndarray) -> Any:
    if not isinstance(leaf, jax.Array):
        return array if isinstance(leaf, np.ndarray | np.generic) else array.item()
    return like(leaf, jnp.array(array))


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Leave out what Orbax logs about errors, which `CheckpointError` reports."""
    unretrieved = "exception was never retrieved" in record.getMessage()
    return "orbax" not in record.pathname and not unretrieved
