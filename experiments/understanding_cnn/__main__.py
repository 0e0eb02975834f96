"""The claims of "Understanding Convolution Neural Networks, Part I", made exact.

Compute each claim with jcnn, check the numbers, and draw one page of pictures, page.png
and page.pdf. The exit status is 1 if a number is wrong.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

import jcnn
from jcnn.data import load
from jcnn.runs.config import OptionError, Range, check_config
from jcnn.runs.store.folder import make_run_dir, write_config, write_file, write_json
from jcnn.runs.verify.environment import describe_environment

from .canvas import draw_page
from .facts import Fact, collect_facts
from .sections import make_sections

_NAME = "experiments.understanding_cnn"


@dataclass(frozen=True)
class Config:
    digit: Annotated[int, Range(0, 359)] = 25
    """Number of the digit to draw, among the 360 test digits of scikit-learn."""
    run_dir: Path | None = None
    """New or empty folder for the page. By default a new one in runs/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the facts and write the page.

    Args:
        arguments: Command line. By default the program's.

    Returns:
        The exit status: 0, 1 if a fact does not hold, 2 if an option or the run
        folder cannot be used.
    """
    config = tyro.cli(
        Config, prog=f"python -m {_NAME}", description=__doc__, args=arguments
    )
    try:
        check_config(config)
        data = load("digits", "test")
        run_dir = make_run_dir(config.run_dir, name="understanding_cnn")
    except (OptionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    digits = np.rint(data.image[..., 0] * np.float32(16 / 255))  # as scikit-learn's
    facts = collect_facts(digits[config.digit])
    holding = [fact.holds for point in facts.values() for fact in point]
    Console().print(facts_table(facts))
    page = draw_page(
        "Understanding convolutional networks",
        "Every point of “Understanding Convolution Neural Networks, Part I”, made "
        f"exact and computed: {sum(holding)} of {len(holding)} facts hold",
        f"The digit is number {config.digit} of the test digits of scikit-learn. "
        f"Drawn by python -m {_NAME}, with jcnn {jcnn.__version__} and "
        f"jax {jax.__version__}.",
        make_sections(digits[config.digit], int(data.label[config.digit]), digits),
    )
    write_config(run_dir, config, experiment=_NAME)
    environment = describe_environment(Path(__file__).parent)
    write_json(run_dir / "environment.json", environment)
    write_json(run_dir / "facts.json", _facts_to_json(facts))
    write_file(run_dir / "page.png", _picture(page, "png"))
    write_file(run_dir / "page.pdf", _picture(page, "pdf"))
    print(f"{sum(holding)} of {len(holding)} facts hold; the page is in {run_dir}")
    return 0 if all(holding) else 1


def facts_table(facts: dict[str, list[Fact]]) -> Table:
    """Return a table of the facts for a terminal, grouped by point."""
    table = Table("fact", "computed", "", box=box.SIMPLE_HEAD)
    for point, rows in facts.items():
        table.add_row(f"[bold]{point}")
        for fact in rows:
            claim, value, mark = fact.claim, _describe(fact.computed), "[green]✓"
            if fact.article:
                claim += f"\n[dim]article: {fact.article}[/dim]"
            if not fact.holds:
                value = f"[red]{value}[/red]\nmust be {_describe(fact.exact)}"
                mark = "[bold red]✗"
            table.add_row(claim, value, mark)
        table.add_row()
    return table


def _describe(value: Any) -> str:
    """Format a value in few characters, integers without a decimal point."""
    if isinstance(value, list) and len(value) > 6:
        if len(set(value)) == 1:
            return f"{_describe(value[0])}, {len(value)} times"
        return f"{_describe(value[:4])}, … ({len(value)})"
    if isinstance(value, list):
        return ", ".join(map(_describe, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if type(value) is int else str(value)


def _facts_to_json(facts: dict[str, list[Fact]]) -> dict[str, Any]:
    return {
        point: [fact._asdict() | {"holds": fact.holds} for fact in rows]
        for point, rows in facts.items()
    }


def _picture(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    # No date: the same page gives the same file.
    metadata = {"CreationDate": None} if kind == "pdf" else None
    figure.savefig(content, format=kind, metadata=metadata)
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
