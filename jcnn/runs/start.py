"""What precedes training: options checked, and the folder made, or found and locked."""

import dataclasses
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

import jcnn

from .._extras import missing
from .._files import expand_home, unused
from .._jax_internals import process_of_job
from ..compilation import Options, default_options
from ..layers import Params, State
from .check import check_recipe
from .config import OptionError, RunConfig, check_config
from .config_json import config_to_json, map_paths
from .devices import choose_devices, count_devices
from .evaluation import hold_out
from .initial import KEPT, read_initial
from .lock import Locked, lock
from .output import in_line, printable
from .processes import are_several, gather, is_first, together
from .program import Program
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
from .verify.environment import describe_environment, differences, hide_from_git
from .verify.resume import (
    FREE,
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


class Prepared(NamedTuple):
    """What to train, and where.

    Attributes:
        on_start: Called with the number of steps done when training begins.
    """

    recipe: Recipe
    run_dir: Path
    compiler_options: Options
    weights: tuple[Params, State] | None = None
    first_step: int = 0
    on_start: Callable[[int], None] = lambda step: None


class Checked(NamedTuple):
    """A run whose options are good; `make` is None if it has ended, and else writes."""

    config: RunConfig
    make: Callable[[], Prepared] | None


def prepare_run(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    held: ExitStack,
) -> Prepared | None:
    """Check all options, then make or lock the folder; None if the run has ended.

    Of several processes the first one does. All of them raise the error of any.
    """
    checked = together(lambda: _check(config, make_recipe, program, held))
    if are_several():
        _compare_code(gather(_code(program)))
    told = gather((_of_all(checked.config), checked.make is None))
    wanted, ended = told[0]
    if checked.make is None or ended:
        return None
    lines = {
        f"--{name.replace('_', '-')}: {in_line(first)} in the first process, "
        f"{in_line(other)} in another"
        for found, _ in told
        for name, (first, other) in differences(wanted, found).items()
    }
    if lines:
        title = "the processes of a run must have the same options:"
        raise OptionError("\n  ".join([title, *sorted(lines)]))
    prepared = together(checked.make)
    run_dir, *_ = gather(str(prepared.run_dir.absolute()))
    return prepared if is_first() else prepared._replace(run_dir=Path(run_dir))


def _code(program: Program) -> dict[str, str]:
    """Return the digests of a program's files, and the versions of its libraries."""
    files = read_source(program)["files"]
    found = {name: version(name) for name in ("jax", "jaxlib", "numpy", "optax")}
    found["jcnn"] = jcnn.__version__
    return found | {name: file["sha256"] for name, file in files.items()}


def _compare_code(found: list[dict[str, str]]) -> None:
    """Raise OptionError if the code of processes differs, where both have imported it.

    >>> _compare_code([{"jax": "1.0", "net.py": "a1"}, {"jax": "1.0", "net.py": "b2"}])
    Traceback (most recent call last):
    jcnn.runs.config.OptionError: the processes of a run must have the same source and
    libraries, but other ones have another net.py
    """
    first, *others = found
    names = {n for other in others for n in other if other[n] != first.get(n, other[n])}
    if names:
        raise OptionError(
            "the processes of a run must have the same source and libraries, but other "
            f"ones have another {', '.join(sorted(map(printable, names)))}"
        )


def _of_all(config: RunConfig) -> dict[str, Any]:
    """Return the options that all processes of a run must have."""
    free = {*FREE} - {"devices", "shard_parameters"}
    options = {k: v for k, v in config_to_json(config).items() if k not in free}
    return options | {"num_processes": process_of_job()[1]}


def _check(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    held: ExitStack,
) -> Checked:
    check_config(config)
    config_to_json(config)
    check_tensorboard(config)
    if config.profile and are_several():
        raise OptionError("--profile is for one process only")
    asked = map_paths(expand_home, config)
    # These describe this command, not the run.
    config = dataclasses.replace(
        asked,
        as_recorded=False,
        accept_source=False,
        begin_anew=False,
        profile=False,
        coordinator=None,
        num_processes=None,
        process_id=None,
    )
    if not is_first():
        return _follow(config, make_recipe)
    record = None if asked.run_dir is None else read_record(asked.run_dir)
    if record is not None and not asked.begin_anew:
        accepted = asked.accept_source
        return _resume(config, record, make_recipe, program, held, accepted)
    return _begin(config, make_recipe, program, held, aside=record is not None)


def _follow(config: RunConfigT, make_recipe: Callable[[RunConfigT], Recipe]) -> Checked:
    """Check the options in a process that writes nothing."""
    config = _settled(config)
    recipe, _ = checked_recipe(config, make_recipe)
    options = default_options(deterministic=config.deterministic)
    return Checked(config, lambda: Prepared(recipe, Path(os.devnull), options))


def _begin(
    config: RunConfigT,
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    held: ExitStack,
    *,
    aside: bool,
) -> Checked:
    if config.run_dir is not None and not aside:
        check_run_dir(config.run_dir)
    config = _settled(config)
    recipe, _ = checked_recipe(config, make_recipe)
    options, environment = _environment(config, program)
    source = read_source(program)
    weights = None
    if config.init_from is not None:
        weights = read_initial(config.init_from / "params.safetensors", recipe)

    def make() -> Prepared:
        run_dir = config.run_dir
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
            text = f"--run-dir: another process has just begun a run in {run_dir}"
            raise Locked(text)
        if weights is not None:
            write_weights(run_dir / KEPT, *weights)
        write_json(run_dir / "source.json", source)
        write_json(run_dir / "environment.json", environment)
        # Last: a folder with this file can be resumed.
        write_config(run_dir, config, experiment=program.name)
        return Prepared(recipe, run_dir, options, weights)

    return Checked(config, make)


def _resume(
    config: RunConfigT,
    record: dict[str, Any],
    make_recipe: Callable[[RunConfigT], Recipe],
    program: Program,
    held: ExitStack,
    accept_source: bool,
) -> Checked:
    run_dir: Path = config.run_dir  # pyright: ignore
    config = _with_threads(config, record)
    end = last_step(run_dir, record)
    check_unchanged(record, config, experiment=program.name, finished=end is not None)
    if end is not None and not asks_for_more(record, config):
        return Checked(config, None)
    if not accept_source:
        check_source(run_dir, program)
    held.enter_context(lock(run_dir))
    recipe, total = checked_recipe(config, make_recipe)
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

    prepared = Prepared(recipe, run_dir, options, weights, first_step, on_start)
    return Checked(config, lambda: prepared)


def checked_recipe(
    config: RunConfigT, make_recipe: Callable[[RunConfigT], Recipe]
) -> tuple[Recipe, int]:
    """Return the recipe and the number of steps."""
    recipe, batch_size = make_recipe(config), config.batch_size
    recipe = hold_out(recipe, config.validation, seed=config.seed)
    num_images = len(recipe.train.label)
    total = count_steps(num_images, batch_size=batch_size, epochs=config.epochs)
    recipe = cast_inputs(with_num_steps(recipe, total), config.dtype)
    recipe = check_recipe(
        recipe,
        batch_size=batch_size,
        accumulate=config.accumulate,
        patience=config.patience,
    )
    choose_devices(config.devices, batch_size=batch_size, accumulate=config.accumulate)
    return recipe, min(total, config.max_steps or total)


def check_tensorboard(config: RunConfig) -> None:
    """Raise OptionError if event files are wanted and tensorboardX is not installed."""
    try:
        if config.tensorboard:
            import_module(".tensorboard", __package__)
    except ModuleNotFoundError as error:
        raise OptionError(f"--tensorboard: {missing('tensorboard', error)}") from error


def _environment(config: RunConfig, program: Program) -> tuple[Options, dict[str, Any]]:
    """Return XLA's options and the description of the environment."""
    options = default_options(deterministic=config.deterministic)
    folder = program.file.parent if program.file else Path.cwd()
    found = describe_environment(folder, compiler_options=options)
    if config.devices != 1:  # sums over a batch depend on its division
        found["device"]["divided"] = {
            "devices": config.devices,
            "processes": jax.process_count(),
            "shard_parameters": config.shard_parameters,
        }
    return options, found


def _with_threads(config: RunConfigT, record: dict[str, Any]) -> RunConfigT:
    """Keep the number of threads that the run began with."""
    if config.threads is None:
        threads = record["config"].get("threads")
        if isinstance(threads, int):
            config = dataclasses.replace(config, threads=threads)
            check_config(config)
    return _settled(config)


def _settled(config: RunConfigT) -> RunConfigT:
    """Set the number of threads, and note it and that of the devices."""
    threads = use_threads(config.threads)
    count = count_devices(config.devices)
    return dataclasses.replace(config, threads=threads, devices=count)
