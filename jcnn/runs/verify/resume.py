"""Going on with a run: whether it may, and what has changed since it began."""

import json
import sys
from pathlib import Path
from typing import Any

from ..._files import expand_home
from ..config import OptionError, config_from_json, config_to_json, map_paths
from ..program import Program, same_program
from ..store.checkpoints import saved_steps
from ..store.folder import read_environment, write_json
from ..store.journal import Journal, iterate_lines
from .environment import differences
from .source import compare_source, recorded_source, write_source

# Another value of these gives the same bytes; of the data, the certificate knows more.
_FREE = (
    "run_dir",
    "data_dir",
    "as_recorded",
    "accept_source",
    "begin_anew",
    "keep_memory",
    "keep_checkpoints",
)
# A run that has come to its end may be given another one.
_ENDS = ("epochs", "max_steps")


def refuse_changes(
    record: dict[str, Any], config: Any, *, experiment: str, finished: bool = False
) -> None:
    """Raise if a run was begun with other options than those that it is to go on with.

    Two paths of one place are the same.

    Args:
        record: What `read_record` gives of the run's folder.
        config: The options now.
        experiment: Name of the program that runs it now.
        finished: Whether it has come to its end, which may be another one now.

    Raises:
        OptionError: With one line for each option that differs.

    >>> from jcnn.runs.config import RunConfig
    >>> record = {"experiment": "digits", "config": config_to_json(RunConfig(seed=3))}
    >>> refuse_changes(record, RunConfig(seed=4), experiment="digits")
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: --run-dir: that run was begun otherwise:
      --seed: 3 -> 4
    """
    free = (*_FREE, *_ENDS) if finished else _FREE
    old, new = (
        {name: value for name, value in options.items() if name not in free}
        for options in (_recorded(record, type(config)), _placed(config))
    )
    changed = differences(old, new)
    lines = [
        f"--{_words(name.replace('_', '-'))}: {_words(before)} -> {_words(after)}"
        for name, (before, after) in changed.items()
    ]
    if not same_program(record["experiment"], experiment):
        lines.insert(0, f"experiment: {_words(record['experiment'])} -> {experiment}")
    if not lines:
        return
    if changed.keys() & set(_ENDS):
        lines.append("a run can be made longer when it has come to its end")
    raise OptionError("\n  ".join(["--run-dir: that run was begun otherwise:", *lines]))


def asks_for_more(record: dict[str, Any], config: Any) -> bool:
    """Whether a finished run is to have another end than it had."""
    return any(record["config"].get(n) != getattr(config, n) for n in _ENDS)


def refuse_shorter(run_dir: Path, *, end: int, total: int) -> None:
    """Raise if a run that has ended cannot be made so long.

    Args:
        run_dir: The run's folder.
        end: The step that it ended with.
        total: The step that it is to end with.

    Raises:
        OptionError: If that is not later, or the state of its end is not there.
    """
    if total <= end:
        raise OptionError(
            f"--run-dir: that run has done {end} steps, and --epochs and --max-steps "
            f"end it after {total}; allowed are more"
        )
    if end not in saved_steps(run_dir / "checkpoints"):
        raise OptionError(
            f"--run-dir: there is no checkpoint of step {end} to go on from"
        )


def lengthen(
    run_dir: Path, record: dict[str, Any], config: Any, *, end: int, total: int
) -> None:
    """Give a run that has ended another end; what it was is recorded.

    Args:
        run_dir: The run's folder.
        record: What `read_record` gives of it.
        config: The options now.
        end: The step that it ended with.
        total: The step that it is to end with.
    """
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
    """The step that a run ended with, if it has come to its end and all of it is there.

    Args:
        run_dir: The run's folder.
        record: What `read_record` gives of it: a run that was made longer has not ended
            where it had ended before.
    """
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


def refuse_other_source(run_dir: Path, program: Program) -> None:
    """Raise if the source of a run is not that which it began with; see `.source`.

    Raises:
        OptionError: With the lines that differ, or if what is recorded cannot be read.
    """
    try:
        recorded = recorded_source(run_dir)
    except (OSError, ValueError) as error:
        raise OptionError(f"--run-dir: {error}") from error
    if recorded is None:
        print(
            f"{run_dir} has no source.json: its source may be another one now",
            file=sys.stderr,
        )
        return
    lines = compare_source(recorded, program)
    if lines:
        raise OptionError(
            "\n  ".join(
                [
                    "--run-dir: the source is not that which this run began with:",
                    *lines,
                    "--accept-source goes on with it as it is now, and records that",
                ]
            )
        )


def note_source(run_dir: Path, source: dict[str, Any], step: int) -> None:
    """Write to the run's folder, and to `resumed.jsonl`, a source that is another one.

    Args:
        run_dir: The run's folder.
        source: What `read_source` says now.
        step: Number of steps that were done with the source before.
    """
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
        print(
            f"the source is another one from step {step} on: see {name}",
            file=sys.stderr,
        )


def note_environment(run_dir: Path, environment: dict[str, Any], step: int) -> None:
    """Tell and write to `resumed.jsonl` how the environment differs from the first one.

    Args:
        run_dir: The run's folder, with the `environment.json` that it began with.
        environment: What `describe_environment` says now.
        step: Number of steps that were done in other environments.
    """
    changed = differences(read_environment(run_dir) or {}, environment)
    if changed:
        line = {"step": step, "differences": changed}
        Journal(run_dir / "resumed.jsonl").append(line)
        text = [
            f"{_words(name)}: {_words(old)} -> {_words(new)}"
            for name, (old, new) in changed.items()
        ]
        if len(text) > 5:
            text[4:] = [f"{len(text) - 4} more, see resumed.jsonl"]
        print(f"the environment has changed: {', '.join(text)}", file=sys.stderr)


def _recorded(record: dict[str, Any], config_type: type) -> dict[str, Any]:
    """The recorded options, with the defaults of those that there were not yet."""
    try:
        return _placed(config_from_json(config_type, record["config"]))
    except (OSError, ValueError):
        return record["config"]


def _placed(config: Any) -> dict[str, Any]:
    """The options with whole paths, of which a place has but one."""
    return config_to_json(map_paths(lambda p: expand_home(p).resolve(), config))


def _words(value: Any) -> str:
    """Also of strangers, so without what a terminal would obey."""
    plain = isinstance(value, str) and value.isprintable()
    return value if plain else json.dumps(value)
