"""Reading a run's folder for a page, whatever state it is in."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..._files import open_file, read_object
from ..output import printable
from ..store.journal import iterate_lines
from ..store.weights import read_arrays
from .contents import NAME, Contents, read_contents

# What runs that are trained together have in common.
_OF_SWEEPS = {"environment.json", "certificate.jsonl", NAME}

_DRAWN_HERE = {"curves.png", "filters.png", "predictions.png"}  # the page has them
_MOST_PICTURES, _MOST_BYTES = 8, 1 << 20
T = TypeVar("T")


class Run(NamedTuple):
    """What a run's folder holds.

    Attributes:
        folder: The folder.
        experiment: Name of the program.
        config: Its options, nested.
        metrics: The lines of `metrics.jsonl`.
        environment: As `environment.json`.
        certificate: The lines of `certificate.jsonl`.
        contents: As `report.safetensors`.
        kernels: Kernels of convolutions in the plane by name, [KH, KW, C, O].
        times: The table of `--profile`; "" without one.
        pictures: Those that the experiment has drawn.
        missing: What cannot be shown, and why.
    """

    folder: Path
    experiment: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    environment: dict[str, Any]
    certificate: list[dict[str, Any]]
    contents: Contents
    kernels: dict[str, np.ndarray]
    times: str
    pictures: list[Path]
    missing: list[str]

    @property
    def name(self) -> str:
        return printable(self.folder.resolve().name)

    @property
    def last(self) -> dict[str, Any]:
        """The last line of metrics of a run that has ended, with the test metrics."""
        last = self.metrics[-1] if self.metrics else {}
        return last if "interrupted" in last else {}

    @property
    def seconds(self) -> str:
        """How long it took, in seconds; "" if that is not known."""
        seconds = self.last.get("seconds")
        return f"{seconds:,.0f}" if is_number(seconds) else ""

    @property
    def state(self) -> str:
        if not self.metrics:
            return "no step is on record"
        step = self.metrics[-1].get("step")
        if not self.last:
            return f"not finished: {step} steps so far"
        return f"{'interrupted' if self.last['interrupted'] else 'done'}, {step} steps"


def find_runs(folders: list[Path]) -> list[Path]:
    """Return the folders of runs, each once, with its members in place of a sweep.

    Raises:
        FileNotFoundError: If one does not exist.
        NotADirectoryError: If one is no folder.
    """
    found = []
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"RUN: there is no folder {folder}")
        if not folder.is_dir():
            raise NotADirectoryError(f"RUN: {folder} must be the folder of a run")
        members = sorted(p.parent for p in folder.glob("*/config.json"))
        found += [folder] if (folder / "config.json").exists() else members or [folder]
    return list({folder.resolve(): folder for folder in found}.values())


def read_run(folder: Path) -> Run:
    """Read what there is; what is missing or damaged is told in `missing`."""
    missing: list[str] = []

    def attempt(what: str, name: str, read: Callable[[Path], T], otherwise: T) -> T:
        try:
            return read(folder / name)
        except FileNotFoundError:
            if name not in _OF_SWEEPS or not (folder.parent / "sweep.json").exists():
                missing.append(f"{what}: there is no {name}")
        except (OSError, ValueError, TypeError) as error:
            missing.append(printable(f"{what}: {error}"))
        return otherwise

    def lines(what: str, name: str) -> list[dict[str, Any]]:
        damaged: list[ValueError] = []

        def read(path: Path) -> list[dict[str, Any]]:
            return [values for _, values in iterate_lines(path, damaged)]

        found = attempt(what, name, read, [])
        if damaged:
            number = f"{len(damaged)} lines, first " * (len(damaged) > 1)
            missing.append(printable(f"{what}: {number}{damaged[0]}"))
        return found

    record = attempt("the configuration", "config.json", read_object, {})
    config = record.get("config")
    if record and not isinstance(config, dict):
        missing.append("the configuration: config.json has no options")
    network = "classes, mistakes, feature maps and model"
    run = Run(
        folder,
        printable(str(record.get("experiment", "an unknown program"))),
        config if isinstance(config, dict) else {},
        lines("curves and results", "metrics.jsonl"),
        attempt("the environment", "environment.json", read_object, {}),
        lines("the certificate", "certificate.jsonl"),
        attempt(network, NAME, read_contents, Contents({}, {})),
        attempt("filters", "params.safetensors", _kernels, {}),
        _times(folder / "profile" / "times.txt"),
        _pictures(folder),
        missing,
    )
    missing += map(printable, map(str, run.contents.facts.get("missing", [])))
    if run.metrics and not run.last:
        missing.append("test metrics: the run has not ended")
    for name, value in run.last.items():
        if name.startswith("test_") and not is_number(value):
            missing.append(printable(f"{name.replace('_', ' ')}: no finite number"))
    return run


def is_number(value: Any) -> bool:
    """Whether a value of a line of metrics can be drawn: a finite number."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _kernels(path: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path)
    return {
        name.removeprefix("params/").removesuffix("/kernel"): array
        for name, array in arrays.items()
        if name.endswith("/kernel") and array.ndim == 4
    }


def _times(path: Path) -> str:
    try:
        with open_file(path, _MOST_BYTES) as file:
            lines = file.read().decode(errors="replace").splitlines()
    except (OSError, ValueError):  # most runs have none
        return ""
    return "\n".join(map(printable, lines))


def _pictures(folder: Path) -> list[Path]:
    pictures = [p for p in sorted(folder.glob("*.png")) if p.name not in _DRAWN_HERE]
    own = [p for p in pictures if p.is_file() and not p.is_symlink()]
    small = [p for p in own if p.stat().st_size < _MOST_BYTES]
    return small[:_MOST_PICTURES]
