"""Going on with a run: whether it may, and what has changed since it began."""

import json
import sys
from pathlib import Path
from typing import Any

from .config import OptionError, config_to_json
from .environment import differences
from .journal import Journal, iterate_lines
from .run_folder import read_environment

# Another value of these gives the same bytes; of the data, the certificate knows more.
_FREE = ("run_dir", "data_dir", "begin_anew", "keep_memory", "keep_checkpoints")


def refuse_changes(record: dict[str, Any], config: Any, *, experiment: str) -> None:
    """Raise if a run was begun with other options than those that it is to go on with.

    Args:
        record: What `read_record` gives of the run's folder.
        config: The options now.
        experiment: Name of the module that runs it now.

    Raises:
        OptionError: With one line for each option that differs.

    >>> from jcnn.experiment.config import RunConfig
    >>> record = {"experiment": "digits", "config": config_to_json(RunConfig(seed=3))}
    >>> refuse_changes(record, RunConfig(seed=4), experiment="digits")
    Traceback (most recent call last):
        ...
    jcnn.experiment.config.OptionError: --run-dir: that run was begun otherwise:
      --seed: 3 -> 4
    """
    asked = config_to_json(config)
    old, new = (
        {name: value for name, value in options.items() if name not in _FREE}
        for options in (record["config"], asked)
    )
    lines = [
        f"--{_words(name.replace('_', '-'))}: {_words(before)} -> {_words(after)}"
        for name, (before, after) in differences(old, new).items()
    ]
    if record["experiment"] != experiment:
        lines.insert(0, f"experiment: {_words(record['experiment'])} -> {experiment}")
    if lines:
        raise OptionError(
            "\n  ".join(["--run-dir: that run was begun otherwise:", *lines])
        )


def is_finished(run_dir: Path) -> bool:
    """Whether a run has written its last line, and its weights are still there.

    >>> is_finished(Path("nowhere"))
    False
    """
    last = {}
    try:
        for _, line in iterate_lines(run_dir / "metrics.jsonl"):
            last = line
    except (FileNotFoundError, ValueError):
        return False
    ended = last.get("interrupted") is False
    return ended and (run_dir / "params.safetensors").is_file()


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


def _words(value: Any) -> str:
    """Also of strangers, so without what a terminal would obey."""
    plain = isinstance(value, str) and value.isprintable()
    return value if plain else json.dumps(value)
