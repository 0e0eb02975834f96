"""Two folders of what should be one run: the step where they part, and by how much."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..store.journal import read_lines
from ..store.weights import read_arrays

# What says how a run went, not what it computed.
_CIRCUMSTANCES = ("images_per_second", "seconds", "interrupted")


class Parting(NamedTuple):
    """Where two certificates part.

    Attributes:
        step: The first step whose lines differ.
        parts: What of the training state differs, such as "params"; empty if one of
            the certificates ends there.
    """

    step: int
    parts: list[str]


def read_certificate(path: Path) -> list[dict[str, Any]]:
    """The lines of a certificate, that of the data first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no certificate of at least one step.
    """
    lines = read_lines(path)
    steps = [line.get("step") for line in lines[1:]]
    if not steps or not all(type(step) is int for step in steps):
        raise ValueError(f"{path} is not the certificate of at least one step")
    return lines


def fault_of(certificate: list[dict[str, Any]]) -> str | None:
    """What a run says of the numbers that were not finite and ended it, if any were.

    >>> fault_of([{}, {"step": 3, "not_finite": "step 3 is not finite: loss"}])
    'step 3 is not finite: loss'
    """
    fault = certificate[-1].get("not_finite")
    return _json(fault)[1:-1] if isinstance(fault, str) else None


def find_parting(
    recorded: list[dict[str, Any]], repeated: list[dict[str, Any]]
) -> Parting | None:
    """The first step at which a finished run is not what was recorded, if there is one.

    Args:
        recorded: Lines of a certificate, which may end early.
        repeated: Those of the finished run.

    >>> a, b = {"step": 1, "params": "3f"}, {"step": 2, "params": "a0"}
    >>> find_parting([{}, a, b], [{}, a, b | {"params": "a1"}])
    Parting(step=2, parts=['params'])
    >>> find_parting([{}, a], [{}, a, b])
    """
    for old, new in zip(recorded[1:], repeated[1:]):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if names:
            step = min(old["step"], new["step"])
            return Parting(step, [_json(name)[1:-1] for name in names])
    if len(recorded) > len(repeated):
        return Parting(recorded[len(repeated)]["step"], [])
    return None


def describe_distance(recorded: Path, repeated: Path) -> list[str]:
    """How far apart two run folders ended: last metrics and weights, in words.

    Only what is of the same step is compared.
    """
    old, new = _metrics(recorded), _metrics(repeated)
    both = old.keys() & new.keys()
    if not both:
        return ["they have no metrics of a step in common"]
    step = max(both)
    lines = [
        f"{_json(name)[1:-1]} of step {step}: "
        f"{_json(value)} -> {_json(new[step].get(name))}"
        for name, value in old[step].items()
        if value != new[step].get(name)
    ]
    lines = lines or [f"the metrics of step {step} are the same"]
    if max(old) != max(new):
        return [*lines, "params.safetensors are of different steps"]
    files = [folder / "params.safetensors" for folder in (recorded, repeated)]
    try:
        first, second = (read_arrays(file) for file in files)
    except (OSError, ValueError) as error:
        return [*lines, f"params.safetensors cannot be compared: {error}"]
    return [*lines, *_distance(first, second)]


def _metrics(run_dir: Path) -> dict[int, dict[str, Any]]:
    """All metrics by step; what a run says of its last step in two lines is one."""
    found: dict[int, dict[str, Any]] = {}
    try:
        lines = read_lines(run_dir / "metrics.jsonl")
    except (OSError, ValueError):
        return found
    for line in lines:
        if type(line.get("step")) is int:
            values = {k: v for k, v in line.items() if k not in _CIRCUMSTANCES}
            found.setdefault(line["step"], {}).update(values)
    return found


def _distance(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> list[str]:
    shapes = [
        {name: array.shape for name, array in tree.items()} for tree in (old, new)
    ]
    if shapes[0] != shapes[1]:
        names = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        return [f"params.safetensors have other arrays: {', '.join(map(_json, names))}"]
    distances = {name: _array_distance(old[name], new[name]) for name in old}
    farthest = max(distances, key=distances.__getitem__, default="")
    if not distances or distances[farthest] == (0, 0):
        return ["params.safetensors are the same"]
    relative = max(distances, key=lambda name: distances[name][1])
    return [
        "largest difference of params.safetensors: "
        f"{distances[farthest][0]:.3g} in {_json(farthest)}",
        "largest one relative to its array's largest number: "
        f"{distances[relative][1]:.3g} in {_json(relative)}",
    ]


def _array_distance(old: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Largest difference, and the same relative to the largest number of `old`.

    Where only one of them has a number that is one, they are infinitely far apart.
    """
    old, new = old.astype(np.float64), new.astype(np.float64)
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    if same.all():
        return 0.0, 0.0
    difference = np.abs(new[~same] - old[~same]).max()
    largest = np.abs(old).max()
    if not np.isfinite(difference):
        return np.inf, np.inf
    return float(difference), float(difference / largest) if largest else np.inf


def _json(value: Any) -> str:
    """Strangers' values on one line, without what a terminal would obey."""
    return json.dumps(value)
