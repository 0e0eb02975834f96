"""What a result depends on beside code and configuration: versions, device, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import jcnn

from ..compilation import default_options


def describe_environment(code_dir: Path) -> dict[str, Any]:
    """Versions, device, XLA's flags, and the commit of the code, as JSON values.

    Args:
        code_dir: A folder of the repository that holds the experiment.

    Returns:
        Names to values. `commit` is None outside of a git repository, and `dirty`
        tells whether the files differ from the commit.

    >>> import pathlib
    >>> describe_environment(pathlib.Path("."))["device"]["count"] >= 1
    True
    """
    devices = jax.devices()
    commit = _git(code_dir, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(code_dir, "status", "--porcelain")
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "optax": version("optax"),
        "numpy": version("numpy"),
        "jcnn": jcnn.__version__,
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "compiler_options": default_options(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS"),
        "commit": commit,
        "dirty": None if commit is None else changes != "",
    }


def _git(code_dir: Path, *arguments: str) -> str | None:
    """What git prints, or None if it fails, is absent or takes very long."""
    command = ["git", "-C", str(code_dir), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
