"""Compare the peak memory of convolutions and their gradients: jcnn and lax.

Print the MiB of temporary arrays in each compiled program, as XLA counts them, without
operands, results and workspaces of XLA's libraries. The exit status is 1 if jcnn
exceeds lax by more than --margin anywhere.
"""

import sys
from dataclasses import dataclass

import jax
import tyro

from .operations import OPERATIONS, operands, operation
from .report import environment, table
from .shapes import CHECKED_ON, CHOSEN_ON, Shape


@dataclass(frozen=True)
class Config:
    only: str = ""
    """Only rows that contain this text, such as "g4" or "1000"."""
    margin: float = 64.0
    """MiB by which jcnn may exceed lax."""


def main(config: Config) -> int:
    print(environment(), end="\n\n")
    rows, above = [], []
    for shape in (*CHOSEN_ON, *CHECKED_ON):
        for name in OPERATIONS:
            row = f"{shape} {name}"
            if config.only in row:
                jcnn, lax = (temporary(shape, name, impl) for impl in ("auto", "lax"))
                difference = jcnn - lax
                rows.append([row, f"{jcnn:.1f}", f"{lax:.1f}", f"{difference:+.1f}"])
                if difference > config.margin:
                    above.append(row)
    print(table(["MiB", "jcnn", "lax", "difference"], rows), end="\n\n")
    where = "; ".join(above) if above else "nowhere"
    print(f"jcnn is above lax by more than {config.margin:g} MiB: {where}")
    return 1 if above else 0


def temporary(shape: Shape, name: str, impl: str) -> float:
    """Return the MiB of temporary arrays.

    >>> temporary(Shape(1, (8,), 2, 2, kernel=3), "f", "lax") < 1
    True
    """
    function = jax.jit(operation(shape, name, impl))
    analysis = function.lower(*operands(shape)).compile().memory_analysis()
    if analysis is None:
        raise RuntimeError(f"{jax.default_backend()} does not tell a program's memory")
    return analysis.temp_size_in_bytes / 2**20


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
