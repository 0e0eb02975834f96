"""Time train steps of other libraries, without and with `jcnn.accelerate()`.

Flax, Equinox, Haiku and Keras train the models of peers/networks.py in fresh processes,
in turn; plain JAX one with gradients per example. The two variants differ in one call
before the model is built. Their losses differ by rounding, which grows over the steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import tyro

from .peers.workload import AnyModel, Dtype
from .report import environment, ratio, table
from .rounds import Job, sample_in_turn, those_installed
from .worker import WATCHED, Sample

Name = Literal["flax_nnx", "flax_linen", "equinox", "haiku", "keras", "jax_per_example"]


@dataclass(frozen=True)
class Config:
    models: tuple[AnyModel, ...] = get_args(AnyModel)
    """Models to train: see peers/networks.py."""
    dtype: Dtype = "float32"
    """Dtype of the computation."""
    peers: tuple[Name, ...] = get_args(Name)
    """Frameworks to measure; gradients per example are of the model "vgg" only."""
    rounds: int = 3
    """Processes per framework and model."""
    seconds: float = 5.0
    """Seconds of steps per process."""
    examples: int | None = None
    """Examples per batch, in place of each model's number."""


def main(config: Config) -> None:
    print(f"{environment()}, {config.dtype}", end="\n\n")
    names = those_installed(config.peers)
    jobs = [
        Job(name, model, accelerated, dtype=config.dtype, examples=config.examples)
        for model in config.models
        for name in names
        if model == "vgg" or name != "jax_per_example"
        for accelerated in (False, True)
    ]
    samples = sample_in_turn(jobs, rounds=config.rounds, seconds=config.seconds)
    print(results_table(samples))


def results_table(samples: Mapping[Job, Sample]) -> str:
    header = [
        "library",
        "model",
        "ms without, min / median",
        "ms with",
        "without / with",
        "compile s without",
        "with",
        f"loss after {WATCHED} steps without",
        "with",
    ]
    rows = []
    for job, after in samples.items():
        before = samples.get(job._replace(accelerated=False))
        if job.accelerated and before is not None:
            row = [
                job.name,
                job.model,
                f"{before.minimum_ms:.1f} / {before.median_ms:.1f}",
                f"{after.minimum_ms:.1f} / {after.median_ms:.1f}",
                ratio(before.median_ms, after.median_ms),
                f"{before.first_s:.2f}",
                f"{after.first_s:.2f}",
                f"{before.last_loss:.4f}",
                f"{after.last_loss:.4f}",
            ]
            rows.append(row)
    return table(header, rows)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
