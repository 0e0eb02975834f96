"""Time imports in fresh processes, each after `import jax`, in turn."""

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import tyro

from .report import environment, table

MODULES = ("jcnn", "jcnn.models", "jcnn.train", "optax", "flax.nnx", "equinox", "keras")

_PROGRAM = """
import jax, sys, time
from importlib import import_module
start = time.perf_counter()
import_module(sys.argv[1])
print(1e3 * (time.perf_counter() - start))
"""
_ENVIRONMENT = {"KERAS_BACKEND": "jax"}


@dataclass(frozen=True)
class Config:
    modules: tuple[str, ...] = MODULES
    """Modules to import; those that are not installed are skipped."""
    rounds: int = 5
    """Processes per module."""


def main(config: Config) -> None:
    print(environment(), end="\n\n")
    times: dict[str, list[float]] = {
        module: [] for module in config.modules if find_spec(module.partition(".")[0])
    }
    for _ in range(config.rounds):
        for module, its_times in times.items():
            its_times.append(import_ms(module))
    rows = [
        [module, f"{min(its_times):.0f} / {statistics.median(its_times):.0f}"]
        for module, its_times in times.items()
    ]
    print(table(["import", "ms, min / median"], rows))


def import_ms(module: str) -> float:
    """Return the milliseconds of one import in a fresh process, after `import jax`."""
    process = subprocess.run(
        [sys.executable, "-c", _PROGRAM, module],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | _ENVIRONMENT,
    )
    return float(process.stdout)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
