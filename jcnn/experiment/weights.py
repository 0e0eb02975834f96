"""Parameters and model state in one safetensors file, and back."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from .._files import write_file

Tree = dict[str, Any]


def write_weights(path: Path, params: Tree, model_state: Tree) -> None:
    """Write parameters and model state under names such as `params/conv1/kernel`.

    The bytes depend on the arrays alone: the same arrays make the same file.

    Args:
        path: The `.safetensors` file, new or to be replaced.
        params: Nested dicts of arrays, `{"conv1": {"kernel": ...}}`.
        model_state: The same for what is no parameter, such as running statistics.

    Raises:
        ValueError: If a name holds a slash.

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
    """The parameters and the model state that `write_weights` has written.

    Args:
        path: The `.safetensors` file.

    Returns:
        Two nested dicts of NumPy arrays: `(params, model_state)`.

    Raises:
        FileNotFoundError: If there is no such file.

    See `write_weights` for an example.
    """
    tree: Tree = {"params": {}, "state": {}}
    for name, array in load_file(path).items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree["params"], tree["state"]


def _flatten(tree: Tree, prefix: str = "") -> dict[str, np.ndarray]:
    arrays = {}
    for name, value in tree.items():
        if "/" in name:
            raise ValueError(f"name {name!r} holds a slash, which parts the names")
        if isinstance(value, dict):
            arrays |= _flatten(value, f"{prefix}{name}/")
        else:
            # safetensors writes the memory as it lies: only C order reads back right.
            arrays[prefix + name] = np.asarray(value, order="C")
    return arrays
