"""The folder of one run: made new, filled file by file, never half a file.

`config.json`, `environment.json` and `params.safetensors` are written whole;
`metrics.jsonl` and `certificate.jsonl` grow by a line at a time.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._files import write_file
from ..._untrusted import read_object
from ..config import (
    ConfigT,
    OptionError,
    check_config,
    config_from_json,
    config_to_json,
)
from .journal import read_lines

# What a run writes before `config.json`, which makes the folder a run's.
_FIRST_FILES = {
    ".gitignore",
    ".lock",
    "environment.json",
    "init.safetensors",
    "source.json",
}


def refuse_run_dir(run_dir: Path) -> None:
    """Raise if no new run can be written to `run_dir`; nothing is written.

    What a run has left that was killed before it wrote its `config.json` is allowed.

    Raises:
        OptionError: If its name has signs that cannot be printed.
        FileExistsError: If `run_dir` holds something already.
        NotADirectoryError: If it, or a folder above it, is a file.
        PermissionError: If it must not be written.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     refuse_run_dir(pathlib.Path(folder, "new", "run"))
    """
    if not run_dir.name.isprintable():
        raise OptionError(
            f"--run-dir: {run_dir.name!r} is not allowed: a name that can be printed"
        )
    nearest = next(p for p in (run_dir, *run_dir.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"--run-dir: {run_dir}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"--run-dir: {run_dir}: no permission to write {nearest}")
    if nearest == run_dir and any(map(_foreign, run_dir.iterdir())):
        raise FileExistsError(
            f"--run-dir: {run_dir} is not empty; allowed: a new or an empty folder"
        )


def make_run_dir(run_dir: Path | None, *, name: str, seed: int | None = None) -> Path:
    """Make the folder of a run.

    Args:
        run_dir: The folder, new or empty; or None for a new one under `runs/`, such as
            `runs/digits-20261122-153012-seed0`.
        name: What the run is called, such as `"digits"`.
        seed: The run's seed, if it has one.

    Returns:
        The folder, which exists and holds no run.

    Raises:
        OSError: As `refuse_run_dir`, or if the folder cannot be made.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_run_dir(pathlib.Path(folder, "a", "b"), name="digits").is_dir()
    True
    """
    if run_dir is not None:
        refuse_run_dir(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        return run_dir
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    stem += "" if seed is None else f"-seed{seed}"
    count = 1
    while True:
        run_dir = Path("runs", stem if count == 1 else f"{stem}-{count}")
        try:
            run_dir.mkdir(parents=True)
            return run_dir
        except FileExistsError:
            count += 1


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a dict as a JSON file that reads well.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(pathlib.Path(folder, "a.json"), {"epochs": 3})
    ...     print(pathlib.Path(folder, "a.json").read_text(), end="")
    {
      "epochs": 3
    }
    """
    write_file(path, json.dumps(values, indent=2, allow_nan=False).encode() + b"\n")


def write_config(
    run_dir: Path,
    config: Any,
    *,
    experiment: str,
    lengthened: Sequence[dict[str, Any]] = (),
) -> None:
    """Write `config.json`: the experiment's program and every option's value.

    Args:
        run_dir: The run's folder.
        config: The dataclass of the options.
        experiment: Name of the program that runs it, such as `"experiments.digits"`.
        lengthened: Of a run that was made longer after its end, for each time the
            options "epochs" and "max_steps" until then, and the "step" of that.

    >>> import pathlib, tempfile
    >>> from jcnn.runs.config import RunConfig
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run_dir = pathlib.Path(folder)
    ...     write_config(run_dir, RunConfig(seed=3), experiment="experiments.digits")
    ...     read_config(run_dir, RunConfig) == RunConfig(seed=3)
    True
    """
    values = {"experiment": experiment, "config": config_to_json(config)}
    if lengthened:
        values["lengthened"] = list(lengthened)
    write_json(run_dir / "config.json", values)


def read_config(run_dir: Path, config_type: type[ConfigT]) -> ConfigT:
    """The options of a run, equal to what `write_config` was given.

    Args:
        run_dir: The run's folder.
        config_type: The dataclass of the options.

    Raises:
        FileNotFoundError: If the folder has no `config.json`.
        ValueError: If it is the configuration of another dataclass, or an option has
            a value that is not allowed.

    See `write_config` for an example.
    """
    path = run_dir / "config.json"
    values: Any = read_object(path).get("config")
    try:
        config = config_from_json(config_type, values)
        check_config(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def read_record(run_dir: Path) -> dict[str, Any] | None:
    """What `write_config` has written, as it stands in the file.

    Args:
        run_dir: A folder, which need not exist.

    Returns:
        The experiment's name under "experiment", the options under "config", and under
        "lengthened" a list, as for `write_config`; None if the folder holds no run.

    Raises:
        FileExistsError: If its `config.json` is something else.

    >>> read_record(Path("nowhere"))
    """
    try:
        record = read_object(run_dir / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        record = {}
    name, options = record.get("experiment"), record.get("config")
    lengthened = record.setdefault("lengthened", [])
    good = isinstance(name, str) and isinstance(options, dict)
    good = good and isinstance(lengthened, list) and all(map(_is_end, lengthened))
    if not good:
        raise FileExistsError(
            f"--run-dir: {run_dir} is not empty, and its config.json is not that of a "
            "run; allowed: a new or an empty folder, or a run to go on with"
        )
    return record


def read_environment(run_dir: Path) -> dict[str, Any] | None:
    """What `environment.json` says; None if it is missing or not that of a run.

    >>> read_environment(Path("nowhere"))
    """
    try:
        return read_object(run_dir / "environment.json")
    except (FileNotFoundError, ValueError):
        return None


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, oldest first.

    Args:
        run_dir: The run's folder.

    Raises:
        FileNotFoundError: If the folder has no `metrics.jsonl`.
        ValueError: If a line other than a torn last one is no JSON object.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     metrics = pathlib.Path(folder, "metrics.jsonl")
    ...     size = metrics.write_bytes(b'{"step": 1, "loss": 0.5}' + b"\\n" + b'{"st')
    ...     read_metrics(pathlib.Path(folder))
    [{'step': 1, 'loss': 0.5}]
    """
    return read_lines(run_dir / "metrics.jsonl")


def _is_end(value: Any) -> bool:
    """Whether it says where a run ended that was made longer then."""
    return (
        isinstance(value, dict)
        and value.keys() == {"epochs", "max_steps", "step"}
        and all(type(value[name]) is int for name in ("epochs", "step"))
        and type(value["max_steps"]) in (int, type(None))
    )


def _foreign(path: Path) -> bool:
    whole = path.name.removeprefix(".").rpartition(".")[0]  # of one half written
    return path.name not in _FIRST_FILES and whole not in {"config.json", *_FIRST_FILES}
