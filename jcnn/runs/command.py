"""The command line of an experiment."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from traceback import print_exception
from typing import Any, TypeVar

import tyro

from .._files import expand_home
from ..data import DataError
from ..finite import NotFinite
from .compiled import keep_programs
from .config import OptionError, RunConfig, check_config
from .config_json import config_from_json
from .loop import fit
from .memory import keep_memory
from .output import lasting_output
from .processes import OthersEnded, are_several, joined, leave
from .program import Program, find_program
from .recipe import Recipe
from .start import checked_recipe, prepare_run
from .store.folder import read_record
from .training import Result

_OF_SEVERAL = (
    "error: this process could not go on; if another one has ended, its output says "
    "why; the same commands resume the run"
)
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

    A command line that begins with "sweep" trains several seeds, and all combinations
    of some options: see `jcnn.runs.sweep`.

    Args:
        config_type: Frozen dataclass of the options.
        make_recipe: Function from the options to a `Recipe`.
        arguments: Command line; None for the program's.
        fit: The training loop, such as `functools.partial(fit, on_metrics=log)`.

    Returns:
        The exit status 0; 1 if a file of the run cannot be written, a step was not
        finite or too many streamed images are broken; 2 if an option, the data or the
        run folder cannot be used; 130 after Ctrl-C, 143 after SIGTERM, 129 after
        SIGHUP.

    Raises:
        SystemExit: With 0 after `--help`; with 2 if an option is unknown or its value
            is not of its type.

    >>> main(RunConfig, lambda config: ..., ["--epochs", "0"])
    2
    """
    program = find_program(make_recipe)
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments[:1]) == ["sweep"]:
        return _sweep(config_type, make_recipe, arguments[1:], program, fit)
    try:
        recorded = _as_recorded(config_type, arguments)
    except (OptionError, OSError) as error:
        return _fail(error, 2)
    config = _read(config_type, program, arguments, **recorded)
    return _run(config, make_recipe, program, fit)


def _run(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    fit: Callable[..., Result],
) -> int:
    """Run the experiment with these options; return the exit status."""
    if config.keep_memory:
        keep_memory()
    options = config.coordinator, config.num_processes, config.process_id
    with ExitStack() as held:
        try:
            held.enter_context(joined(*options))
            prepared = prepare_run(config, make_recipe, program, held)
        except OthersEnded as error:
            return leave(_fail(error, 1))
        except (OptionError, DataError, OSError) as error:
            return _fail(error, 2)
        except KeyboardInterrupt:
            return leave(130)
        if prepared is None:
            if config.profile:
                print("--profile: no steps are left to record")
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
                accumulate=config.accumulate,
                devices=config.devices,
                shard_parameters=config.shard_parameters,
                patience=config.patience,
                test_each_epoch=config.test_each_epoch,
                certify_every=config.certify_every,
                keep_checkpoints=config.keep_checkpoints,
                weights=prepared.weights,
                first_step=prepared.first_step,
                report=config.report,
                tensorboard=config.tensorboard,
                profile=config.profile,
                compiler_options=prepared.compiler_options,
                on_resume=prepared.on_start,
            )
        except OptionError as error:
            return leave(_fail(error, 2))
        except NotFinite as error:
            return _fail(error, 1)
        except (DataError, OSError, OthersEnded) as error:
            return leave(_fail(error, 1))
        except KeyboardInterrupt:
            return leave(130)
        except Exception as error:
            if are_several():
                print_exception(error)
                print(_OF_SEVERAL, file=sys.stderr)
            leave(1)
            raise
    return 128 + result.stopped_by if result.stopped_by else 0


def _read(
    config_type: type[RunConfigT],
    program: Program,
    arguments: Sequence[str],
    **how: Any,
) -> RunConfigT:
    return tyro.cli(
        config_type,
        prog=program.command,
        description=f"{program.summary}\n\nSeveral seeds or settings: "
        f"{program.command} sweep --help",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
        **how,
    )


def _sweep(
    config_type: type[RunConfigT],
    make_recipe: Callable[[RunConfigT], Recipe],
    arguments: Sequence[str],
    program: Program,
    fit: Callable[..., Result],
) -> int:
    from .sweep.command import run_sweep

    try:
        return run_sweep(
            arguments,
            read=partial(_read, config_type, program),
            make=lambda config: checked_recipe(config, make_recipe)[0],
            run=lambda config: _run(config, make_recipe, program, fit),
            program=program,
        )
    except (OptionError, DataError, OSError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return 130


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


def _fail(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
