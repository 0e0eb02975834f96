"""Resuming a run: checks, and records of what has changed since it began."""

import sys
from pathlib import Path
from typing import Any

from ..._files import expand_home
from ..config import OptionError
from ..config_json import config_from_json, config_to_json, map_paths
from ..output import in_line
from ..program import Program, same_program
from ..store.checkpoints import saved_steps
from ..store.folder import read_environment, write_json
from ..store.journal import Journal, iterate_lines
from .environment import differences
from .source import compare_source, recorded_source, write_source

# Another value of these gives the same bytes, but for the devices, of which the
# environment tells; the certificate checks the data.
FREE = (
    "devices",
    "shard_parameters",
    "run_dir",
    "data_dir",
    "coordinator",
    "num_processes",
    "process_id",
    "as_recorded",
    "accept_source",
    "begin_anew",
    "report",
    "tensorboard",
    "profile",
    "keep_memory",
    "keep_checkpoints",
)
_ENDS = ("epochs", "max_steps")  # a finished run can get another end


def check_unchanged(
    record: dict[str, Any], config: Any, *, experiment: str, finished: bool = False
) -> None:
    """Raise if a run was started with another program or other options.

    Args:
        record: The run's `read_record`.
        config: The options now.
        experiment: The name of the program now.
        finished: Whether the run has ended, and may get another end.

    Raises:
        OptionError: With one line for each option that differs.

    >>> from jcnn.runs.config import RunConfig
    >>> record = {"experiment": "digits", "config": config_to_json(RunConfig(seed=3))}
    >>> check_unchanged(record, RunConfig(seed=4), experiment="digits")
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: --run-dir: that run was started with other options:
      --seed: 3 -> 4
    """
    try:  # options that are newer than the run have their defaults
        recorded = _resolved(config_from_json(type(config), record["config"]))
    except (OSError, ValueError):
        recorded = record["config"]
    changed = differences(recorded, _resolved(config))
    for name in (*FREE, *_ENDS) if finished else FREE:
        changed.pop(name, None)
    lines = [
        f"--{in_line(name.replace('_', '-'))}: {in_line(before)} -> {in_line(after)}"
        for name, (before, after) in changed.items()
    ]
    if not same_program(record["experiment"], experiment):
        lines.insert(0, f"experiment: {in_line(record['experiment'])} -> {experiment}")
    if not lines:
        return
    if changed.keys() & set(_ENDS):
        lines.append("a run can be made longer when it has ended")
    title = "--run-dir: that run was started with other options:"
    raise OptionError("\n  ".join([title, *lines]))


def asks_for_more(record: dict[str, Any], config: Any) -> bool:
    """Return whether the options give a run another end than it had."""
    return any(record["config"].get(n) != getattr(config, n) for n in _ENDS)


def check_longer(run_dir: Path, *, end: int, total: int) -> None:
    """Raise if a run that ended after step `end` cannot be made to end after `total`.

    Raises:
        OptionError: If that is not later, or there is no checkpoint of its end.
    """
    if total <= end:
        raise OptionError(
            f"--run-dir: that run has done {end} steps: --epochs and --max-steps must "
            f"give more, got {total}"
        )
    if end not in saved_steps(run_dir / "checkpoints"):
        raise OptionError(
            f"--run-dir: there is no checkpoint of step {end} to resume from"
        )


def lengthen(
    run_dir: Path, record: dict[str, Any], config: Any, *, end: int, total: int
) -> None:
    """Write the options of a longer run to `config.json`, and its end so far."""
    old = config_from_json(type(config), record["config"])
    before, after = ({n: getattr(c, n) for n in _ENDS} for c in (old, config))
    values = record | {"config": record["config"] | after}
    values["lengthened"] = [*record["lengthened"], before | {"step": end}]
    write_json(run_dir / "config.json", values)
    print(
        f"the run is made longer: from step {end} of {total} on its schedules are "
        f"those of a run of {config.epochs} epochs",
        file=sys.stderr,
    )


def last_step(run_dir: Path, record: dict[str, Any]) -> int | None:
    """Return the step that a run ended with; None if it has not, or is incomplete."""
    last = {}
    try:
        for _, line in iterate_lines(run_dir / "metrics.jsonl"):
            last = line
    except (FileNotFoundError, ValueError):
        return None
    before = max([end["step"] for end in record["lengthened"]], default=-1)
    step = last.get("step")
    ended = last.get("interrupted") is False and type(step) is int and step > before
    return step if ended and (run_dir / "params.safetensors").is_file() else None


def check_source(run_dir: Path, program: Program) -> None:
    """Raise OptionError with the lines that differ from a run's source, if any."""
    try:
        recorded = recorded_source(run_dir)
    except (OSError, ValueError) as error:
        raise OptionError(f"--run-dir: {error}") from error
    if recorded is None:
        print(f"{run_dir} has no source.json to compare with", file=sys.stderr)
    elif lines := compare_source(recorded, program):
        title = "--run-dir: the source is not that which this run began with:"
        advice = "--accept-source resumes with the source as it is now, and records it"
        raise OptionError("\n  ".join([title, *lines, advice]))


def note_source(run_dir: Path, source: dict[str, Any], step: int) -> None:
    """Record a source that differs from the one of the first `step` steps."""
    recorded = recorded_source(run_dir)
    if recorded is None:
        write_source(run_dir, source)
        return
    old, new = (
        {f"source of {name}": file["sha256"][:8] for name, file in s["files"].items()}
        for s in (recorded, source)
    )
    changed = differences(old, new)
    if changed:
        name = write_source(run_dir, source)
        line = {"step": step, "source": name, "differences": changed}
        Journal(run_dir / "resumed.jsonl").append(line)
        text = f"the source is another one from step {step} on: see {name}"
        print(text, file=sys.stderr)


def note_environment(run_dir: Path, environment: dict[str, Any], step: int) -> None:
    """Print and record how the environment differs from the one that a run began in."""
    changed = differences(read_environment(run_dir) or {}, environment)
    if not changed:
        return
    line = {"step": step, "differences": changed}
    Journal(run_dir / "resumed.jsonl").append(line)
    text = [
        f"{in_line(name)}: {in_line(old)} -> {in_line(new)}"
        for name, (old, new) in changed.items()
    ]
    if len(text) > 5:
        text[4:] = [f"{len(text) - 4} more, see resumed.jsonl"]
    print(f"the environment has changed: {', '.join(text)}", file=sys.stderr)


def _resolved(config: Any) -> dict[str, Any]:
    """Return the options with absolute paths, without symbolic links."""
    return config_to_json(map_paths(lambda p: expand_home(p).resolve(), config))
