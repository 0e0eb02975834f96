"""From the command line to the exit status."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tyro

from .._files import expand_home, unused
from ..compilation import Options, default_options
from ..data import DataError
from ..finite import NotFinite
from .compiled import keep_programs
from .config import OptionError, RunConfig, check_config
from .environment import describe_environment, hide_from_git
from .impl import keep_choices, kept_impl
from .lock import Locked, lock
from .loop import Recipe, fit
from .memory import keep_memory
from .output import lasting_output
from .resume import is_finished, note_environment, refuse_changes
from .run_folder import (
    make_run_dir,
    read_record,
    refuse_run_dir,
    write_config,
    write_json,
)
from .stepping import count_steps
from .threads import use_threads

RunConfigT = TypeVar("RunConfigT", bound=RunConfig)


@lasting_output()
def main(
    config_type: type[RunConfigT],
    make_recipe: Callable[[RunConfigT], Recipe],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run the experiment that the command line asks for.

    The command line is made of the fields of `config_type`; its `--help` begins with
    the first paragraph of the module's docstring. Options that cannot be used are
    refused before anything is compiled or written. Where the run folder holds a run
    of the same options, that run goes on.

    Args:
        config_type: Frozen dataclass of the options.
        make_recipe: Loads the data and says what to train, and how.
        arguments: Command line; otherwise the program's.

    Returns:
        The exit status: 0; 1 if a file of the run cannot be written or a step was not
        finite; 2 if an option, the data or the run folder cannot be used; 130 after
        Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

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
    keep_programs()
    with ExitStack() as held:
        try:
            prepared = _prepare(config, make_recipe, name, code_dir, held)
        except (OptionError, DataError, OSError) as error:
            return _fail(error, 2)
        except KeyboardInterrupt:
            return 130
        if prepared is None:
            print(f"this run is finished; everything is in {config.run_dir}")
            return 0
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
                certify_every=config.certify_every,
                keep_checkpoints=config.keep_checkpoints,
                compiler_options=prepared.compiler_options,
                on_resume=prepared.on_resume,
            )
        except OptionError as error:
            return _fail(error, 2)
        except (NotFinite, OSError) as error:
            return _fail(error, 1)
        except KeyboardInterrupt:
            return 130
    return 128 + result.stopped_by if result.stopped_by else 0


def refuses(config: Any) -> bool:
    """Whether an option has a value that is not allowed, which is told on stderr.

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
    on_resume: Callable[[int], None]


def _prepare(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    name: str,
    code_dir: Path,
    held: ExitStack,
) -> _Prepared | None:
    """Everything that an option can be wrong for, then the folder, locked.

    Returns:
        What to train; None if that has been done.
    """
    check_config(config)
    run_dir = None if config.run_dir is None else expand_home(config.run_dir)
    config = dataclasses.replace(config, run_dir=run_dir)
    record = None if run_dir is None else read_record(run_dir)
    anew = config.begin_anew and record is not None
    config = dataclasses.replace(config, begin_anew=False)
    record = None if anew else record
    config = _with_threads(config, record)
    if run_dir is not None and record is not None:
        refuse_changes(record, config, experiment=name)
        if is_finished(run_dir):
            return None
        held.enter_context(lock(run_dir))
        config = dataclasses.replace(config, impl=kept_impl(run_dir, config.impl))
    elif run_dir is not None and not anew:
        refuse_run_dir(run_dir)
    recipe = make_recipe(config)
    num_images = len(recipe.train.label)
    count_steps(num_images, batch_size=config.batch_size, epochs=config.epochs)
    options = default_options(deterministic=config.deterministic)
    environment = describe_environment(code_dir, compiler_options=options)
    if run_dir is not None and record is not None:
        on_resume = partial(note_environment, run_dir, environment)
        return _Prepared(recipe, run_dir, options, on_resume)
    if run_dir is not None and anew:
        with lock(run_dir):
            aside = unused(run_dir.with_name(f"{run_dir.name}.before"))
            run_dir.rename(aside)
        print(f"{run_dir} is now {aside}", file=sys.stderr)
    short_name = name.rpartition(".")[-1]
    run_dir = make_run_dir(run_dir, name=short_name, seed=config.seed)
    held.enter_context(lock(run_dir))
    hide_from_git(run_dir)
    if read_record(run_dir) is not None:
        raise Locked(f"--run-dir: another process has just begun a run in {run_dir}")
    keep_choices(run_dir, config.impl)
    write_json(run_dir / "environment.json", environment)
    # Last: a folder with this file is one to go on with.
    write_config(run_dir, config, experiment=name)
    return _Prepared(recipe, run_dir, options, lambda step: None)


def _with_threads(config: RunConfigT, record: dict[str, Any] | None) -> RunConfigT:
    """The number of threads is decided when a run begins, and kept."""
    if config.threads is None and record is not None:
        threads = record["config"].get("threads")
        if isinstance(threads, int):
            config = dataclasses.replace(config, threads=threads)
            check_config(config)
    return dataclasses.replace(config, threads=use_threads(config.threads))


def _fail(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _module_name(module: Any) -> str:
    """The name to import it by, also of a module that runs as `__main__`."""
    if module.__spec__ is not None:
        return module.__spec__.name
    return Path(module.__file__).stem if module.__file__ else module.__name__
