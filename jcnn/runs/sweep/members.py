"""The members of a sweep: seeds and a grid of options, and in what they differ."""

import argparse
import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..config import OptionError, RunConfig


class Member(NamedTuple):
    """A run of a sweep.

    Attributes:
        options: The options that are varied, but the seed, as on the command line.
        config: All options.
    """

    options: dict[str, str]
    config: Any

    @property
    def name(self) -> str:
        """The name of its subfolder."""
        parts = [
            f"{key.rpartition('.')[2]}={value}" for key, value in self.options.items()
        ]
        name = ",".join([*parts, f"seed={self.config.seed}"])
        return re.sub(r"[^\w.,=+-]", "_", name)


# --seeds varies the seed; the others say how all members are run.
_OF_ALL = ("seed", "run-dir", "as-recorded", "accept-source", "begin-anew", "threads")


class Sweep(NamedTuple):
    """What the command line asks for."""

    seeds: int
    grid: list[tuple[str, list[str]]]
    together: str
    arguments: list[str]


def parse(arguments: Sequence[str], program: str) -> Sweep:
    """Read the options of a sweep; the others are those of the experiment.

    >>> parse(["--seeds", "2", "--grid", "dropout=0.1,0.2", "--epochs", "3"], "digits")
    Sweep(seeds=2, grid=[('dropout', ['0.1', '0.2'])], together='auto',
          arguments=['--epochs', '3'])
    """
    parser = argparse.ArgumentParser(
        prog=f"{program} sweep",
        description="Train several seeds, for all combinations of some options.",
        epilog="All other options are those of the experiment, for all members.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="number of seeds, from --seed (default: 5)"
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="OPTION=VALUE,VALUE",
        help="values of an option, such as optimizer.learning-rate=1e-3,3e-3",
    )
    parser.add_argument(
        "--together",
        choices=("auto", "always", "never"),
        default="auto",
        help="train all members by one program (default: auto, where that is faster)",
    )
    given, others = parser.parse_known_args(arguments)
    if given.seeds < 1:
        raise OptionError(f"--seeds must be at least 1, got {given.seeds}")
    grid = []
    for text in given.grid:
        name, _, values = text.partition("=")
        if not name or not all(values.split(",")):
            raise OptionError(f"--grid must be OPTION=VALUE,VALUE, got {text!r}")
        name = name.removeprefix("--").replace("_", "-")
        if name in _OF_ALL:
            raise OptionError(f"--grid: {name} cannot be varied, got {text!r}")
        if name in dict(grid):
            raise OptionError(f"--grid: {name} is given twice, got {text!r}")
        grid.append((name, values.split(",")))
    return Sweep(given.seeds, grid, given.together, others)


def make_members(sweep: Sweep, read: Callable[[list[str]], Any]) -> list[Member]:
    """Return all members; `read` gives the options of a command line.

    Raises:
        OptionError: If two members are the same.
    """
    names = [name for name, _ in sweep.grid]
    first = read(sweep.arguments)
    members = []
    for values in itertools.product(*(values for _, values in sweep.grid)):
        options = dict(zip(names, values, strict=True))
        varied = [part for name in names for part in (f"--{name}", options[name])]
        config = read([*sweep.arguments, *varied])
        for seed in range(first.seed, first.seed + sweep.seeds):
            members.append(Member(options, dataclasses.replace(config, seed=seed)))
    if max(len(member.name) for member in members) > 200:
        raise OptionError(
            "--grid: the names of the members' folders, such as "
            f"{members[0].name[:60]}…, must have at most 200 characters"
        )
    names = [member.name for member in members]
    seen: list[Any] = []
    for name, member in zip(names, members):
        if member.config in seen or names.count(name) > 1:
            raise OptionError(f"--grid must give each value once, got {sweep.grid}")
        seen.append(member.config)
    return members


def why_apart(configs: Sequence[Any]) -> str | None:
    """Return why these runs cannot be one program, None if they can.

    >>> from jcnn.runs import RunConfig
    >>> why_apart([RunConfig(epochs=1), RunConfig(epochs=2)])
    'they differ in epochs'
    """
    config = configs[0]
    for wanted, reason in (
        (config.validation, "each holds out its own validation split"),
        (config.init_from is not None, "they start from given weights"),
        (config.not_finite == "skip", "each skips its own steps"),
        (config.test_each_epoch, "each is tested after each epoch"),
        (config.certify_every, "each has its own certificate"),
        (config.devices != 1, "each is divided among devices"),
    ):
        if wanted:
            return reason
    flat = [flatten(config) for config in configs]
    of_training = {field.name for field in dataclasses.fields(RunConfig)}
    for name, value in flat[0].items():
        if name in ("seed", "run_dir"):
            continue
        values = [one.get(name, dataclasses.MISSING) for one in flat]
        if any(other != value for other in values):
            numbers = all(isinstance(other, float) for other in values)
            if name in of_training or not numbers:
                return f"they differ in {name}"
    return None


def varied(configs: Sequence[Any]) -> dict[str, list[float]]:
    """Return the numbers, by path, in which the configs differ."""
    flat = [flatten(config) for config in configs]
    paths = [p for p in flat[0] if p not in ("seed", "run_dir")]
    values = {path: [one[path] for one in flat] for path in paths}
    return {
        path: found
        for path, found in values.items()
        if any(value != found[0] for value in found)
    }


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return all fields of nested dataclasses by their path, and the classes' names.

    >>> @dataclasses.dataclass
    ... class Config:
    ...     rate: float = 0.5
    >>> flatten(Config())
    {'rate': 0.5}
    """
    found = {}
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            found[path] = type(value).__name__
            found |= flatten(value, f"{path}.")
        else:
            found[path] = value
    return found


def replace(config: Any, values: dict[str, Any]) -> Any:
    """Return the config with other values at some paths.

    >>> @dataclasses.dataclass
    ... class Config:
    ...     rate: float = 0.5
    >>> replace(Config(), {"rate": 0.1})
    Config(rate=0.1)
    """
    for path, value in values.items():
        name, _, rest = path.partition(".")
        value = replace(getattr(config, name), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{name: value})
    return config
