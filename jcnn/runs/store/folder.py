"""The folder of one run, and its JSON files."""

import json
import os
import time
from pathlib import Path
from typing import Any

from ..._files import read_object, write_file
from ..config import OptionError, check_config
from ..config_json import ConfigT, config_from_json, config_to_json
from .journal import read_lines

# Written before `config.json`, which makes the folder that of a run.
_FIRST_FILES = {
    ".gitignore",
    ".lock",
    "environment.json",
    "init.safetensors",
    "source.json",
}


def check_run_dir(run_dir: Path) -> None:
    """Raise if no new run can be written to `run_dir`.

    The folder of a run that was killed before it wrote `config.json` is accepted.

    Raises:
        OptionError: If its name is not printable.
        OSError: If it is not empty, a file, below a file, or must not be written.
    """
    if not run_dir.name.isprintable():
        raise OptionError(
            f"--run-dir: its name must be printable, got {run_dir.name!r}"
        )
    nearest = next(p for p in (run_dir, *run_dir.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"--run-dir: {run_dir}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"--run-dir: {run_dir}: no permission to write {nearest}")
    if nearest == run_dir and any(map(_is_foreign, run_dir.iterdir())):
        raise FileExistsError(
            f"--run-dir: {run_dir} must be a new or an empty folder; it is not empty"
        )


def make_run_dir(run_dir: Path | None, *, name: str, seed: int | None = None) -> Path:
    """Make the folder of a run: `run_dir`, or runs/NAME-DATE-TIME-seedSEED.

    Raises:
        OSError: As `check_run_dir`, or if the folder cannot be made.
    """
    if run_dir is not None:
        check_run_dir(run_dir)
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
    """Write a dict as an indented JSON file."""
    write_file(path, json.dumps(values, indent=2, allow_nan=False).encode() + b"\n")


def write_config(run_dir: Path, config: Any, *, experiment: str) -> None:
    """Write `config.json`: the name of the program and the options, a dataclass.

    >>> import pathlib, tempfile
    >>> from jcnn.runs.config import RunConfig
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run_dir = pathlib.Path(folder)
    ...     write_config(run_dir, RunConfig(seed=3), experiment="experiments.digits")
    ...     read_config(run_dir, RunConfig) == RunConfig(seed=3)
    True
    """
    values = {"experiment": experiment, "config": config_to_json(config)}
    write_json(run_dir / "config.json", values)


def read_config(run_dir: Path, config_type: type[ConfigT]) -> ConfigT:
    """Read the options of a run. See `write_config` for an example.

    Raises:
        FileNotFoundError: If the folder has no `config.json`.
        ValueError: If it is of another dataclass, or a value is out of range.
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
    """Read `config.json`; None if there is none.

    Returns:
        "experiment", the name of the program; "config", the options; "lengthened", the
        "epochs", "max_steps" and "step" of each earlier end of a run made longer.

    Raises:
        FileExistsError: If it is not the `config.json` of a run.
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
            f"--run-dir: {run_dir} must be a new or an empty folder, or that of a run; "
            "it is not empty, and its config.json is not that of a run"
        )
    return record


def read_environment(run_dir: Path) -> dict[str, Any] | None:
    """Read `environment.json`; None if it is missing or damaged."""
    try:
        return read_object(run_dir / "environment.json")
    except (FileNotFoundError, ValueError):
        return None


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl`, without a last one that is incomplete.

    Raises:
        FileNotFoundError: If the folder has no `metrics.jsonl`.
        ValueError: If a line is no JSON object.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     metrics = pathlib.Path(folder, "metrics.jsonl")
    ...     size = metrics.write_bytes(b'{"step": 1, "loss": 0.5}' + b"\\n" + b'{"st')
    ...     read_metrics(pathlib.Path(folder))
    [{'step': 1, 'loss': 0.5}]
    """
    return read_lines(run_dir / "metrics.jsonl")


def _is_end(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"epochs", "max_steps", "step"}
        and all(type(value[name]) is int for name in ("epochs", "step"))
        and type(value["max_steps"]) in (int, type(None))
    )


def _is_foreign(path: Path) -> bool:
    whole = path.name.removeprefix(".").rpartition(".")[0]  # of a temporary file
    return path.name not in _FIRST_FILES and whole not in {"config.json", *_FIRST_FILES}
