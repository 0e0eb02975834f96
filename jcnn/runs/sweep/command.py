"""`python -m experiments.digits sweep`: train all members and print their table.

Each member has a subfolder. Members that differ in seeds and in numbers that may be
arrays are trained by one program where that is faster: see `stacked`. Otherwise each is
a run of its own, one after the other. The same command resumes a sweep.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ..._files import expand_home, read_object
from ...compilation import default_options
from ...data import is_streamed
from ..compiled import keep_programs
from ..config import OptionError, check_config
from ..config_json import config_to_json, map_paths
from ..lock import lock
from ..loop import tell
from ..memory import keep_memory
from ..output import reason_of
from ..progress import open_console, say
from ..recipe import Recipe
from ..start import check_tensorboard
from ..stepping import count_steps
from ..store.folder import make_run_dir, read_metrics, write_config, write_json
from ..threads import use_threads
from ..verify.certificate import data_line
from ..verify.resume import check_source
from ..verify.source import read_source
from .members import Member, make_members, parse, replace, varied, why_apart
from .results import result_of, results_table, summarize_results, write_results
from .stacked import fit_together, step_work

# Together, tiny steps are a third faster, others a tenth slower (2 cores of an AMD EPYC
# with AVX-512); but a run of its own takes some seconds to start.
TINY_STEP, SHORT_RUN = 15_000_000, 10**12  # multiply-adds of a member, forward


def run_sweep(
    arguments: Sequence[str],
    *,
    read: Callable[[list[str]], Any],
    make: Callable[[Any], Recipe],
    run: Callable[[Any], int],
    program: Any,
) -> int:
    """Train the members that the command line asks for; return the exit status.

    Args:
        arguments: The command line behind "sweep".
        read: Function from a command line to the options of a run.
        make: Function from options to the checked recipe of a run.
        run: Function that trains with options and returns an exit status.
        program: The experiment's program.

    Raises:
        OptionError: If an option cannot be used; nothing was written then.
    """
    sweep = parse(arguments, program.command)
    members = make_members(sweep, lambda line: map_paths(expand_home, read(line)))
    for member in members:
        check_config(member.config)
    config = members[0].config
    for option in ("as_recorded", "begin_anew", "profile", "coordinator"):
        if getattr(config, option):
            raise OptionError(f"--{option.replace('_', '-')} is for single runs only")
    check_tensorboard(config)
    threads = use_threads(config.threads)
    recipes = [make(config)]
    for member in members[sweep.seeds :: sweep.seeds]:  # of each combination of options
        make(member.config)  # what cannot be trained is found before anything is
    watch = recipes[0].watch or ""
    reason = _why_apart(sweep.together, members, recipes, make)
    if reason and sweep.together == "always":
        raise OptionError(f"--together: always is not possible, since {reason}")
    folder = _open(config, members, program)
    console, folders = open_console(), [folder / member.name for member in members]
    how = f"one after the other: {reason}" if reason else "together"
    with lock(folder):
        say(console, f"{len(members)} runs are trained {how}")
        if reason is None:
            status = _together(
                members, recipes, make, folder, folders, program, threads
            )
        else:
            recipes.clear()  # the data of all are not held while each is trained
            status = _apart(members, folders, run)
        if status > 1:
            return status
        rows = summarize_results(folder, members, watch)
        write_results(folder / "results.json", rows)
    console.print(results_table(rows, watch))
    say(console, f"everything is in {folder}")
    return status or int(any(row["failed"] for row in rows))


def _why_apart(
    together: str, members: Sequence[Member], recipes: list[Recipe], make
) -> str | None:
    """Return why the members are not trained by one program, None if they are.

    `recipes` has that of the first member; those of the others are appended if they are
    to be compared.
    """
    config, recipe = members[0].config, recipes[0]
    if reason := why_apart([member.config for member in members]):
        return reason
    if recipe.validation is not None:
        return "each is validated after each epoch"
    if is_streamed(recipe.train) or is_streamed(recipe.test):
        return "their images are streamed"
    if recipe.draw is not None:
        return "each draws pictures of its own"
    if together == "never":
        return "--together never"
    if together == "auto" and (reason := _too_large(config, recipe)):
        return reason
    recipes += [make(member.config) for member in members[1:]]
    data = [data_line(each.train, each.test, None) for each in recipes]
    if any(line != data[0] for line in data):
        return "their data differ"
    return _untraced(members, make)


def _too_large(config: Any, recipe: Recipe) -> str | None:
    work = step_work(recipe, config.batch_size)
    steps = count_steps(
        len(recipe.train.label), batch_size=config.batch_size, epochs=config.epochs
    )
    steps = min(steps, config.max_steps or steps)
    if work <= TINY_STEP or work * steps <= SHORT_RUN:
        return None
    return (
        f"{steps:,} steps of {work:,} multiply-adds take less time alone; together is "
        f"faster up to {TINY_STEP:,} a step or {SHORT_RUN:,} a run"
    )


def _untraced(members: Sequence[Member], make: Callable[[Any], Recipe]) -> str | None:
    """Return why the numbers that vary cannot be arrays, None if they can."""
    configs = [member.config for member in members]
    numbers = varied(configs)
    if not numbers:
        return None

    def traced(values):
        make(replace(configs[0], values))
        return 0

    try:
        jax.eval_shape(traced, {k: jnp.float32(v[0]) for k, v in numbers.items()})
    except Exception as error:  # a tracer has not all methods of a number
        return f"{', '.join(numbers)}: {reason_of(error)}"
    return None


def _open(config: Any, members: Sequence[Member], program: Any) -> Path:
    """Make the folder of the sweep, or find that of the same one."""
    run_dir: Path | None = config.run_dir
    content = {
        "experiment": program.name,
        "members": {m.name: config_to_json(m.config) for m in members},
    }
    for options in content["members"].values():
        del options["run_dir"], options["accept_source"], options["tensorboard"]
    if run_dir is not None and (run_dir / "sweep.json").exists():
        if read_object(run_dir / "sweep.json") != content:
            raise OptionError(
                f"--run-dir: {run_dir} holds a sweep with other members or options"
            )
        ended = all(result_of(run_dir / member.name) for member in members)
        if not (ended or config.accept_source):
            check_source(run_dir, program)
        return run_dir
    folder = make_run_dir(run_dir, name=f"{program.short_name}-sweep")
    write_json(folder / "source.json", read_source(program))
    write_json(folder / "sweep.json", content)
    return folder


def _together(
    members, recipes, make, folder: Path, folders: Sequence[Path], program, threads: int
) -> int:
    config = members[0].config
    if all(result_of(path) for path in folders):
        return 0
    if config.keep_memory:
        keep_memory()
    keep_programs()
    for member, path in zip(members, folders, strict=True):
        path.mkdir(exist_ok=True)
        own = replace(member.config, {"run_dir": path, "threads": threads})
        write_config(path, own, experiment=program.name)
    stopped = fit_together(
        [member.config for member in members],
        recipes,
        make,
        folder,
        folders,
        compiler_options=default_options(deterministic=config.deterministic),
    )
    if stopped:
        return 128 + stopped
    if config.tensorboard:
        from ..tensorboard import event_writer

        for path in folders:
            tell([event_writer(path)], read_metrics(path)[-1])
    return 0


def _apart(members, folders, run) -> int:
    """Run one member after the other; 1 if one has failed."""
    worst = 0
    for member, path in zip(members, folders, strict=True):
        if result_of(path) is None:
            status = run(replace(member.config, {"run_dir": path}))
            if status > 1:
                return status
            worst = max(worst, status)
    return worst
