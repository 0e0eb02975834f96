"""Time whole train steps: jcnn's, and those of other frameworks.

Every framework trains every model in fresh processes, one after the other and round
after round, so that noise affects all alike. "jax" is plain JAX with its convolutions;
"jax+" adds the compiler options of `jcnn.compilation`; "jcnn_scan" takes four steps a
call. Compile time is that of the first call; import time includes jax and optax, or
torch. The exit status is 1 if the numbers of parameters differ or a loss does not fall.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import tyro

from .peers import Name
from .peers.workload import Dtype, Model
from .report import environment, ratio, table
from .rounds import Job, sample_in_turn, those_installed
from .worker import WATCHED, Sample


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
    keep_memory: bool = False
    """Keep large buffers between steps, as experiments do by default."""


def main(config: Config) -> int:
    print(f"{environment()}, {config.dtype}", end="\n\n")
    names = those_installed(config.peers)
    jobs = [
        Job(name, model, keep_memory=config.keep_memory, dtype=config.dtype)
        for model in config.models
        for name in names
    ]
    samples = sample_in_turn(jobs, rounds=config.rounds, seconds=config.seconds)
    status = 0
    for model in config.models:
        results = {j.name: sample for j, sample in samples.items() if j.model == model}
        print(results_table(model, results), end="\n\n")
        for fault in faults(results):
            print(f"{model}: {fault}\n")
            status = 1
    return status


def results_table(model: Model, results: Mapping[str, Sample]) -> str:
    header = [
        model,
        "ms, min / median",
        "to jcnn",
        "compile s",
        "to jax",
        "import s",
        "parameters",
        f"loss, {WATCHED} runs on",
    ]
    jcnn_ms = results["jcnn"].median_ms if "jcnn" in results else None
    jax_s = results["jax"].first_s if "jax" in results else None
    rows = [
        [
            name,
            f"{sample.minimum_ms:.1f} / {sample.median_ms:.1f}",
            ratio(sample.median_ms, jcnn_ms),
            f"{sample.first_s:.2f}",
            ratio(sample.first_s, jax_s),
            f"{sample.import_s:.2f}",
            f"{sample.parameters:,.0f}",
            f"{sample.first_loss:.3f} → {sample.last_loss:.3f}",
        ]
        for name, sample in results.items()
    ]
    return table(header, rows)


def faults(results: Mapping[str, Sample]) -> list[str]:
    """Return messages for peers whose models differ or do not train."""
    messages = []
    if len({sample.parameters for sample in results.values()}) > 1:
        messages.append("the models have different numbers of parameters")
    for name, sample in results.items():
        if not sample.last_loss < sample.first_loss:
            messages.append(f"{name}'s loss does not fall")
    return messages


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
