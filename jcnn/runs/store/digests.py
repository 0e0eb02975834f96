"""SHA-256 of bytes, of arrays (little-endian in C order) and of trees of arrays.

A tree's digest is that of lines `["name", "dtype", [shape], "digest"]`, sorted by name.
"""

import hashlib
import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._layer import leaf_name
from ..processes import is_divided, on_host

Description = dict[str, Any]  # {"dtype": …, "shape": […], "sha256": …}


class Snapshot(NamedTuple):
    """The arrays of a pytree by name, and the description of each.

    Those that are divided among processes lie where they lay.
    """

    arrays: dict[str, np.ndarray | jax.Array]
    descriptions: dict[str, Description]


def take_snapshot(tree: Any) -> Snapshot:
    """Copy the arrays of a pytree, as `host_arrays`, and compute their digests."""
    arrays, descriptions = {}, {}
    for name, leaf in _named_leaves(tree).items():  # one at a time: all may not fit
        array = _host_array(name, leaf)
        arrays[name] = leaf if is_divided(leaf) else array
        descriptions[name] = describe_array(array)
    return Snapshot(arrays, descriptions)


def host_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Copy the arrays of a pytree to the host; a PRNG key is copied as its data.

    Returns:
        Names such as `params/conv1/kernel` to arrays in C order.

    Raises:
        TypeError: If a leaf is neither an array nor a number.
        ValueError: If two leaves have one name.

    >>> {k: v.shape for k, v in host_arrays({"a": (1, np.ones((2, 3)))}).items()}
    {'a/0': (), 'a/1': (2, 3)}
    """
    return {k: _host_array(k, leaf) for k, leaf in _named_leaves(tree).items()}


def digest_bytes(content: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def describe_array(array: np.ndarray) -> Description:
    """Return dtype, shape and digest of an array, as JSON values."""
    big = array.dtype.byteorder == ">" or (
        array.dtype.byteorder == "=" and sys.byteorder == "big"
    )
    content = np.asarray(array.byteswap() if big else array, order="C")
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": digest_bytes(content.reshape(-1).view(np.uint8).data),
    }


def combine(descriptions: dict[str, Description]) -> str:
    """Return one digest of many arrays, their names, dtypes and shapes."""
    lines = [
        json.dumps([name, d["dtype"], d["shape"], d["sha256"]])
        for name, d in sorted(descriptions.items())
    ]
    text = "".join(f"{line}\n" for line in lines)
    return digest_bytes(text.encode())


def digest_tree(tree: Any) -> str:
    """Return one digest of all arrays of a pytree, as 64 hexadecimal digits."""
    return combine(take_snapshot(tree).descriptions)


def plain(leaf: Any) -> Any:
    """Return a random key's data, and any other leaf as it is."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def like(leaf: Any, data: jax.Array) -> jax.Array:
    """Return the data of a leaf, by `plain`, in the leaf's form."""
    if not _is_key(leaf):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    named = [(leaf_name(path), plain(leaf)) for path, leaf in leaves]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        twice = min(name for name in names if names.count(name) > 1)
        raise ValueError(f"tree has two leaves of the name {twice!r}")
    return dict(named)


def _host_array(name: str, leaf: Any) -> np.ndarray:
    array = np.array(on_host(leaf), order="C")
    if array.dtype.hasobject or array.dtype.names or array.dtype.kind in "SUMm":
        raise TypeError(f"leaf {name!r} must be numeric, got {array.dtype}")
    return array
