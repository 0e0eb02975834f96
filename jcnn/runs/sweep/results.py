"""What the members of a sweep have reached: means and deviations over the seeds."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..._files import write_file
from ..progress import format_metric
from ..store.folder import read_metrics
from .members import Member


def result_of(folder: Path) -> dict[str, float | None] | None:
    """Return the test metrics of a member's folder; None if it has not ended.

    A number that was not finite is None.
    """
    try:
        last = read_metrics(folder)[-1]
    except (FileNotFoundError, IndexError, ValueError):
        return None
    if last.get("interrupted", True):
        return None
    return {
        k.removeprefix("test_"): v for k, v in last.items() if k.startswith("test_")
    }


def summarize_results(
    folder: Path, members: Sequence[Member], watch: str
) -> list[dict[str, Any]]:
    """Return a row for each combination of options, with mean and deviation over seeds.

    A member failed if it has no result, or one with a number that is not finite.
    """
    rows = []
    for options, group in itertools.groupby(members, key=lambda member: member.options):
        group = list(group)
        results = [result_of(folder / member.name) or {} for member in group]
        values = [r.get(watch) if None not in r.values() else None for r in results]
        finite = [value for value in values if value is not None]
        rows.append(
            {
                "options": options,
                "seeds": [member.config.seed for member in group],
                f"test_{watch}": values,
                "mean": fmean(finite) if finite else None,
                "deviation": stdev(finite) if len(finite) > 1 else None,
                "failed": len(values) - len(finite),
            }
        )
    return rows


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows as JSON."""
    write_file(path, json.dumps(rows, indent=2).encode())


def results_table(rows: Sequence[dict[str, Any]], watch: str) -> Table:
    """Return a table with a line for each combination of options.

    >>> from rich.console import Console
    >>> row = {"options": {"dropout": "0.1"}, "mean": 0.9, "deviation": 0.01}
    >>> row |= {"seeds": [0, 1], "failed": 0}
    >>> Console(width=80).print(results_table([row], "accuracy"))
    dropout  seeds  test accuracy  deviation  failed
    ────────────────────────────────────────────────
    0.1          2         90.00%      1.00%       0
    """
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    names = list(rows[0]["options"])
    for name in names:
        table.add_column(Text(name))
    for name in ("seeds", f"test {watch}", "deviation", "failed"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = [
            "" if row[key] is None else format_metric(watch, row[key])
            for key in ("mean", "deviation")
        ]
        texts = [Text(row["options"][name]) for name in names]
        table.add_row(*texts, str(len(row["seeds"])), *numbers, str(row["failed"]))
    return table
