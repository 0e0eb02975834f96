"""The curves of runs as the data of charts, which page.js draws."""

from collections.abc import Sequence
from typing import Any

from ..progress import is_accuracy
from .run import Run, is_number

_MOST_POINTS = 1500  # of a curve
_OTHERS = {"step", "epoch", "interrupted", "seconds", "skipped"}
SPLITS = {"epoch": "train", "validation": "validation", "test": "test"}


def charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a chart for each metric: its title, and curves over the epochs.

    Of training the means over epochs are drawn, or those of each line where no epoch
    has ended.

    Returns:
        Dicts of "title", "log", whether the scale is logarithmic, and "curves": dicts
        of "name", "run", the number of the run, "split", and "x" and "y".
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        by_epoch = any(k.startswith("epoch_") for line in run.metrics for k in line)
        curves: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        for line in run.metrics:
            for key, value in line.items():
                split, name = _split(key, by_epoch)
                epoch = line.get("epoch")
                if name and is_number(value) and is_number(epoch):
                    unit = 100 if is_accuracy(name) else 1
                    x, y = curves.setdefault((name, split), ([], []))
                    x.append(epoch)  # pyright: ignore
                    y.append(unit * value)
        for (name, split), (x, y) in curves.items():
            every = max(1, len(x) // _MOST_POINTS)
            label = split or _title(name)
            label = f"{run.name}: {label}" if len(runs) > 1 else label
            curve = {"name": label, "run": number, "split": split}
            curve |= {"x": x[::every], "y": y[::every]}
            found.setdefault(name, []).append(curve)
    order = sorted(found, key=lambda n: (n != "loss", n == "images_per_second"))
    return [
        {
            "title": _title(name),
            "log": name == "loss" and min(min(c["y"]) for c in found[name]) > 0,
            "curves": found[name],
        }
        for name in order
    ]


def _split(key: str, by_epoch: bool) -> tuple[str, str]:
    """Return split and metric of a key of metrics.jsonl; no metric: leave it out."""
    if key == "images_per_second":
        return "", key
    split, _, name = key.partition("_")
    if name and split in SPLITS:
        return SPLITS[split], name
    return "train", "" if key in _OTHERS or by_epoch else key


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return f"{words} (%)" if is_accuracy(name) else words
