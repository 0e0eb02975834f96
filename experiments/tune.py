"""Measures which algorithm is fastest for each convolution of an experiment.

It writes a file for the experiment's option --impl, which the run keeps in its folder.
All runs with one file give the same bits, whatever would be fastest by then.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from jcnn.experiment import Count, OptionError, Positive, Recipe, check_config
from jcnn.train import create, make_step
from jcnn.tuning import Choices, Measured, measure, save

from . import cifar10, digits, fashion_mnist, mnist

SCRIPTS = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}


@dataclass(frozen=True)
class Config:
    experiment: Annotated[
        Literal["digits", "mnist", "fashion_mnist", "cifar10"], tyro.conf.Positional
    ]
    """The experiment whose training step is measured."""
    out: Path = Path("tuned.json")
    """The file to write."""
    batch_size: Count | None = None
    """Images per training step; otherwise the experiment's default."""
    seconds: Positive = 1.0
    """Time for each convolution, beside that for compiling its algorithms."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; otherwise the variable JCNN_DATA_DIR."""


def main(config: Config) -> int:
    try:
        check_config(config)
        if not config.out.parent.is_dir():
            raise OptionError(f"--out: {config.out.parent} is not a folder")
        script = SCRIPTS[config.experiment]
        options = script.Config(impl="auto", data_dir=config.data_dir)
        if config.batch_size is not None:
            options = replace(options, batch_size=config.batch_size)
        recipe = script.recipe(options)
    except (OptionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    algorithms = {}
    for row in measure_step(recipe, options.batch_size, config.seconds):
        print(describe(row), flush=True)
        algorithms[row.problem] = row.algorithm
    save(Choices(algorithms), config.out)
    print(f"now: python -m {script.__name__} --impl {config.out}")
    return 0


def measure_step(recipe: Recipe, batch_size: int, seconds: float) -> Iterator[Measured]:
    """The convolutions of one training step, as they are measured."""
    arrays = {"image": recipe.train.image, "label": recipe.train.label}
    batch = {
        name: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype)
        for name, array in arrays.items()
    }
    inputs = jax.ShapeDtypeStruct((1, *recipe.train.image.shape[1:]), "float32")
    state = jax.eval_shape(
        lambda key: create(recipe.layer, recipe.tx, key, inputs), jax.random.key(0)
    )
    return measure(make_step(recipe.loss_fn, recipe.tx), state, batch, seconds=seconds)


def describe(row: Measured) -> str:
    problem = row.problem
    first, second = (problem.shape(face) for face in problem.operands)
    times = sorted(row.milliseconds.items(), key=lambda item: item[1])
    text = ", ".join(f"{name} {time:.2f} ms" for name, time in times)
    sizes = f"{first}, {second} -> {problem.shape(problem.face)}"
    return f"{sizes} by {row.algorithm}\n    {text}"


if __name__ == "__main__":
    program = "python -m experiments.tune"
    sys.exit(main(tyro.cli(Config, prog=program, description=__doc__)))
