"""State dicts of PyTorch, and torchvision's names of residual networks."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax  # noqa: F401  # for the examples
import jax.numpy as jnp  # noqa: F401
import numpy as np
from jax.typing import ArrayLike

from .._layer import Layer, Params, State
from .trees import flat, imported, moved, place

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def from_torch(
    layer: Layer,
    x: Any,
    state_dict: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    y: ArrayLike | None = None,
) -> tuple[Params, State]:
    """Return the parameters and state that a PyTorch state dict holds.

    Args:
        layer: A network of the same architecture. Without `names` one of jcnn's
            residual networks with padding="SYMMETRIC", whose arrays have the names of
            torchvision's in `state_dict`.
        x: Images [N, H, W, C], float32 or float64 if there is a y, since others round
            by more than is allowed. Without y a `jax.ShapeDtypeStruct` will do.
        state_dict: Tensors on the CPU, not of bfloat16, or NumPy arrays by name:
            `model.state_dict()` or `safetensors.numpy.load_file(path)`.
            "num_batches_tracked" is ignored: PyTorch uses it only without a momentum.
        names: Of any other network: PyTorch's module for each part, such as
            `{"conv1": "features.0"}`. A part that is not in it has the same name.
        y: The outputs of the PyTorch model in evaluation for x, with channels last.
            They must be given with `names`.

    Raises:
        TypeError: If state_dict is no mapping: a module, or the path of a file.
        ValueError: If a name is missing or left over, a shape differs, an array is not
            of floats, the layer pads as PyTorch does not, or outputs differ by more
            than 1e-4 of the largest.

    >>> from jcnn.layers import Dense
    >>> weights = {"fc.weight": np.float32([[1, 2]]), "fc.bias": np.float32([3])}
    >>> x, y = np.float32([[1, 1]]), [[6.0]]
    >>> from_torch(Dense(1), x, weights, names={"": "fc"}, y=y)[0]["kernel"].ravel()
    Array([1., 2.], dtype=float32)
    """
    if names is not None and y is None:
        raise ValueError("y must be given with names: outputs for x, to be compared")
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping, got {type(state_dict)}")
    weights = {
        name: array
        for name, array in state_dict.items()
        if name.rpartition(".")[2] != "num_batches_tracked"
    }
    place_of = partial(place, names=names, leaves=_LEAVES, separator=".")
    return imported(layer, x, y, weights, _torchvision if names is None else place_of)


def to_torch(params: Params, state: State) -> dict[str, np.ndarray]:
    """Return a state dict with torchvision's names of a residual network.

    PyTorch loads it with `strict=True` as tensors:
    `{name: torch.from_numpy(array) for name, array in weights.items()}`, and
    `safetensors.numpy.save_file` writes it.

    Args:
        params, state: Of one of jcnn's residual networks with padding="SYMMETRIC".

    Raises:
        ValueError: If they are of anything else, or do not belong together.

    >>> from jcnn.models import resnet20
    >>> layer = resnet20(padding="SYMMETRIC")
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    >>> shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    >>> params, state = jax.tree.map(lambda a: jnp.zeros(a.shape), shapes)
    >>> weights = to_torch(params, state)
    >>> weights["layer1.0.conv1.weight"].shape, weights["fc.weight"].shape
    ((16, 16, 3, 3), (10, 64))
    """
    arrays = flat((params, state), 1)
    weights = {}
    for path, array in arrays.items():
        name = _torchvision(path)
        part, _, leaf = path.rpartition("/")
        for needed in ("scale", "bias", "mean", "var") * (leaf in ("scale", "mean")):
            if f"{part}/{needed}" not in arrays:
                raise ValueError(f"params or state has no array {part}/{needed}")
        weights[name] = np.array(moved(array, path, name, back=True), order="C")
        if leaf == "mean":
            count = name.replace("running_mean", "num_batches_tracked")
            weights[count] = np.array(0, np.int64)
    return weights


def _torchvision(path: str) -> str:
    """Return torchvision's name for an array of a residual network."""
    part = path.rpartition("/")[0]
    names = {"stem/conv": "conv1", "stem/norm": "bn1", "head": "fc"}
    block = re.fullmatch(
        r"layer(\d+)_block(\d+)/sum/(?:body/(conv|norm)(\d)|shortcut/(conv|norm))", part
    )
    if block is not None:
        stage, number, kind, i, shortcut = block.groups()
        inside = f"downsample.{int(shortcut == 'norm')}" if shortcut else f"{kind}{i}"
        inside = inside.replace("norm", "bn")
        names[part] = f"layer{stage}.{int(number) - 1}.{inside}"
    if part not in names:
        raise ValueError(
            "torchvision has names for residual networks of jcnn.models with "
            f"padding='SYMMETRIC', which is PyTorch's, but none for {part!r}"
        )
    return place(path, names, _LEAVES, ".")
