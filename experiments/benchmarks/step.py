"""Times of whole train steps: jcnn's, and those of other frameworks.

Every framework trains every model in fresh processes of its own, one after the other
and round after round, so that a busy moment does not hit one alone. "jax" is plain JAX
with lax's convolutions; "jax+" is the same with the options of `jcnn.compilation`;
"jcnn_scan" takes four steps a call. Compilation is the first call; imports include jax
and optax, or torch. The exit status is 1 if the frameworks' numbers of parameters
differ or a loss does not fall.
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
    """What is trained: see peers/workload.py."""
    dtype: Dtype = "float32"
    """What it computes in."""
    peers: tuple[Name, ...] = get_args(Name)
    """Whose train steps are measured."""
    rounds: int = 3
    """Processes for each."""
    seconds: float = 5.0
    """Time for the steps of each process."""
    keep_memory: bool = False
    """Whether all keep large buffers, as the experiments' option of this name."""


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
    """What shows that peers do not train the same, or do not train."""
    messages = []
    if len({sample.parameters for sample in results.values()}) > 1:
        messages.append("the models have different numbers of parameters")
    for name, sample in results.items():
        if not sample.last_loss < sample.first_loss:
            messages.append(f"{name}'s loss does not fall")
    return messages


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
