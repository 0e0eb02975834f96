"""Arrays of one tree in the places of another, by names and with checks."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path
from jax.typing import ArrayLike

from .._layer import Layer, Params, State

_TOLERANCE = 1e-4  # of the largest output: what rounding in float32 may come to


def imported(
    layer: Layer,
    x: Any,
    y: ArrayLike | None,
    weights: Mapping[str, Any],
    place_of: Callable[[str], str],
) -> tuple[Params, State]:
    """Return params and state for layer, made of `weights` by path.

    Args:
        layer, x, y: As for `from_torch`.
        weights: The arrays of another library.
        place_of: Gives the path in weights for one of our arrays.
    """
    if y is not None:
        _check_inputs(x)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    ours = flat(shapes, 1)
    places = _places(ours, weights, place_of)
    arrays = [
        jnp.asarray(moved(weights[places[path]], path, places[path]), like.dtype)
        for path, like in ours.items()
    ]
    params, state = jax.tree.unflatten(jax.tree.structure(shapes), arrays)
    if y is not None:
        _check_outputs(layer, params, state, x, np.asarray(y))
    return params, state


def exported(
    params: Params,
    state: State,
    weights: Mapping[str, Any],
    place_of: Callable[[str], str],
) -> dict[str, jax.Array]:
    """Return our arrays in the shapes and dtypes, and by the paths, of `weights`.

    Raises:
        ValueError: As `_places`, or if two of our arrays have one place.
    """
    ours = flat((params, state), 1)
    places = _places(ours, weights, place_of)
    new = {}
    for path, place in places.items():
        if place in new:
            raise ValueError(
                f"names must give each part its own module, {path} has {place} too"
            )
        like, array = weights[place], moved(ours[path], path, place, back=True)
        new[place] = jnp.asarray(array.reshape(like.shape), like.dtype)
    return new


def _places(
    ours: Mapping[str, Any], weights: Mapping[str, Any], place_of: Callable[[str], str]
) -> dict[str, str]:
    """Return the path in `weights` of each of our arrays.

    Raises:
        ValueError: If there is none, not all are used, shapes differ, or arrays are
            not of floats, such as those of a quantized network.
    """
    places = {path: place_of(path) for path in ours}
    missing, shapes, dtypes = [], [], []
    for path, place in places.items():
        if place not in weights:
            missing.append(f"{place} ({path})")
            continue
        array = moved(weights[place], path, place)
        if array.shape != ours[path].shape:
            shapes.append(
                f"{place} (gives {array.shape}, {path} is {ours[path].shape})"
            )
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            dtypes.append(f"{place} ({array.dtype})")
    left = [path for path in weights if path not in set(places.values())]
    faults = {"missing": missing, "left over": left, "of another shape": shapes}
    faults["not of floats"] = dtypes
    if any(faults.values()):
        texts = (f"{what}: {_some(them)}" for what, them in faults.items() if them)
        raise ValueError(f"weights must be those of the layer; {'; '.join(texts)}")
    return places


def place(
    path: str,
    names: Mapping[str, str] | None,
    leaves: Mapping[str, str],
    separator: str = "/",
) -> str:
    """Return the path of our array `path` in a library.

    Args:
        path: Such as "stem/conv/kernel".
        names: Its modules for our parts. Without one a part keeps its path.
        leaves: Its names for our arrays, such as `{"kernel": "weight"}`.
        separator: Between the entries of its paths.
    """
    part, _, leaf = path.rpartition("/")
    module = (names or {}).get(part, part.replace("/", separator))
    return f"{module}{separator}{leaves.get(leaf, leaf)}".removeprefix(separator)


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 8} more" if len(paths) > 8 else ""
    return ", ".join(paths[:8]) + more


def moved(array: Any, path: str, place: str, *, back: bool = False) -> np.ndarray:
    """Return an array at `place` as ours at `path`, or if `back` ours as theirs."""
    array, name = np.asarray(array), path.rpartition("/")[2]
    if name == "kernel" and array.ndim > 1 and re.search(r"\bweight$", place):
        first, last = (0, 1), (-1, -2)  # outputs and inputs there, and here
        return (
            np.moveaxis(array, last, first) if back else np.moveaxis(array, first, last)
        )
    if name == "bias" and not back and set(array.shape[1:]) == {1}:
        return array.reshape(-1)  # Equinox has [O, 1, 1]
    return array


def _check_inputs(x: Any) -> None:
    if isinstance(x, jax.ShapeDtypeStruct) or x.dtype not in ("float32", "float64"):
        raise ValueError(
            "x must be an array of float32 or float64, whose outputs can be compared "
            f"with y, got {x.dtype} {type(x).__name__}"
        )
    if not x.size:
        raise ValueError(f"x must have at least one input, got shape {x.shape}")


def _check_outputs(
    layer: Layer, params: Params, state: State, x: Any, y: np.ndarray
) -> None:
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(layer.apply)(params, state, x)[0])
    if ours.shape != y.shape:
        raise ValueError(f"y must be the outputs {ours.shape} of layer, got {y.shape}")
    error, largest = np.abs(ours - y).max(), np.abs(y).max()
    if not error <= _TOLERANCE * largest:
        raise ValueError(
            f"y must be the outputs of layer, which differ by up to {error:.2g} where "
            f"the largest is {largest:.2g}: the arrays fit, but not the network. Usual "
            "causes: padding with strides, epsilon of norms, ceil_mode, the order of "
            "flatten (channels last here), transposed convolutions, and outputs of "
            "training"
        )


def flat(tree: Any, skipped: int = 0) -> dict[str, Any]:
    """Return the arrays of a tree by path, without the first entries of paths."""
    return {
        keystr(path[skipped:], simple=True, separator="/"): leaf
        for path, leaf in tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "dtype")
    }


def replaced(
    tree: Any, arrays: Mapping[str, jax.Array], path_of: Callable[[str], str]
) -> Any:
    def new(path, leaf):
        return arrays.get(path_of(keystr(path, simple=True, separator="/")), leaf)

    return jax.tree_util.tree_map_with_path(new, tree)
