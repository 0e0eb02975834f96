"""The environment of a run: versions, device, options of JAX and XLA, commit."""

import json
import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import jax

import jcnn

from ..._files import write_file
from ...compilation import Options
from ...engine.onednn.support import is_default
from ..threads import usable_cores

_CHANGES_NO_BITS = "cache|dump"  # options of JAX: where programs are kept and written
# Variables that change what git does in a repository; hooks and aliases set others.
_KEPT_BY_GIT = re.compile("GIT_(CEILING|CONFIG|DISCOVERY|SSH|TRACE)")


def describe_environment(
    code_dir: Path, *, compiler_options: Options | None = None
) -> dict[str, Any]:
    """Describe the environment as JSON values.

    Args:
        code_dir: A folder of the experiment's repository. Variables such as GIT_DIR, by
            which git hooks name another one, are ignored.
        compiler_options: The experiment's options of XLA.

    Returns:
        Names to values. `commit` and `dirty` are None outside of a git repository.

    >>> import pathlib
    >>> describe_environment(pathlib.Path("."))["device"]["count"] >= 1
    True
    """
    devices = jax.devices()
    commit = git(code_dir, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = git(code_dir, "status", "--porcelain")
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
        "onednn": is_default(),  # its convolutions have other bits
        "jax_config": {
            name: _to_json(value)
            for name, value in sorted(jax.config.values.items())
            if not re.search(_CHANGES_NO_BITS, name)
        },
        "commit": None if commit is None else commit.decode(),
        "dirty": None if commit is None else changes != b"",
    }


def hide_from_git(folder: Path) -> None:
    """Make git ignore a folder by a `.gitignore` in it, unless there is one."""
    path = folder / ".gitignore"
    if not path.exists():
        write_file(path, b"*\n")


def differences(
    recorded: dict[str, Any], current: dict[str, Any], prefix: str = ""
) -> dict[str, list[Any]]:
    """Return names such as `device.count` to both values where two nested dicts differ.

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


def git(folder: Path, *arguments: str) -> bytes | None:
    """Return git's stripped output; None if it fails, is absent, or takes 20 s."""
    command = ["git", "-C", str(folder), *arguments]
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or _KEPT_BY_GIT.match(name)
    }
    # Another process may work in the repository: the index must not be written.
    variables["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        result = subprocess.run(command, env=variables, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _distributions() -> dict[str, str]:
    """Return what is installed; of two with one name the first is imported."""
    found: dict[str, str] = {}
    for distribution in distributions():
        with suppress(Exception):  # remains of broken installations
            metadata = distribution.metadata  # which is parsed at each access
            if name := metadata["Name"]:
                found.setdefault(name.lower(), metadata["Version"])
    return dict(sorted(found.items()))


def _to_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)
