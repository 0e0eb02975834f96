"""Initial weights from another run."""

from pathlib import Path
from typing import Any

import jax

from .._layer import leaf_name
from ..layers import Params, State
from .config import OptionError
from .recipe import Recipe, network_inputs
from .store.weights import read_weights

KEPT = "init.safetensors"  # a run's own copy


def read_initial(path: Path, recipe: Recipe) -> tuple[Params, State]:
    """Read parameters and model state from a safetensors file.

    Raises:
        OptionError: If it cannot be read, or has other names, shapes or dtypes than the
            recipe's layer.

    >>> read_initial(Path("nowhere", "params.safetensors"), None)
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: --init-from: [Errno 2] No such file or
    directory: 'nowhere/params.safetensors'
    """
    try:
        params, state = read_weights(path)
    except (OSError, ValueError) as error:
        raise OptionError(f"--init-from: {error}") from error
    found = _by_name({"params": params, "state": state})
    init, inputs = recipe.layer.init, network_inputs(recipe)
    params, state = jax.eval_shape(init, jax.random.key(0), inputs)
    tree = {"params": params, "state": state}
    wanted = _by_name(tree)
    wrong = [
        f"{name}: {_described(found.get(name))} -> {_described(wanted.get(name))}"
        for name in sorted(found.keys() | wanted.keys())
        if _described(found.get(name)) != _described(wanted.get(name))
    ]
    if wrong:
        text = [f"--init-from: {path} is of another model:", *wrong[:20]]
        text += [f"{len(wrong) - 20} more"] if len(wrong) > 20 else []
        raise OptionError("\n  ".join(text))
    tree = jax.tree.structure(tree).unflatten([found[name] for name in wanted])
    return tree["params"], tree["state"]


def _by_name(tree: Any) -> dict[str, Any]:
    return {leaf_name(path): x for path, x in jax.tree.leaves_with_path(tree)}


def _described(x: Any) -> str:
    return "none" if x is None else f"{x.dtype}{list(x.shape)}"
