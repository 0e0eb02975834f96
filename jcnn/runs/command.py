"""The command line of an experiment."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tyro

from .._files import expand_home, unused
from ..compilation import Options, default_options
from ..data import DataError
from ..finite import NotFinite
from ..layers import Params, State
from .check import check_recipe
from .compiled import keep_programs
from .config import (
    OptionError,
    RunConfig,
    check_config,
    config_from_json,
    config_to_json,
    map_paths,
)
from .evaluation import hold_out
from .initial import KEPT, read_initial
from .lock import Locked, lock
from .loop import fit
from .memory import keep_memory
from .output import lasting_output
from .program import Program, find_program
from .recipe import Recipe, cast_inputs, with_num_steps
from .stepping import count_steps
from .store.checkpoints import saved_steps
from .store.folder import (
    check_run_dir,
    make_run_dir,
    read_record,
    write_config,
    write_json,
)
from .store.weights import write_weights
from .threads import use_threads
from .training import Result
from .verify.environment import describe_environment, hide_from_git
from .verify.resume import (
    asks_for_more,
    check_longer,
    check_source,
    check_unchanged,
    last_step,
    lengthen,
    note_environment,
    note_source,
)
from .verify.source import read_source

RunConfigT = TypeVar("RunConfigT", bound=RunConfig)


@lasting_output()
def main(
    config_type: type[RunConfigT],
    make_recipe: Callable[[RunConfigT], Recipe],
    arguments: Sequence[str] | None = None,
    *,
    fit: Callable[..., Result] = fit,
) -> int:
    """Run the experiment that the command line describes.

    The options are the fields of `config_type`; `--help` begins with the first
    paragraph of the program's docstring. Options are checked before anything is
    compiled or written. If the run folder holds a run of the same program, options and
    source, that run is resumed; a finished one is made longer by more epochs or steps.

    Args:
        config_type: Frozen dataclass of the options.
        make_recipe: Function from the options to a `Recipe`.
        arguments: Command line; None for the program's.
        fit: The training loop, such as `functools.partial(fit, on_metrics=log)`.

    Returns:
        The exit status: 0; 1 if a file of the run cannot be written or a step was not
        finite; 2 if an option, the data or the run folder cannot be used; 130 after
        Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

    Raises:
        SystemExit: With 0 after `--help`; with 2 if an option is unknown or its value
            is not of its type.

    >>> main(RunConfig, lambda config: ..., ["--epochs", "0"])
    2
    """
    program = find_program(make_recipe)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        recorded = _as_recorded(config_type, arguments)
    except (OptionError, OSError) as error:
        return _fail(error, 2)
    config = tyro.cli(
        config_type,
        prog=program.command,
        description=program.summary,
        args=arguments,
        **recorded,
    )
    if config.keep_memory:
        keep_memory()
    with ExitStack() as held:
        try:
            prepared = _prepare(config, make_recipe, program, held)
        except (OptionError, DataError, OSError) as error:
            return _fail(error, 2)
        except KeyboardInterrupt:
            return 130
        if prepared is None:
            print(f"this run is finished; everything is in {config.run_dir}")
            return 0
        keep_programs()
        try:
            result = fit(
                prepared.recipe,
                prepared.run_dir,
                seed=config.seed,
                epochs=config.epochs,
                max_steps=config.max_steps,
                batch_size=config.batch_size,
                not_finite=config.not_finite,
                ema_decay=config.ema_decay,
                patience=config.patience,
                test_each_epoch=config.test_each_epoch,
                certify_every=config.certify_every,
                keep_checkpoints=config.keep_checkpoints,
                weights=prepared.weights,
                first_step=prepared.first_step,
                compiler_options=prepared.compiler_options,
                on_resume=prepared.on_start,
            )
        except OptionError as error:
            return _fail(error, 2)
        except (NotFinite, OSError) as error:
            return _fail(error, 1)
        except KeyboardInterrupt:
            return 130
    return 128 + result.stopped_by if result.stopped_by else 0


def refuses(config: Any) -> bool:
    """Print the error and return True if an option's value is out of range.

    >>> refuses(RunConfig(epochs=3))
    False
    """
    try:
        check_config(config)
    except OptionError as error:
        _fail(error, 2)
        return True
    return False


class _Prepared(NamedTuple):
    recipe: Recipe
    run_dir: Path
    compiler_options: Options
    weights: tuple[Params, State] | None = None
    first_step: int = 0
    on_start: Callable[[int], None] = lambda step: None


def _as_recorded(config_type: type, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options of the run in --run-dir as tyro's default, if asked to."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--as-recorded", "--as_recorded", action="store_true")
    parser.add_argument("--run-dir", "--run_dir", type=Path, nargs="?")
    given, _ = parser.parse_known_args(arguments)
    if not given.as_recorded or {"-h", "--help"} & set(arguments):
        return {}
    record = None if given.run_dir is None else read_record(expand_home(given.run_dir))
    if record is None:
        raise OptionError("--as-recorded: --run-dir must be the folder of a run")
    try:
        return {"default": config_from_json(config_type, record["config"])}
    except ValueError as error:
        raise OptionError(f"--as-recorded: {given.run_dir}: {error}") from error


def _prepare(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    held: ExitStack,
) -> _Prepared | None:
    """Check all options, then make or lock the folder; None if the run has ended."""
    check_config(config)
    config_to_json(config)
    asked = map_paths(expand_home, config)
    record = None if asked.run_dir is None else read_record(asked.run_dir)
    # These describe this command, not the run.
    config = dataclasses.replace(
        asked, as_recorded=False, accept_source=False, begin_anew=False
    )
    if record is not None and not asked.begin_anew:
        accepted = asked.accept_source
        return _resume(config, record, make_recipe, program, held, accepted)
    return _begin(config, make_recipe, program, held, aside=record is not None)


def _begin(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    held: ExitStack,
    *,
    aside: bool,
) -> _Prepared:
    run_dir = config.run_dir
    if run_dir is not None and not aside:
        check_run_dir(run_dir)
    config = dataclasses.replace(config, threads=use_threads(config.threads))
    recipe, _ = _checked(config, make_recipe)
    options, environment = _environment(config, program)
    source = read_source(program)
    weights = None
    if config.init_from is not None:
        weights = read_initial(config.init_from / "params.safetensors", recipe)
    if run_dir is not None and aside:
        with lock(run_dir):
            whole = run_dir.resolve()
            before = unused(whole.with_name(f"{whole.name}.before"))
            whole.rename(before)
        print(f"{run_dir} is now {before}", file=sys.stderr)
    run_dir = make_run_dir(run_dir, name=program.short_name, seed=config.seed)
    held.enter_context(lock(run_dir))
    hide_from_git(run_dir)
    if read_record(run_dir) is not None:
        raise Locked(f"--run-dir: another process has just begun a run in {run_dir}")
    if weights is not None:
        write_weights(run_dir / KEPT, *weights)
    write_json(run_dir / "source.json", source)
    write_json(run_dir / "environment.json", environment)
    # Last: a folder with this file can be resumed.
    write_config(run_dir, config, experiment=program.name)
    return _Prepared(recipe, run_dir, options, weights)


def _resume(
    config: RunConfigT,
    record: dict[str, Any],
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    held: ExitStack,
    accept_source: bool,
) -> _Prepared | None:
    run_dir: Path = config.run_dir  # pyright: ignore
    config = _with_threads(config, record)
    end = last_step(run_dir, record)
    check_unchanged(record, config, experiment=program.name, finished=end is not None)
    if end is not None and not asks_for_more(record, config):
        return None
    if not accept_source:
        check_source(run_dir, program)
    held.enter_context(lock(run_dir))
    recipe, total = _checked(config, make_recipe)
    options, environment = _environment(config, program)
    weights = None
    if config.init_from is not None and not saved_steps(run_dir / "checkpoints"):
        weights = read_initial(run_dir / KEPT, recipe)
    first_step = max([one["step"] for one in record["lengthened"]], default=0)
    if end is not None:
        check_longer(run_dir, end=end, total=total)
        first_step = end

    def on_start(step: int) -> None:
        if end is not None:
            lengthen(run_dir, record, config, end=end, total=total)
        if accept_source:
            note_source(run_dir, read_source(program), step)
        note_environment(run_dir, environment, step)

    return _Prepared(recipe, run_dir, options, weights, first_step, on_start)


def _checked(
    config: RunConfigT, make_recipe: Callable[[RunConfigT], Recipe]
) -> tuple[Recipe, int]:
    """Return the recipe and the number of steps."""
    recipe, batch_size = make_recipe(config), config.batch_size
    recipe = hold_out(recipe, config.validation, seed=config.seed)
    num_images = len(recipe.train.label)
    total = count_steps(num_images, batch_size=batch_size, epochs=config.epochs)
    recipe = cast_inputs(with_num_steps(recipe, total), config.dtype)
    recipe = check_recipe(recipe, batch_size=batch_size, patience=config.patience)
    return recipe, min(total, config.max_steps or total)


def _environment(config: RunConfig, program: Program) -> tuple[Options, dict[str, Any]]:
    """Return XLA's options and the description of the environment."""
    options = default_options(deterministic=config.deterministic)
    folder = program.file.parent if program.file else Path.cwd()
    return options, describe_environment(folder, compiler_options=options)


def _with_threads(config: RunConfigT, record: dict[str, Any]) -> RunConfigT:
    """Keep the number of threads that the run began with."""
    if config.threads is None:
        threads = record["config"].get("threads")
        if isinstance(threads, int):
            config = dataclasses.replace(config, threads=threads)
            check_config(config)
    return dataclasses.replace(config, threads=use_threads(config.threads))


def _fail(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
