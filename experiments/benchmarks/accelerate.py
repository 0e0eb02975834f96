"""Time train steps of other libraries, without and with `jcnn.accelerate()`.

Flax, Equinox and Keras train the models of peers/workload.py in fresh processes, in
turn. The two variants differ in one call before the model is built. Their losses differ
by rounding, which grows over the steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import tyro

from .peers.workload import Dtype, Model
from .report import environment, ratio, table
from .rounds import Job, sample_in_turn, those_installed
from .worker import WATCHED, Sample

Name = Literal["flax_nnx", "equinox", "keras"]


@dataclass(frozen=True)
class Config:
    models: tuple[Model, ...] = get_args(Model)
    """Models to train: see peers/workload.py."""
    dtype: Dtype = "float32"
    """Dtype of the computation."""
    peers: tuple[Name, ...] = get_args(Name)
    """Frameworks to measure."""
    rounds: int = 3
    """Processes per framework and model."""
    seconds: float = 5.0
    """Seconds of steps per process."""


def main(config: Config) -> None:
    print(f"{environment()}, {config.dtype}", end="\n\n")
    names = those_installed(config.peers)
    jobs = [
        Job(name, model, accelerated, dtype=config.dtype)
        for model in config.models
        for name in names
        for accelerated in (False, True)
    ]
    samples = sample_in_turn(jobs, rounds=config.rounds, seconds=config.seconds)
    for model in config.models:
        print(results_table(model, samples), end="\n\n")


def results_table(model: Model, samples: Mapping[Job, Sample]) -> str:
    header = [
        model,
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
        if job.model == model and job.accelerated and before is not None:
            row = [
                job.name,
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
