"""Variables of Flax, Linen and NNX."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp  # noqa: F401  # for the examples
from jax.typing import ArrayLike

from .._layer import Layer, Params, State
from .trees import exported, flat, imported, place, replaced


def from_flax(
    layer: Layer,
    x: ArrayLike,
    y: ArrayLike,
    variables: Any,
    *,
    names: Mapping[str, str] | None = None,
) -> tuple[Params, State]:
    """Return the parameters and state of a Flax network, Linen or NNX.

    Args:
        layer: A network of the same architecture. "SAME" padding, kernels and the
            order of `flatten` are those of Flax; BatchNorm has momentum=0.99 there.
        x: Inputs, float32 or float64.
        y: The outputs of the Flax network for them without training.
        variables: Linen's `{"params": …, "batch_stats": …}`, or
            `nnx.state(model, (nnx.Param, nnx.BatchStat))`.
        names: Flax's module for each part, such as `{"stem/conv": "Conv_0"}`. A part
            that is not in it has the same name.

    Raises:
        ValueError: As `from_torch`.

    >>> from jcnn.layers import Dense
    >>> variables = {"params": {"Dense_0": {"kernel": jnp.ones((2, 1))}}}
    >>> layer, x = Dense(1, use_bias=False), jnp.ones((1, 2))
    >>> params, _ = from_flax(layer, x, [[2.0]], variables, names={"": "Dense_0"})
    >>> params["kernel"].ravel()
    Array([1., 1.], dtype=float32)
    """
    weights = {_flax_path(path): array for path, array in flat(variables).items()}
    return imported(layer, x, y, weights, partial(place, names=names, leaves={}))


def to_flax(
    params: Params,
    state: State,
    variables: Any,
    *,
    names: Mapping[str, str] | None = None,
) -> Any:
    """Return Flax's `variables` with the arrays of params and state in their places.

    Outputs cannot be compared here: compare those of the Flax network.

    Args:
        params, state: Of a layer.
        variables: As for `from_flax`. `nnx.update(model, variables)` puts those of NNX
            into the model.
        names: As for `from_flax`.

    Raises:
        ValueError: If a name is missing, left over or given twice, or a shape differs.

    >>> variables = {"params": {"Dense_0": {"kernel": jnp.zeros((2, 1))}}}
    >>> params = {"kernel": jnp.ones((2, 1))}
    >>> new = to_flax(params, {}, variables, names={"": "Dense_0"})
    >>> new["params"]["Dense_0"]["kernel"].ravel()
    Array([1., 1.], dtype=float32)
    """
    weights = {_flax_path(path): array for path, array in flat(variables).items()}
    new = exported(params, state, weights, partial(place, names=names, leaves={}))
    return replaced(variables, new, _flax_path)


def _flax_path(path: str) -> str:
    """Return the path of an array without Linen's collection or NNX's ".value"."""
    return re.sub("^(params|batch_stats)/|/value$", "", path)
