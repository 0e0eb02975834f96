"""State dicts of PyTorch, and torchvision's names of residual networks."""

import re
from collections.abc import Mapping
from typing import Any

import jax  # noqa: F401  # for the examples
import jax.numpy as jnp  # noqa: F401
import numpy as np
from jax.typing import ArrayLike

from .._layer import Layer, Params, State
from .trees import NAMES, by_names, flat, moved, taken


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
        x: Images [N, H, W, C], or a `jax.ShapeDtypeStruct` if there is no y.
        state_dict: Tensors or NumPy arrays by name: `model.state_dict()` or
            `safetensors.numpy.load_file(path)`. "num_batches_tracked" is ignored:
            PyTorch uses it only without a momentum.
        names: Of any other network: PyTorch's module for each part, such as
            `{"conv1": "features.0"}`. A part that is not in it has the same name.
        y: The outputs of the PyTorch model in evaluation for x, with channels last.
            They must be given with `names`.

    Raises:
        ValueError: If a name is missing or left over, a shape differs, the layer pads
            as PyTorch does not, or outputs differ by more than 1e-4 of the largest.

    >>> from jcnn.layers import Dense
    >>> weights = {"fc.weight": np.float32([[1, 2]]), "fc.bias": np.float32([3])}
    >>> x, y = np.float32([[1, 1]]), [[6.0]]
    >>> from_torch(Dense(1), x, weights, names={"": "fc"}, y=y)[0]["kernel"].ravel()
    Array([1., 2.], dtype=float32)
    """
    if names is not None and y is None:
        raise ValueError("y must be given with names: outputs for x, to be compared")
    weights = {
        name.replace(".", "/"): array
        for name, array in state_dict.items()
        if name.rpartition(".")[2] != "num_batches_tracked"
    }
    return taken(
        layer, x, y, weights, _torchvision if names is None else by_names(names)
    )


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
        part, _, name = path.rpartition("/")
        module = _torchvision(part)
        for needed in ("scale", "bias", "mean", "var") * (name in ("scale", "mean")):
            if f"{part}/{needed}" not in arrays:
                raise ValueError(f"params or state has no array {part}/{needed}")
        their_name = f"{module}.{NAMES.get(name, (name,))[-1]}"
        weights[their_name] = np.array(
            moved(array, path, their_name, back=True), order="C"
        )
        if name == "mean":
            weights[f"{module}.num_batches_tracked"] = np.array(0, np.int64)
    return weights


def _torchvision(part: str) -> str:
    """Return torchvision's name for a part of a residual network."""
    ends = {"stem/conv": "conv1", "stem/norm": "bn1", "head": "fc"}
    if part in ends:
        return ends[part]
    block = re.fullmatch(
        r"layer(\d+)_block(\d+)/sum/(?:body/(conv|norm)(\d)|shortcut/(conv|norm))", part
    )
    if block is None:
        raise ValueError(
            "without names the layer must be a residual network of jcnn.models with "
            f"padding='SYMMETRIC', as PyTorch pads; {part!r} is no part of one"
        )
    stage, number, kind, i, shortcut = block.groups()
    inside = f"downsample.{int(shortcut == 'norm')}" if shortcut else f"{kind}{i}"
    return f"layer{stage}.{int(number) - 1}.{inside.replace('norm', 'bn')}"
