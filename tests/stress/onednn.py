"""Draws convolutions and gradients for oneDNN, each of which could end the process.

Each is named on standard error before it is computed, and compared with lax's. What
the algorithm does not support is not computed.
"""

import sys
from dataclasses import dataclass

import numpy as np
import tyro

from jcnn.engine.algorithms.onednn import ONEDNN
from jcnn.engine.onednn.trial import draw, errors
from jcnn.runs import Count, refuses


@dataclass(frozen=True)
class Config:
    examples: Count = 5000
    """How many are drawn."""
    seed: int = 0
    """Of all together."""


def main(config: Config) -> int:
    if refuses(config):
        return 2
    computed = 0
    for number in range(config.examples):
        rng = np.random.default_rng([config.seed, number])
        problem = draw(rng)
        print(number, problem, file=sys.stderr, flush=True)
        if ONEDNN.supports(problem):
            computed += 1
            (share,) = errors([problem], rng)
            if not share <= 1:
                print(f"{number}: {share:.2f} of the error that is allowed: {problem}")
                return 1
    print(f"{config.examples} drawn, {computed} of them computed, all right")
    return 0


if __name__ == "__main__":
    program = "python -m tests.stress.onednn"
    sys.exit(main(tyro.cli(Config, prog=program, description=__doc__)))
