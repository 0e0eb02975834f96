"""Choice of parameters by their path, for decay and for optimizers of a part."""

import re
from collections.abc import Callable
from typing import Any

import jax

from .._layer import leaf_name
from ..layers import Params

_LISTED = 6  # paths that a message names


def mask_by_path(pattern: str, *, missing_ok: bool = False) -> Callable[[Params], Any]:
    """Return the function from parameters to a tree of bools, as optax takes for masks.

    Args:
        pattern: Regular expression, searched for in paths such as "conv1/kernel".
        missing_ok: Whether parameters may be without any of such a path.

    Raises:
        ValueError: If it is no regular expression; when used, if no path fits it.

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

    def mask(params: Params) -> Any:
        found = jax.tree.map_with_path(matches, params)
        fits = jax.tree.leaves(found)
        if fits and not any(fits) and not missing_ok:
            raise ValueError(
                "pattern must fit the path of a parameter, got "
                f"{pattern!r} for {_listed(params)}"
            )
        return found

    return mask


def _listed(params: Params) -> str:
    names = [leaf_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
