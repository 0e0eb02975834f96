"""Checkpoints by Orbax, each with the digests of what is in it.

    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        found = checkpoints.restore(state)
        ...
        checkpoints.save(step, take_snapshot(state), notes)

Orbax writes in the background to a folder of another name, and renames it when it is
complete. The arrays are stored one by one under their names; beside them is a JSON item
with the digest of each, and one of its own, so that no damage goes unseen.
"""

import errno
import gc
import hashlib
import json
import logging
import math
import operator
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ..._files import unused
from ..config import OptionError
from .digests import Snapshot, describe_array, host_arrays

FORMAT = 2
# Seconds by a clock that may jump by years: a disk that hangs hangs the run anyway.
_PATIENCE = 4 * 10**9
_SPARE = 256 << 20  # bytes that a checkpoint may have beside its arrays
Notes = dict[str, Any]


class CheckpointError(OSError):
    """A checkpoint could not be written; those before it are as they were."""


class _Damaged(Exception):
    """A checkpoint is not what was saved."""


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: Its step.
        tree: The arrays, in the structure that was asked for.
        notes: What was saved beside them.
    """

    step: int
    tree: Any
    notes: Notes


class Checkpoints:
    """The checkpoints of a run: the last few, and the best one.

    Args:
        folder: Where they are, or will be: a folder named by its step for each.
        keep: How many of the last ones are kept.
        share: Part of the time that saving may take, background work included. An
            epoch may be shorter than what a checkpoint of it takes.

    Raises:
        CheckpointError: If `folder` is a link.

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

    def __init__(self, folder: Path, *, keep: int = 2, share: float = 0.02):
        if folder.is_symlink():  # what is removed there is not ours to remove
            raise CheckpointError(f"{folder} is a link to elsewhere")
        self.folder = folder.absolute()
        self._keep = keep
        self._share = share
        self._metrics: dict[int, float] = {}
        self._saving: int | None = None
        self._began = 0.0
        self._next = -math.inf
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._committed, timeout_secs=_PATIENCE
            ),
        )
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_not_of_orbax)

    def __enter__(self):
        self._usual_hook = sys.unraisablehook
        sys.unraisablehook = _without_stragglers()
        return self

    def __exit__(self, *error):
        try:
            self.wait()
        finally:
            self._checkpointer.close()
        if error[0] is None:  # else stragglers are still to come
            sys.unraisablehook = self._usual_hook

    def due(self) -> bool:
        """Whether one more would keep the time that saving takes below `share`.

        Raises:
            CheckpointError: If the last one could not be written.
        """
        self._orbax(self._checkpointer.check_for_errors)
        return self._saving is None and time.monotonic() >= self._next

    def save(
        self,
        step: int,
        snapshot: Snapshot,
        notes: Notes,
        *,
        metric: float = math.nan,
    ) -> None:
        """Save in the background, after waiting for the one before.

        Args:
            step: Number of the step, none that is saved already.
            snapshot: The arrays, as `take_snapshot` gives them.
            notes: JSON values to be saved with it.
            metric: The less the better; NaN is worse than any other.

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
        # Orbax takes no empty arrays; what is said of them above restores them.
        stored = {k: array for k, array in snapshot.arrays.items() if array.size}
        self._saving, self._began = step, time.monotonic()
        self._metrics[step] = metric
        self._orbax(
            self._checkpointer.save,
            self._path(step),
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave(stored),
                content=ocp.args.JsonSave(content | {"sha256": _digest(content)}),
            ),
        )

    def wait(self) -> None:
        """Until the last one is there, and those that it replaces are gone.

        Raises:
            CheckpointError: If it could not be written.
        """
        self._orbax(self._checkpointer.wait_until_finished)
        self._remove_old()

    def restore(self, tree: Any, *, first_step: int = 0) -> Restored | None:
        """The last good one, whose digests are right.

        One that is damaged is passed over for a good one before, told of on standard
        error and renamed. Nothing is renamed or removed unless there is a good one.

        Args:
            tree: Pytree like the one that was saved, with the same names, dtypes and
                shapes.
            first_step: Those before this step are not looked at.

        Returns:
            What was saved, or None if there is no checkpoint.

        Raises:
            OptionError: If one is of another model, cannot be read at the moment, or
                all are damaged; with what can be done.
        """
        wanted, damaged = host_arrays(tree), {}
        _refuse_unreadable(self.folder)
        for step in reversed([s for s in self._steps() if s >= first_step]):
            try:
                arrays, content = self._read(step, wanted)
            except _Damaged as error:
                damaged[step] = str(error)
                continue
            for other, reason in damaged.items():
                self._put_aside(other, reason)
            return Restored(step, _like(tree, arrays), content["notes"])
        if damaged:
            reasons = [f"{self._path(step)}: {why}" for step, why in damaged.items()]
            raise OptionError(
                "\n  ".join(["--run-dir: all checkpoints are damaged:", *reasons])
                + "\n  put back good ones, or give --begin-anew"
            )
        return None

    def was_saving(self) -> bool:
        """Whether a process was killed while it wrote a checkpoint."""
        return self.folder.exists() and any(map(_half_done, self.folder.iterdir()))

    def _read(
        self, step: int, wanted: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the JSON item, both with the digests that they should have.

        Raises:
            _Damaged: If that is not so.
            OptionError: If they are of another model, or a file cannot be read now.
        """
        path = self._path(step)
        try:
            _check_files(path, most=2 * sum(a.nbytes for a in wanted.values()) + _SPARE)
        except ValueError as error:
            raise _Damaged(str(error)) from error
        except OSError as error:
            raise _unreadable_now(path, str(error.strerror)) from error
        with _coroutines_dropped():
            try:
                content = self._content(step)
                _refuse_other_model(path, content["arrays"], wanted)
                return self._arrays(path, content["arrays"], wanted), content
            except (OptionError, MemoryError):
                raise
            # What a reader makes of damaged files cannot be listed.
            except Exception as error:
                reason = _first_line(error)[:200]
                unreadable = _os_error(error) or _unreadable(path)
                del error  # and what it holds
        time.sleep(0.1)  # for stragglers of Orbax's
        if unreadable is not None:
            raise _unreadable_now(path, unreadable)
        raise _Damaged(reason)

    def _arrays(
        self, path: Path, found: dict[str, Any], wanted: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        stored = {name: array for name, array in wanted.items() if array.size}
        _check_shapes(path / "arrays", stored)
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        arrays = self._checkpointer.restore(
            path,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeRestore(
                    item=stored, restore_args=dict.fromkeys(stored, as_numpy)
                )
            ),
        ).arrays
        arrays = {name: arrays.get(name, array) for name, array in wanted.items()}
        for name, array in arrays.items():
            if describe_array(array) != found[name]:
                raise ValueError(f"{name} has another digest than when it was saved")
        return arrays

    def _content(self, step: int) -> dict[str, Any]:
        """The JSON item, checked."""
        path = self._path(step)
        args = ocp.args.Composite(content=ocp.args.JsonRestore())
        content = self._checkpointer.restore(path, args=args).content
        if content.pop("sha256") != _digest(content) or content["step"] != step:
            raise ValueError(
                "the list of its arrays has another digest than when saved"
            )
        if content["format"] != FORMAT:
            raise OptionError(
                f"--run-dir: {path} has format {content['format']}, of another version "
                f"of jcnn; this one reads format {FORMAT}"
            )
        return content

    def _committed(self) -> None:
        """Runs in Orbax's thread after the renaming."""
        now = time.monotonic()
        self._next = now + (now - self._began) / self._share
        self._saving = None

    def _remove_old(self) -> None:
        steps = self._steps()
        ranks = {step: self._rank(step) for step in steps}
        known = [(rank, step) for step, rank in ranks.items() if rank is not None]
        kept = {*steps[-self._keep :], *(step for _, step in sorted(known)[:1])}
        kept |= {step for step in steps if ranks[step] is None}  # it may be the best
        for step in steps:
            if step not in kept:
                # Renamed first: half of a checkpoint never has a checkpoint's name.
                doomed = self.folder / f".removed-{step}"
                self._path(step).rename(doomed)
                shutil.rmtree(doomed)

    def _rank(self, step: int) -> tuple[bool, float, int] | None:
        """The best is the least; None of what cannot be read now."""
        if step not in self._metrics:
            try:
                self._metrics[step] = float(self._content(step)["metric"])
            except Exception as error:
                if _os_error(error) or _unreadable(self._path(step)):
                    return None
                self._metrics[step] = math.nan  # damaged: surely not the best
        metric = self._metrics[step]
        return (True, 0.0, -step) if math.isnan(metric) else (False, metric, -step)

    def tidy(self) -> None:
        """Clear away what a process that was killed has left half-done."""
        if not self.folder.exists():
            return
        for path in sorted(self.folder.iterdir()):
            if _half_done(path):
                _say(f"{path} was being written when the run ended, and is removed")
                shutil.rmtree(path)
            elif re.fullmatch(r"\.removed-\d+", path.name):
                shutil.rmtree(path)

    def _put_aside(self, step: int, reason: str) -> None:
        path = self._path(step)
        aside = unused(path.with_suffix(".damaged"))
        _say(f"{path} is passed over and renamed to {aside.name}: {reason}")
        path.rename(aside)

    def _steps(self) -> list[int]:
        return saved_steps(self.folder)

    def _path(self, step: int) -> Path:
        return checkpoint_path(self.folder, step)

    def _orbax(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call Orbax, which has many ways to say that a file cannot be written."""
        step = self._saving
        reason = None
        with _coroutines_dropped():
            try:
                function(*args, **kwargs)
            except Exception as error:
                code = _tensorstore_code(error)
                reason = _first_line(error) if code is None else os.strerror(code)
        if reason is not None:
            path = self._path(step or 0)
            raise CheckpointError(f"{path} could not be written: {reason}")


def saved_steps(folder: Path) -> list[int]:
    """The steps that a folder has checkpoints of, damaged ones too, in order.

    >>> saved_steps(Path("nowhere"))
    []
    """
    if not folder.exists():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted(int(name) for name in names if re.fullmatch("[0-9]{10}", name))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is.

    >>> checkpoint_path(Path("checkpoints"), 5).name
    '0000000005'
    """
    return folder / f"{step:010d}"


def _half_done(path: Path) -> bool:
    return re.fullmatch(r"\d+\.orbax-checkpoint-tmp.*", path.name) is not None


def _refuse_other_model(
    path: Path, found: dict[str, Any], wanted: dict[str, np.ndarray]
) -> None:
    """Raise if a checkpoint has other arrays than the model, with what differs.

    Its list of arrays has the right digest: it is good, and of another model.
    """
    ours = {k: f"{a.dtype.name}{list(a.shape)}" for k, a in wanted.items()}
    theirs = {k: "{dtype}{shape}".format(**d) for k, d in found.items()}
    differing = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
    if differing:
        lines = [
            f"{k}: {theirs.get(k, 'absent')} there, {ours.get(k, 'absent')} here"
            for k in differing[:5]
        ]
        more = [f"and {len(differing) - 5} more"] * (len(differing) > 5)
        raise OptionError(
            "\n  ".join([f"--run-dir: {path} is of another model:", *lines, *more])
            + "\n  nothing was changed: go on with the model of then, give another "
            "--run-dir, or --begin-anew"
        )


def _unreadable_now(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"--run-dir: {path} cannot be read now: {reason}; nothing was changed: the "
        "same command goes on once it can be"
    )


def _os_error(error: Exception) -> str | None:
    """What the system said, if it is no fault of what is in the files."""
    code = _tensorstore_code(error)
    code = getattr(error, "errno", None) if code is None else code
    if code in (None, errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.EISDIR):
        return None
    return os.strerror(code)


def _tensorstore_code(error: Exception) -> int | None:
    """The system's error number, which TensorStore wraps in half a page."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return int(number[1]) if number else None


def _unreadable(folder: Path) -> str | None:
    """What the system says if a file of a checkpoint cannot be read to its end."""

    def fail(error):
        raise error

    try:
        for parent, _, names in os.walk(folder, onerror=fail):
            for name in names:
                with open(os.path.join(parent, name), "rb", buffering=1 << 20) as file:
                    while file.read(1 << 20):
                        pass
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _refuse_unreadable(folder: Path) -> None:
    """Raise if the folder of checkpoints cannot be listed now."""
    try:
        next(iter(folder.iterdir()), None)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unreadable_now(folder, str(error.strerror)) from error


def _check_files(folder: Path, most: int) -> None:
    """Raise if the files of a checkpoint are not what is written here."""
    refuse_links(folder)
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    if size > most:
        raise ValueError(f"it has {size} bytes; allowed: at most {most}")


def _check_shapes(folder: Path, wanted: dict[str, np.ndarray]) -> None:
    """Raise if reading the arrays would take more memory than they have.

    Of a few bytes a file can say that they are an array of any size.
    """
    found = ocp.PyTreeCheckpointHandler().metadata(folder).tree  # pyright: ignore
    for name, array in wanted.items():
        chunk = found[name].storage.chunk_shape
        fits = len(chunk) == array.ndim and all(map(operator.le, chunk, array.shape))
        if found[name].shape != array.shape or not fits:
            raise ValueError(
                f"{name} has shape {found[name].shape} in pieces of {chunk}, "
                f"not {array.shape}"
            )


def refuse_links(folder: Path) -> None:
    """Raise if a checkpoint leads out of its folder, or holds what is no file.

    Raises:
        ValueError: With the path of what is neither a file nor a folder.

    >>> refuse_links(Path("nowhere"))
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir() or path == folder):
            raise ValueError(f"{path} is neither a file nor a folder")


