"""What a result depends on beside code and configuration: versions, device, commit."""

import json
import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import jax

import jcnn

from ..compilation import Options
from .threads import usable_cores


def describe_environment(
    code_dir: Path, *, compiler_options: Options | None = None
) -> dict[str, Any]:
    """Versions, device, threads, options of JAX and XLA, and the commit of the code.

    Args:
        code_dir: A folder of the repository that holds the experiment.
        compiler_options: XLA's, that the experiment's programs are compiled with; None
            if there are none.

    Returns:
        Names to JSON values. `distributions` are all that are installed. `commit` is
        None outside of a git repository, and `dirty` tells whether the files differ
        from the commit.

    >>> import pathlib
    >>> describe_environment(pathlib.Path("."))["device"]["count"] >= 1
    True
    """
    devices = jax.devices()
    commit = _git(code_dir, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(code_dir, "status", "--porcelain")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": {"all": os.cpu_count(), "usable": usable_cores()},
        "jcnn": jcnn.__version__,
        "distributions": _distributions(),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "compiler_options": dict(compiler_options or {}),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS"),
        "jax_config": {k: _to_json(v) for k, v in sorted(jax.config.values.items())},
        "commit": commit,
        "dirty": None if commit is None else changes != "",
    }


def differences(
    recorded: dict[str, Any], current: dict[str, Any], prefix: str = ""
) -> dict[str, list[Any]]:
    """Where two nested dicts differ.

    Returns:
        Names such as `device.count` to both values; None stands for none.

    >>> differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": 4}})
    {'b.c': [2, 3], 'b.d': [None, 4]}
    """
    found: dict[str, list[Any]] = {}
    for name in sorted(recorded.keys() | current.keys()):
        old, new = recorded.get(name), current.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found[prefix + name] = [old, new]
    return found


def _distributions() -> dict[str, str]:
    """All that is installed; of two of one name the first is imported."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name is not None:  # what is left of a broken installation has no name
            found.setdefault(name.lower(), distribution.version)
    return dict(sorted(found.items()))


def _to_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)


def _git(code_dir: Path, *arguments: str) -> str | None:
    """What git prints, or None if it fails, is absent or takes very long."""
    command = ["git", "-C", str(code_dir), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
