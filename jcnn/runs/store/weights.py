"""Parameters and model state in one safetensors file."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ..._files import open_file, write_file

Tree = dict[str, Any]

_MOST_BYTES = 1 << 40


def write_weights(path: Path, params: Tree, model_state: Tree) -> None:
    """Write parameters and model state under names such as `params/conv1/kernel`.

    The same arrays give the same bytes.

    Args:
        path: The `.safetensors` file, new or to be replaced.
        params: Nested dicts of arrays, such as `{"conv1": {"kernel": ...}}`.
        model_state: The same, such as running statistics.

    Raises:
        ValueError: If a name contains a slash.

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> params = {"conv1": {"kernel": np.ones((3, 3, 1, 8), np.float32)}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "params.safetensors")
    ...     write_weights(file, params, {})
    ...     read_params, read_state = read_weights(file)
    >>> read_params["conv1"]["kernel"].shape, read_state
    ((3, 3, 1, 8), {})
    """
    arrays = _flatten({"params": params, "state": model_state})
    write_file(path, save(dict(sorted(arrays.items()))))


def read_weights(path: Path) -> tuple[Tree, Tree]:
    """Read what `write_weights` has written, with NumPy and safetensors alone.

    Returns:
        `(params, model_state)`, two nested dicts of NumPy arrays. See `write_weights`
        for an example.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `write_weights` cannot have written it.
        ModuleNotFoundError: If safetensors is not installed.
    """
    tree: Tree = {"params": {}, "state": {}}
    for name, array in read_arrays(path).items():
        *parents, leaf = name.split("/")
        node: Any = tree if parents and parents[0] in tree else None
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf in node:
            raise ValueError(f"{path}: unexpected array {name!r}")
        node[leaf] = array
    return tree["params"], tree["state"]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file; ValueError if it is not a complete one."""
    open_file(path, _MOST_BYTES).close()
    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise ValueError(f"{path}: {error}") from error


def _flatten(tree: Tree, prefix: str = "") -> dict[str, np.ndarray]:
    arrays = {}
    for name, value in tree.items():
        if "/" in name:
            raise ValueError(f'parameter names must not contain "/", got {name!r}')
        if isinstance(value, dict):
            arrays |= _flatten(value, f"{prefix}{name}/")
        else:
            # safetensors writes the memory as it is: only C order is read back right.
            arrays[prefix + name] = np.asarray(value, order="C")
    return arrays