def _like(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`arrays` in the structure of `tree`, on the device where its leaves are there."""
    leaves, structure = jax.tree.flatten(tree)
    names = host_arrays(tree)  # in the order of the leaves
    return jax.tree.unflatten(
        structure,
        [_leaf(leaf, arrays[name]) for leaf, name in zip(leaves, names)],
    )


def _leaf(leaf: Any, array: np.ndarray) -> Any:
    if not isinstance(leaf, jax.Array):
        return array if isinstance(leaf, np.ndarray | np.generic) else array.item()
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(leaf)
        return jax.random.wrap_key_data(jnp.array(array), impl=impl)
    return jnp.array(array)


# Where one file fails, Orbax does not wait for what it does with the others. That ends
# a moment later with complaints that nobody can catch, of what is told here in a line.


@contextmanager
def _coroutines_dropped() -> Iterator[None]:
    """Nor does it do what was to come next with any of them."""
    with warnings.catch_warnings():
        message = "coroutine .* was never awaited"
        warnings.filterwarnings("ignore", message, RuntimeWarning)
        yield
        gc.collect(0)


def _without_stragglers() -> Callable[..., None]:
    usual = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            usual(unraisable)

    return hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
    unretrieved = "exception was never retrieved" in record.getMessage()
    return "orbax" not in record.pathname and not unretrieved


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _first_line(error: Exception) -> str:
    """Without what a terminal would obey: it may have text of a damaged file in it."""
    line = str(error).partition("\n")[0] or repr(error)
    return line if line.isprintable() else ascii(line)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
