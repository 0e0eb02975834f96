"""What differs between runs, and what they have reached, with the spread over seeds."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..output import in_line
from ..progress import format_metric
from ..verify.resume import FREE
from .curves import SPLITS
from .run import Run, is_number


def options(run: Run) -> dict[str, str]:
    """Return a run's options by name, nested ones as "optimizer.learning-rate"."""
    return dict(_flat(run.config))


def differing_options(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return each option that is not the same in all runs; "" where a run has none.

    Those that change no result are left out, such as the folders.
    """
    all_options = [{"experiment": run.experiment} | options(run) for run in runs]
    names = dict.fromkeys(name for one in all_options for name in one)
    values = {name: [one.get(name, "") for one in all_options] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def final_metrics(run: Run) -> dict[str, dict[str, float]]:
    """Return the last value of each metric by split: train, validation and test.

    Without those that are no finite number, even if they were one before.
    """
    found: dict[str, dict[str, float]] = {}
    for line in run.metrics:
        for key, value in line.items():
            split, _, name = key.partition("_")
            if name and split in SPLITS:
                found.setdefault(name, {})[SPLITS[split]] = value
    numbers = {
        name: {split: value for split, value in values.items() if is_number(value)}
        for name, values in found.items()
    }
    return {name: values for name, values in numbers.items() if values}


def tested(run: Run) -> dict[str, float]:
    """Return the test metrics of the end that are finite numbers."""
    return {
        key.removeprefix("test_"): value
        for key, value in run.last.items()
        if key.startswith("test_") and is_number(value)
    }


class Spread:
    """Runs that differ by their seeds alone, and the mean of what they reached."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs
        values: dict[str, list[float]] = {}
        for run in runs:
            for name, value in tested(run).items():
                values.setdefault(name, []).append(value)
        self.means = {
            name: (fmean(v), stdev(v) if len(v) > 1 else None)
            for name, v in values.items()
        }

    def described(self, name: str) -> str:
        """Return mean and standard deviation, such as "99.14% ± 0.09%"."""
        if name not in self.means:
            return ""
        mean, deviation = self.means[name]
        text = format_metric(name, mean)
        if deviation is None:
            return text
        return f"{text} ± {format_metric(name, deviation)}"


def spreads(runs: Sequence[Run]) -> list[Spread]:
    """Return the runs in groups that differ by their seeds alone.

    Only those that were not interrupted, with known options and test metrics, and the
    first one of each seed: a repeated run says nothing of the spread.
    """
    groups: dict[Any, dict[str, Run]] = {}
    for run in runs:
        if run.config and tested(run) and not run.last["interrupted"]:
            others = options(run)
            seed = others.pop("seed", "")
            key = run.experiment, *sorted(others.items())
            groups.setdefault(key, {}).setdefault(seed, run)
    return [Spread([*group.values()]) for group in groups.values()]


def metric_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the test metrics that any run has."""
    return list(dict.fromkeys(name for run in runs for name in tested(run)))


def results(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return options that differ and test metrics as lines of cells, headings first.

    Each run is a line, or a column where there are more options than runs.
    """
    columns = {"run": [run.name for run in runs], **differing_options(runs)}
    for name in metric_names(runs):
        reached = [tested(run).get(name) for run in runs]
        columns[_title(name)] = [
            "" if value is None else format_metric(name, value) for value in reached
        ]
    columns["seconds"] = [
        run.state if run.last.get("interrupted", True) else run.seconds for run in runs
    ]
    rows = [(name, *values) for name, values in columns.items()]
    return [*zip(*rows)] if len(rows) <= max(len(runs), 7) else rows


def means_over_seeds(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return what runs that differ by their seeds reached, as lines of cells.

    The first line has the headings; without such runs there is none.
    """
    groups = [group for group in spreads(runs) if len(group.runs) > 1]
    if not groups:
        return []
    first = [group.runs[0] for group in groups]
    columns = differing_options(first)
    columns.pop("seed", None)
    columns = columns or {"experiment": [run.experiment for run in first]}
    columns["seeds"] = [str(len(group.runs)) for group in groups]
    for name in metric_names(runs):
        columns[_title(name)] = [group.described(name) for group in groups]
    return [*zip(*((name, *values) for name, values in columns.items()))]


def _title(metric: str) -> str:
    return f"test {metric.replace('_', ' ')}"


def tables(runs: Sequence[Run]) -> Group:
    """Return the comparison for a terminal."""
    parts: list[Table | Text] = [_table(results(runs))]
    if means := means_over_seeds(runs):
        parts += [Text(), Text("Mean and standard deviation over seeds:"), Text()]
        parts += [_table(means)]
    missing = [Text(f"{run.name}: {text}") for run in runs for text in run.missing]
    return Group(*parts, *[Text(), Text("Missing:"), *missing] * bool(missing))


def _table(lines: Sequence[tuple[str, ...]]) -> Table:
    """Return a table whose first line has the headings."""
    headings, *rows = lines
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in headings:
        numbers = name.startswith("test ") or name in ("seconds", "seeds")
        justify = "right" if numbers else "left"
        table.add_column(Text(name), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in values.items():
        option = f"{prefix}{name.replace('_', '-')}"
        if isinstance(value, dict) and value:
            found += _flat(value, f"{option}.")
        elif prefix or name not in FREE:
            found.append((in_line(option), in_line(value)))
    return found
