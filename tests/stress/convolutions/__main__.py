"""Checks random convolutions against the definition, by every algorithm.

An example is a convolution in one to three dimensions with any strides, padding (also
negative), dilations, groups, precision and dtypes of operands and result, of one model
or mapped over several by `jax.vmap`, computed with both gradients by one of the ways
that support it. The results are compared with sums in float64 (and these with PyTorch,
if it is there) and with each other: <f(x, w), g> = <x, gx> = <w, gw>. What errors are
allowed stands in `bounds.py`. The tests check the first 200 examples of seed 0; ten
times that are 2000, and this checks 3000 if it is told no other number, in 6 minutes.

An example depends on the seed and its number alone: if one fails, or the process with
it, `--first` with that number and `--examples 1` repeat it.
"""

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import jax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from jcnn.runs import Count, refuses
from jcnn.runs.config import Range, Seed

from .bounds import BOUNDS
from .checking import Error, check, drawn
from .drawing import DTYPES

_NAME = "tests.stress.convolutions"


@dataclass(frozen=True)
class Config:
    examples: Count = 3000
    """How many are drawn."""
    seed: Seed = 0
    """Of all examples together."""
    first: Annotated[int, Range(0)] = 0
    """The number of the first one."""


def main(config: Config) -> int:
    """The exit status: 0, 1 if an example failed, 2 if an option cannot be used."""
    if refuses(config):
        return 2
    started = time.monotonic()
    errors: list[Error] = []
    failures = 0
    for done in range(config.examples):
        number = config.first + done
        # Written first: what ends the process leaves the number behind.
        progress = f"\rexample {number}, {done} of {config.examples} done "
        print(progress, end="", file=sys.stderr, flush=True)
        example, random = drawn(config.seed, number)
        try:
            found = list(check(example, random))
            errors += found
            wrong = [error for error in found if not error.share <= 1]
            reason = f"not within the bounds: {wrong}" if wrong else None
        except Exception as error:
            reason = repr(error)
        if reason:
            failures += 1
            again = f"--seed {config.seed} --first {number} --examples 1"
            print(f"\n{again}: {reason}\n    {example}", flush=True)
        if done % 50 == 49:
            jax.clear_caches()  # all programs together would take gigabytes
    print(file=sys.stderr)
    print("The largest errors, as shares of what is allowed:\n")
    Console(width=88).print(summary(errors))
    seconds = time.monotonic() - started
    print(f"{config.examples} examples in {seconds:.0f} s, {failures} failed.")
    return 1 if failures else 0


def summary(errors: list[Error]) -> Table:
    """For each way and result the number of errors, and the largest of each dtype."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    dtypes = list(dict.fromkeys(DTYPES))
    for name in ("way", "of"):
        table.add_column(name)
    for name in ("cases", *dtypes):
        table.add_column(name, justify="right")
    rows: dict[tuple[str, str], list[Error]] = {}
    for error in errors:
        rows.setdefault((error.way, error.what), []).append(error)
    order = list(BOUNDS)
    for (way, what), row in sorted(rows.items(), key=lambda r: order.index(r[0][0])):
        largest = [
            max((e.share for e in row if e.dtype == d), default=None) for d in dtypes
        ]
        cells = ("" if share is None else f"{share:.0%}" for share in largest)
        table.add_row(way, what, str(len(row)), *cells)
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog=f"python -m {_NAME}", description=__doc__)))
