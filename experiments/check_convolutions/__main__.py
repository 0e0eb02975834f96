"""Checks random convolutions against the definition, by every algorithm.

An example is a convolution in one to three dimensions with any strides, padding (also
negative), dilations, groups and dtype, computed with both gradients by one of the ways
that serve it. The results are compared with sums in float64 (and these with PyTorch,
if it is there) and with each other: <f(x, w), g> = <x, gx> = <w, gw>. What errors are
allowed stands in `bounds.py`. The tests check 300 examples; this checks ten times as
many, or as many as it is told.

An example depends on the seed and its number alone: if one fails, or the process with
it, `--first` with that number and `--examples 1` repeat it.
"""

import sys
import time
from dataclasses import dataclass

import jax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from .checking import Error, check, drawn
from .drawing import DTYPES

_NAME = "experiments.check_convolutions"


@dataclass(frozen=True)
class Config:
    examples: int = 3000
    """How many are drawn."""
    seed: int = 0
    """Of all examples together."""
    first: int = 0
    """The number of the first one."""


def main(config: Config) -> int:
    started = time.monotonic()
    errors: list[Error] = []
    failures = 0
    for number in range(config.first, config.first + config.examples):
        example, random = drawn(config.seed, number)
        print(f"\rexample {number} ", end="", file=sys.stderr, flush=True)
        try:
            found = list(check(example, random))
            errors += found
            wrong = [e for e in found if not e.share <= 1]
            reason = f"not within the bounds: {wrong}" if wrong else None
        except Exception as error:
            reason = repr(error)
        if reason:
            failures += 1
            again = f"--seed {config.seed} --first {number} --examples 1"
            print(f"\n{again}: {reason}\n    {example}", flush=True)
        if number % 50 == 0:
            jax.clear_caches()  # all programs together would take gigabytes
    seconds = time.monotonic() - started
    print(file=sys.stderr)
    print("The largest errors, as shares of what is allowed:\n")
    Console(width=90).print(summary(errors))
    print(f"{config.examples} examples in {seconds:.0f} s, {failures} failed.")
    return 1 if failures else 0


def summary(errors: list[Error]) -> Table:
    """For each way and face the number of errors, and the largest of each dtype."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    dtypes = list(dict.fromkeys(DTYPES))
    for name in ("way", "of"):
        table.add_column(name)
    for name in ("cases", *dtypes):
        table.add_column(name, justify="right")
    shares: dict[tuple[str, str], dict[str, list[float]]] = {}
    for error in errors:
        row = shares.setdefault((error.way, error.what), {})
        row.setdefault(error.dtype, []).append(error.share)
    for (way, what), row in sorted(shares.items()):
        cases = sum(map(len, row.values()))
        largest = (f"{max(row[d]):.0%}" if d in row else "" for d in dtypes)
        table.add_row(way, what, str(cases), *largest)
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog=f"python -m {_NAME}", description=__doc__)))
