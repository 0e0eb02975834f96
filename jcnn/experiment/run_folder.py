"""The folder of one run: made new, filled file by file, never half a file.

`config.json`, `environment.json` and `params.safetensors` are written whole;
`metrics.jsonl` grows by a line at a time.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from .config import ConfigT, config_from_json, config_to_json


def refuse_run_dir(run_dir: Path) -> None:
    """Raise if no run can be written to `run_dir`; nothing is written.

    Raises:
        FileExistsError: If `run_dir` holds something already.
        NotADirectoryError: If it, or a folder above it, is a file.
        PermissionError: If it must not be written.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     refuse_run_dir(pathlib.Path(folder, "new", "run"))
    """
    nearest = next(p for p in (run_dir, *run_dir.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"--run-dir: {run_dir}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"--run-dir: {run_dir}: no permission to write {nearest}")
    if nearest == run_dir and any(run_dir.iterdir()):
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
        The folder, which exists and is empty.

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


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it.

    Args:
        path: The file, new or to be replaced.
        content: All of its bytes.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(pathlib.Path(folder, "a.txt"), b"whole")
    ...     [(p.name, p.read_bytes()) for p in pathlib.Path(folder).iterdir()]
    [('a.txt', b'whole')]
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def write_config(run_dir: Path, config: Any, *, experiment: str) -> None:
    """Write `config.json`: the experiment's module and every option's value.

    Args:
        run_dir: The run's folder.
        config: The dataclass of the options.
        experiment: Name of the module that runs it, such as `"experiments.digits"`.

    >>> import pathlib, tempfile
    >>> from jcnn.experiment.config import RunConfig
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run_dir = pathlib.Path(folder)
    ...     write_config(run_dir, RunConfig(seed=3), experiment="experiments.digits")
    ...     read_config(run_dir, RunConfig) == RunConfig(seed=3)
    True
    """
    values = {"experiment": experiment, "config": config_to_json(config)}
    write_json(run_dir / "config.json", values)


def read_config(run_dir: Path, config_type: type[ConfigT]) -> ConfigT:
    """The options of a run, equal to what `write_config` was given.

    Args:
        run_dir: The run's folder.
        config_type: The dataclass of the options.

    Raises:
        FileNotFoundError: If the folder has no `config.json`.
        ValueError: If it is the configuration of another dataclass.

    See `write_config` for an example.
    """
    values = json.loads((run_dir / "config.json").read_text())
    return config_from_json(config_type, values["config"])


def append_metrics(run_dir: Path, metrics: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`, there for others to read at once.

    A number that JSON does not have (the loss of a run that diverged) becomes null.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     append_metrics(pathlib.Path(folder), {"step": 1, "loss": float("nan")})
    ...     read_metrics(pathlib.Path(folder))
    [{'step': 1, 'loss': None}]
    """
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
    with open(run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, oldest first.

    See `append_metrics` for an example.
    """
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
