"""Modules of Equinox, and the state of its batch norms."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path
from jax.typing import ArrayLike

from .._layer import Layer, Params, State
from .trees import exported, flat, imported, place, replaced

_LEAVES = {"kernel": "weight", "scale": "weight"}


def from_equinox(
    layer: Layer,
    x: ArrayLike,
    y: ArrayLike,
    model: Any,
    model_state: Any = None,
    *,
    names: Mapping[str, str] | None = None,
) -> tuple[Params, State]:
    """Return the parameters and state of an Equinox network.

    Args:
        layer: A network of the same architecture. Equinox pads by ints like PyTorch,
            both sides alike, unless told "SAME", and flattens with channels first.
        x: Inputs, float32 or float64, batched and with channels last.
        y: The outputs of the Equinox network for them in inference, channels last.
        model: The Equinox module.
        model_state: Its `eqx.nn.State`, if it has batch norms.
        names: Equinox's module for each part, such as `{"conv1": "layers/0"}`. A part
            that is not in it has the same name.

    Raises:
        ValueError: As `from_torch`.

    >>> from jcnn.layers import Dense
    >>> model = {"layers": [{"weight": jnp.ones((1, 2)), "bias": jnp.zeros(1)}]}
    >>> x, names = jnp.ones((1, 2)), {"": "layers/0"}
    >>> params, _ = from_equinox(Dense(1), x, [[2.0]], model, names=names)
    >>> params["kernel"].shape
    (2, 1)
    """
    weights = flat(model) | _statistics(model, model_state)
    place_of = partial(place, names=names, leaves=_LEAVES)
    return imported(layer, x, y, weights, place_of)


def to_equinox(
    params: Params,
    state: State,
    model: Any,
    model_state: Any = None,
    *,
    names: Mapping[str, str] | None = None,
) -> tuple[Any, Any]:
    """Return an Equinox model and its state with the arrays of params and state.

    Outputs cannot be compared here: compare those of the Equinox network.

    Args:
        params, state: Of a layer.
        model, model_state, names: As for `from_equinox`.

    Raises:
        ValueError: As `to_flax`.

    >>> model = {"layers": [{"weight": jnp.zeros((1, 2))}]}
    >>> params = {"kernel": jnp.ones((2, 1))}
    >>> model, _ = to_equinox(params, {}, model, names={"": "layers/0"})
    >>> model["layers"][0]["weight"]
    Array([[1., 1.]], dtype=float32)
    """
    weights = flat(model) | _statistics(model, model_state)
    place_of = partial(place, names=names, leaves=_LEAVES)
    new = exported(params, state, weights, place_of)
    # A copy, since setting an entry invalidates the old state.
    model_state = jax.tree.map(jnp.asarray, model_state)
    for path, norm in _batch_norms(model):
        statistics = new[f"{path}/mean"], new[f"{path}/var"]
        if norm.ema_state_index is not None:
            model_state = model_state.set(norm.ema_state_index, statistics)
            model_state = model_state.set(norm.ema_first_time_index, jnp.array(False))
        else:
            model_state = model_state.set(norm.batch_state_index, statistics)
            # So many updates that they are no longer divided by 1 - momentum**count.
            model_state = model_state.set(norm.batch_counter, jnp.array(2**30))
    return replaced(model, new, str), model_state


def _batch_norms(model: Any) -> list[tuple[str, Any]]:
    """Return Equinox's batch norms in a model, with their paths."""

    def is_norm(node):
        return hasattr(node, "ema_state_index")

    nodes = tree_flatten_with_path(model, is_leaf=is_norm)[0]
    return [
        (keystr(path, simple=True, separator="/"), node)
        for path, node in nodes
        if is_norm(node)
    ]


def _statistics(model: Any, model_state: Any) -> dict[str, Any]:
    """Return the running statistics of Equinox's batch norms as it uses them."""
    found = {}
    for path, norm in _batch_norms(model):
        if model_state is None:
            raise ValueError(f"model_state must be given: {path} is a batch norm")
        if norm.ema_state_index is not None:
            mean, var = model_state.get(norm.ema_state_index)
        else:
            count = model_state.get(norm.batch_counter)
            share = jnp.where(count == 0, 1, 1 - norm.momentum**count)
            mean, var = (a / share for a in model_state.get(norm.batch_state_index))
        found |= {f"{path}/mean": mean, f"{path}/var": var}
    return found
