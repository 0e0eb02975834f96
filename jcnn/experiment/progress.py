"""What a run says while it goes: the model's table, a moving bar, a line per epoch.

On a terminal the bar moves below the lines; written to a file or a pipe there are only
the lines, without control codes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box, progress
from rich.console import Console
from rich.table import Table

from ..summary import Row


def model_table(rows: Sequence[Row]) -> Table:
    """The parts of a model, one a line, with the totals below; 80 columns suffice.

    Args:
        rows: What `jcnn.summarize` returns.

    >>> table = model_table([Row("conv1", (8, 8, 16), 160, 9216, (3, 3))])
    >>> Console(width=80).print(table)  # doctest: +NORMALIZE_WHITESPACE
                                  multiply-  receptive
    layer   output  parameters       adds      field
    ───────────────────────────────────────────────
    conv1  8x8x16         160      9,216        3x3
    ───────────────────────────────────────────────
    total                 160      9,216
    """
    table = Table(
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_footer=True,
    )
    params = sum(row.params for row in rows)
    counts = [row.multiply_adds for row in rows]
    total = None if None in counts else sum(counts)  # pyright: ignore
    table.add_column("layer", "total", overflow="fold")
    table.add_column("output", "", justify="right")
    table.add_column("parameters", f"{params:,}", justify="right")
    table.add_column("multiply-\nadds", _number(total), justify="right")
    table.add_column("receptive\nfield", "", justify="right")
    for row in rows:
        table.add_row(
            row.name,
            "x".join(map(str, row.output_shape)),
            f"{row.params:,}",
            _number(row.multiply_adds),
            "x".join(map(_number, row.receptive_field)),
        )
    return table


def _number(value: int | None) -> str:
    """The number, or a question mark where it is unknown."""
    return "?" if value is None else f"{value:,}"


def describe_metrics(metrics: dict[str, Any], epochs: int) -> str:
    """One line of `metrics.jsonl` in words, in a width that hardly changes.

    Args:
        metrics: The line.
        epochs: Number of epochs of the whole run.

    >>> line = {"epoch": 2.5, "loss": 0.25, "accuracy": 0.9, "images_per_second": 1234}
    >>> describe_metrics(line, 10)
    'epoch  3/10  loss 0.2500  accuracy  90.00%  1,234 images/s'
    """
    epoch = math.ceil(metrics["epoch"])
    parts = [
        f"epoch {epoch:{len(str(epochs))}}/{epochs}",
        f"loss {metrics['loss']:.4f}",
        f"accuracy {metrics['accuracy']:7.2%}",
    ]
    if "test_accuracy" in metrics:
        parts.append(f"test {metrics['test_accuracy']:7.2%}")
    parts.append(f"{metrics['images_per_second']:,.0f} images/s")
    return "  ".join(parts)


@contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar with the time left, below what `console` prints meanwhile.

    Where `console` is no terminal there is no bar.

    Args:
        console: Where to show it.
        total: Number of steps at which the bar is full.

    Yields:
        A function of the number of steps done and the text to stand beside the bar.

    >>> with progress_bar(Console(), total=20) as show:
    ...     show(10, "half")
    """
    bar = progress.Progress(
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.description}"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task("compiling", total=total)

        def show(completed: int, text: str) -> None:
            bar.update(task, completed=completed, description=text)

        yield show
