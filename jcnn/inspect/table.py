"""The parts of a model as a table, by Rich, which is imported when one is made."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._extras import missing
from .reader import total
from .summary import Row

if TYPE_CHECKING:
    from rich.table import Table


def print_table(rows: Sequence[Row]) -> None:
    """Print the parts of a model, one a line, with the totals below.

    Where the terminal is too narrow for all columns, it lacks the last ones.

    Args:
        rows: What `jcnn.summarize` returns.

    Raises:
        ModuleNotFoundError: If there is no Rich.

    >>> conv1 = Row("conv1", (8, 8, 16), 160, 9216, (3, 3), 640, 4096, "onednn")
    >>> print_table([conv1])  # doctest: +NORMALIZE_WHITESPACE
                   param-  multiply-  receptive             output
    layer  output   eters       adds      field  algorithm   bytes
    ──────────────────────────────────────────────────────────────
    conv1  8x8x16     160      9,216        3x3  onednn      4,096
    ──────────────────────────────────────────────────────────────
    total             160      9,216                         4,096
    """
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        raise missing("experiments", error) from error
    console = Console()
    console.print(model_table(rows, console.width))


def model_table(rows: Sequence[Row], width: int) -> "Table":
    """Return the table of `print_table`, of so many characters a line if it can be.

    Where it cannot be, names and numbers are broken rather than cut.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    algorithms = [row.algorithm for row in rows]
    columns = [
        ("layer", "total", [row.name for row in rows]),
        ("output", "", [_sizes(row.output_shape) for row in rows]),
        _numbers("param-\neters", [row.params for row in rows]),
        _numbers("multiply-\nadds", [row.multiply_adds for row in rows]),
        ("receptive\nfield", "", [_sizes(row.receptive_field) for row in rows]),
        *[("algorithm", "", algorithms)] * any(algorithms),
        _numbers("output\nbytes", [row.output_bytes for row in rows]),
    ]
    table = Table(
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_footer=True,
    )
    for header, footer, _ in columns:
        side = "left" if header in ("layer", "algorithm") else "right"
        table.add_column(header, footer, justify=side, overflow="fold")
    for cells in zip(*(cells for _, _, cells in columns)):
        table.add_row(*map(Text, cells))  # a name with brackets is no markup
    while len(table.columns) > 5 and Console(width=9999).measure(table).maximum > width:
        table.columns.pop()
    return table


def _numbers(header: str, numbers: Sequence[int | None]) -> tuple[str, str, list[str]]:
    return header, _number(total(numbers)), [_number(n) for n in numbers]


def _number(value: int | None) -> str:
    """Return the number, or a question mark where it is unknown."""
    return "?" if value is None else f"{value:,}"


def _sizes(sizes: Sequence[int | None] | None) -> str:
    return "?" if sizes is None else "x".join(map(_number, sizes))
