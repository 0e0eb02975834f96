"""The batch of a step, as a function of the run's key and the step alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..layers import child_key
from ..order import batch_indices
from .state import Batch

BatchAt = Callable[[jax.Array, jax.Array, Batch, int], Batch]
"""(the run's key, step, data, batch size) -> the batch of that step."""


def batch_at(
    key: jax.Array, step: jax.Array | int, data: Batch, batch_size: int
) -> Batch:
    """Return the batch of a step.

    Args:
        key: The run's key.
        step: Index of the step, from 0.
        data: Pytree of arrays [N, …].
        batch_size: Examples per step.

    Returns:
        The pytree `data` with arrays [batch_size, …].

    >>> batch_at(jax.random.key(0), 0, {"label": jnp.arange(3)}, 2)["label"].shape
    (2,)
    """
    n = num_examples(data)
    indices = indices_at(key, step, num_examples=n, batch_size=batch_size)
    return jax.tree.map(lambda a: jnp.take(a, indices, axis=0), data)


def indices_at(
    key: jax.Array, step: jax.Array | int, *, num_examples: int, batch_size: int
) -> jax.Array:
    """Return the indices of the examples that `batch_at` takes, int32 [batch_size].

    >>> indices_at(jax.random.key(0), 7, num_examples=3, batch_size=2).shape
    (2,)
    """
    return batch_indices(
        child_key(key, "order"), step, num_examples=num_examples, batch_size=batch_size
    )


def num_examples(data: Batch) -> int:
    """Return the common length of all arrays; raise ValueError if they differ.

    >>> num_examples({"image": jnp.zeros((3, 8, 8, 1)), "label": jnp.zeros(3)})
    3
    """
    lengths = {a.shape[0] if a.ndim else 0 for a in jax.tree.leaves(data)}
    if len(lengths) != 1 or 0 in lengths:
        shapes = jax.tree.map(lambda a: a.shape, data)
        raise ValueError(
            f"data must be arrays of one length, at least 1; got shapes {shapes}"
        )
    return lengths.pop()
