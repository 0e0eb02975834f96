"""Train `cifar10_speedrun` with several seeds in one process, compile time apart.

All steps are one program, and the test images are evaluated by a second one. Seconds
are from the initialization of the parameters to the test accuracy, data on the device.
"""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import tyro

from experiments import cifar10_speedrun
from jcnn.runs import keep_memory
from jcnn.runs.recipe import cast_inputs, network_inputs, with_num_steps
from jcnn.runs.stepping import count_steps
from jcnn.train import create, make_evaluate, make_scan

from .peers.workload import Dtype
from .report import environment, table


@dataclass(frozen=True)
class Config:
    seeds: int = 5
    """Number of seeds, from 0."""
    dtype: Dtype = "bfloat16"
    """Dtype of the network's inputs, and so of its computations."""
    evaluate: int = 1000
    """Test images at once."""
    run: cifar10_speedrun.Config = field(default_factory=cifar10_speedrun.Config)


def main(config: Config) -> None:
    keep_memory()
    print(f"{jax.devices()[0].device_kind}; {environment()}", end="\n\n")
    run = config.run
    recipe = cast_inputs(cifar10_speedrun.recipe(run), config.dtype)
    num_steps = count_steps(
        len(recipe.train.label), batch_size=run.batch_size, epochs=run.epochs
    )
    recipe = with_num_steps(recipe, num_steps)
    tx: Any = recipe.tx  # no function any more
    inputs = network_inputs(recipe)
    train, test = (
        jax.device_put({"image": data.image, "label": data.label})
        for data in (recipe.train, recipe.test)
    )
    init = jax.jit(lambda key: create(recipe.layer, tx, key, inputs))
    steps = make_scan(
        recipe.loss_fn,
        tx,
        batch_size=run.batch_size,
        num_steps=num_steps,
        accumulate=run.accumulate,
        batch_at=recipe.batch_at,
    )
    evaluate = make_evaluate(recipe.example_metrics, batch_size=config.evaluate)

    def timed(seed: int) -> tuple[float, float]:
        begin = time.perf_counter()
        state, _ = steps(init(jax.random.key(seed)), train)
        accuracy = evaluate(state, test)["accuracy"]
        return accuracy, time.perf_counter() - begin

    _, first = timed(0)  # compiles
    accuracies, seconds = zip(*map(timed, range(config.seeds)))
    rows = [
        [str(seed), f"{accuracy:.2%}", f"{taken:.2f}"]
        for seed, (accuracy, taken) in enumerate(zip(accuracies, seconds))
    ]
    print(table(["seed", "test accuracy", "seconds"], rows))
    spread = statistics.stdev(accuracies) if config.seeds > 1 else 0.0
    print(
        f"\nmean {statistics.mean(accuracies):.2%} ± {spread:.2%}, "
        f"{statistics.median(seconds):.2f} s; compiling takes "
        f"{first - statistics.median(seconds):.1f} s"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
