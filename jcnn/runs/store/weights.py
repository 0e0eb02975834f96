"""Parameters and model state in one safetensors file, and back."""

import reprlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ..._files import write_file
from ..._untrusted import open_file

Tree = dict[str, Any]

MOST_BYTES = 1 << 40
_MOST_NAMES = 4 << 20  # bytes of the header: some thirty thousand arrays
_DEEPEST = 64  # dicts in dicts


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
        ValueError: If it is anything else than `write_weights` could have written.
        ModuleNotFoundError: If safetensors is not installed.

    See `write_weights` for an example.
    """
    tree: Tree = {"params": {}, "state": {}}
    for name, array in read_arrays(path).items():
        *parents, leaf = name.split("/")
        if not parents or parents[0] not in tree or len(parents) > _DEEPEST:
            raise ValueError(f"{path}: {reprlib.repr(name)} is no name of a weight")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or leaf in node:
            raise ValueError(f"{path}: {reprlib.repr(name)} is within another array")
        node[leaf] = array
    return tree["params"], tree["state"]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no safetensors file, or not all of one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.safetensors")
    ...     size = file.write_bytes(save({"a": np.ones(2, np.float32)}))
    ...     read_arrays(file)
    {'a': array([1., 1.], dtype=float32)}
    """
    with open_file(path, MOST_BYTES) as file:
        size = int.from_bytes(file.read(8), "little")
    if size > _MOST_NAMES:
        raise ValueError(f"{path}: header of {size} bytes; allowed: {_MOST_NAMES}")
    try:
        return load_file(path)
    except OSError:
        raise
    # What the package makes of damaged files cannot be listed.
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error


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
