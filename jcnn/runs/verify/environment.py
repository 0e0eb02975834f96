"""What a result depends on beside code and configuration: versions, device, commit."""

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

# Options of JAX: where programs are kept and written to, and which.
_CHANGES_NO_BITS = "cache|dump"
# What git hooks, aliases and `git rebase --exec` set; `code_dir` may be elsewhere.
_OF_A_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)


def describe_environment(
    code_dir: Path, *, compiler_options: Options | None = None
) -> dict[str, Any]:
    """Versions, device, threads, options of JAX and XLA, and the commit of the code.

    Args:
        code_dir: A folder of the repository that holds the experiment; variables as
            GIT_DIR, by which git hooks name another one, do not count.
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
    """Let git take no notice of a folder, by an ignore file in it.

    A run's own output would otherwise be a change of the repository that it is run in.

    Args:
        folder: An existing folder. An ignore file that is there already stays.

    Raises:
        OSError: If the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hide_from_git(Path(folder))
    ...     print(Path(folder, ".gitignore").read_text(), end="")
    *
    """
    path = folder / ".gitignore"
    if not path.exists():
        write_file(path, b"*\n")


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


def git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints of the repository of a folder.

    Returns:
        Bytes, since names of files need not be text, without what is white around them;
        None if git fails, is absent or takes very long.

    >>> git(Path("/"), "no-such-command")
    """
    command = ["git", "-C", str(folder), *arguments]
    variables = {k: v for k, v in os.environ.items() if k not in _OF_A_REPOSITORY}
    # Somebody else may be at work in the repository: the index is not to be written.
    variables["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        result = subprocess.run(command, env=variables, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _distributions() -> dict[str, str]:
    """All that is installed; of two of one name the first is imported."""
    found: dict[str, str] = {}
    for distribution in distributions():
        # What is left of a broken installation has no name, or nothing to be read.
        with suppress(Exception):
            name, version = distribution.metadata["Name"], distribution.version
            if name:
                found.setdefault(name.lower(), version)
    return dict(sorted(found.items()))


def _to_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)
