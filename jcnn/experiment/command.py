"""From the command line to the exit status."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from .config import OptionError, RunConfig, check_config
from .environment import describe_environment
from .fit import Recipe, fit
from .impl import keep_choices
from .memory import keep_memory
from .run_folder import make_run_dir, refuse_run_dir, write_config, write_json
from .stepping import count_steps

RunConfigT = TypeVar("RunConfigT", bound=RunConfig)


def main(
    config_type: type[RunConfigT],
    make_recipe: Callable[[RunConfigT], Recipe],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run the experiment that the command line asks for.

    The command line is made of the fields of `config_type`; its `--help` begins with
    the first paragraph of the module's docstring. Options that cannot be used are
    refused before anything is compiled or written.

    Args:
        config_type: Frozen dataclass of the options.
        make_recipe: Loads the data and says what to train, and how.
        arguments: Command line; otherwise the program's.

    Returns:
        The exit status: 0, 2 if an option, the data or the run folder cannot be used,
        130 after Ctrl-C.

    Raises:
        SystemExit: With 0 after `--help`; with 2 if an option is unknown or no value
            of its type.

    >>> main(RunConfig, lambda config: ..., ["--epochs", "0"])
    2
    """
    module = sys.modules[config_type.__module__]
    name = _module_name(module)
    config = tyro.cli(
        config_type,
        prog=f"python -m {name}",
        description=(module.__doc__ or "").partition("\n\n")[0],
        args=arguments,
    )
    code_dir = Path(module.__file__ or ".").parent
    if config.keep_memory and not keep_memory():
        print("--keep-memory changes nothing here: it needs glibc", file=sys.stderr)
    try:
        recipe, run_dir = _prepare(config, make_recipe, name, code_dir)
    except (OptionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    result = fit(
        recipe,
        run_dir,
        seed=config.seed,
        epochs=config.epochs,
        batch_size=config.batch_size,
    )
    return 130 if result.interrupted else 0


def _prepare(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    name: str,
    code_dir: Path,
) -> tuple[Recipe, Path]:
    """Everything that an option can be wrong for, then the folder."""
    check_config(config)
    if config.run_dir is not None:
        refuse_run_dir(config.run_dir)
    recipe = make_recipe(config)
    num_images = len(recipe.train.label)
    count_steps(num_images, batch_size=config.batch_size, epochs=config.epochs)
    environment = describe_environment(code_dir)
    short_name = name.rpartition(".")[-1]
    run_dir = make_run_dir(config.run_dir, name=short_name, seed=config.seed)
    write_config(run_dir, config, experiment=name)
    keep_choices(run_dir, config.impl)
    write_json(run_dir / "environment.json", environment)
    return recipe, run_dir


def _module_name(module: Any) -> str:
    """The name to import it by, also of a module that runs as `__main__`."""
    if module.__spec__ is not None:
        return module.__spec__.name
    return Path(module.__file__).stem if module.__file__ else module.__name__
