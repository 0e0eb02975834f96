"""Choice of parameters by their path, for decay and for optimizers of a part."""

import re
from collections.abc import Callable
from typing import Any

import jax

from .._layer import leaf_name
from ..layers import Params


def mask_by_path(pattern: str) -> Callable[[Params], Any]:
    """Return the function from parameters to a tree of bools, as optax takes for masks.

    Args:
        pattern: Regular expression, searched for in paths such as "conv1/kernel".

    Raises:
        ValueError: If it is no regular expression.

    >>> import jax.numpy as jnp
    >>> kernels = mask_by_path("kernel$")
    >>> kernels({"head": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}})
    {'head': {'bias': False, 'kernel': True}}
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"pattern must be a regular expression, got {pattern!r}: {error}"
        ) from error

    def matches(path, _) -> bool:
        return regex.search(leaf_name(path)) is not None

    return lambda params: jax.tree.map_with_path(matches, params)
