"""How far apart two run folders ended."""

from pathlib import Path
from typing import Any

import numpy as np

from ..output import in_line
from ..store.journal import read_lines
from ..store.weights import read_arrays

# Fields of metrics.jsonl that describe how a run went, not what it computed.
_CIRCUMSTANCES = ("images_per_second", "seconds", "interrupted")


def describe_distance(recorded: Path, repeated: Path) -> list[str]:
    """Return lines about the last metrics and weights that two runs have in common."""
    old, new = _metrics(recorded), _metrics(repeated)
    both = old.keys() & new.keys()
    if not both:
        return ["they have no metrics of a step in common"]
    step = max(both)
    lines = [
        f"{in_line(name)} of step {step}: "
        f"{in_line(value)} -> {in_line(new[step].get(name))}"
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
        return [*lines, in_line(f"params.safetensors cannot be compared: {error}")]
    return [*lines, *_distance(first, second)]


def _metrics(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Return all metrics by step; the two lines of the last step are merged."""
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
    shapes = [{(k, array.shape) for k, array in tree.items()} for tree in (old, new)]
    if differing := shapes[0] ^ shapes[1]:
        names = ", ".join(sorted({in_line(name) for name, _ in differing}))
        return [f"params.safetensors have other arrays: {names}"]
    distances = {name: _array_distance(old[name], new[name]) for name in old}
    if not any(largest for largest, _ in distances.values()):
        return ["params.safetensors are the same"]
    farthest = max(distances, key=lambda name: distances[name][0])
    relative = max(distances, key=lambda name: distances[name][1])
    return [
        "largest difference of params.safetensors: "
        f"{distances[farthest][0]:.3g} in {in_line(farthest)}",
        "largest difference relative to the array's largest number: "
        f"{distances[relative][1]:.3g} in {in_line(relative)}",
    ]


def _array_distance(old: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Return the largest difference, and the same divided by the largest of `old`.

    Where only one of two numbers is finite, both are infinite.
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
