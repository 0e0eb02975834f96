"""The order of examples as a pure function of a key and the step.

Examples come as an endless stream of epochs, each a permutation of the whole set drawn
anew; batch k is the stream's k-th piece, and may reach over the end of an epoch. No
iterator has to be saved: any batch can be computed, inside jit too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._shapes import integer

_LAST_STEP = 2**32 - 1
_ROUNDS = 96  # six for each bit of a set of 65,536: Hoang et al., theorem 2


def batch_indices(
    key: jax.Array, step: jax.Array | int, *, num_examples: int, batch_size: int
) -> jax.Array:
    """Return the indices of the examples of batch `step`.

    Args:
        key: Of `jax.random.key`; the same for all steps of a run.
        step: Integer scalar, from 0 to 2^32 - 1.
        num_examples, batch_size: Of the data set, and of every step.

    Returns:
        int32 [batch_size], values from 0 to num_examples - 1.

    Raises:
        ValueError: If a size or a step that is no JAX array is out of range.
        TypeError: If the step is no integer.

    >>> key = jax.random.key(0)
    >>> epoch = [batch_indices(key, k, num_examples=6, batch_size=2) for k in range(3)]
    >>> sorted(jnp.concatenate(epoch).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    n = integer("num_examples", num_examples, minimum=1)
    batch = integer("batch_size", batch_size, minimum=1)
    # One program, so that a call outside of jit does not compile loops anew.
    return jax.jit(_indices, static_argnums=(2, 3))(key, _checked(step), n, batch)


class HostOrder(NamedTuple):
    """The order of some epochs by NumPy, for processes that use no device.

    Attributes:
        rounds: Random bits, uint32 [epochs, 2, rounds of the shuffle].
        first: The first of these epochs.
        num_examples, batch_size: As for `batch_indices`.
    """

    rounds: np.ndarray
    first: int
    num_examples: int
    batch_size: int

    def __call__(self, step: int) -> np.ndarray:
        """Return what `batch_indices` does for a step within these epochs."""
        epoch, place = divmod(step * self.batch_size, self.num_examples)
        places = place + np.arange(self.batch_size)
        epochs, places = np.divmod(places, self.num_examples)
        shifts, salts = self.rounds[epoch - self.first + epochs].transpose(1, 2, 0)
        found = places.astype(np.uint32)
        for shift, salt in zip(shifts, salts, strict=True):
            found = _swapped(np, found, shift, salt, self.num_examples)
        return found.astype(np.int32)

    def end(self) -> int:
        """Return the first step that is not within these epochs."""
        examples = (self.first + len(self.rounds)) * self.num_examples
        return examples // self.batch_size


def host_order(
    key: jax.Array, step: int, *, num_examples: int, batch_size: int, epochs: int = 256
) -> HostOrder:
    """Return the order of some epochs from that of a step on.

    The arguments are those of `batch_indices`.

    >>> key = jax.random.key(0)
    >>> order = host_order(key, 5, num_examples=6, batch_size=4)
    >>> order(5).tolist() == batch_indices(
    ...     key, 5, num_examples=6, batch_size=4
    ... ).tolist()
    True
    """
    epochs += batch_size // num_examples
    first = step * batch_size // num_examples
    each = jnp.arange(epochs, dtype=jnp.uint32) + np.uint32(first % 2**32)
    rounds = jax.vmap(lambda epoch: _rounds(jax.random.fold_in(key, epoch)))(each)
    return HostOrder(np.asarray(rounds), first, num_examples, batch_size)


def _indices(key: jax.Array, step: jax.Array, n: int, batch: int) -> jax.Array:
    epoch, place = _position(step, batch, n)
    place = place + jnp.arange(batch, dtype=jnp.uint32)
    order = jax.vmap(lambda e, p: _permuted(jax.random.fold_in(key, e), p, n))
    return order(epoch + place // n, place % n).astype(jnp.int32)


def _checked(step: jax.Array | int) -> jax.Array:
    """Return the step as uint32. A jax.Array is not range-checked: that would block."""
    if isinstance(step, jax.Array) and step.ndim == 0:
        if not jnp.issubdtype(step.dtype, jnp.integer):
            raise TypeError(f"step must be an integer, got {step.dtype}")
        return step.astype(jnp.uint32)
    number = integer("step", step, minimum=0)
    if number > _LAST_STEP:
        raise ValueError(f"step must be at most {_LAST_STEP}, got {step!r}")
    return jnp.asarray(number, jnp.uint32)


def _position(step: jax.Array, batch: int, n: int) -> tuple[jax.Array, jax.Array]:
    """Return divmod(step * batch, n), by doubling: the product may overflow."""
    whole, rest = divmod(batch, n)

    def double_and_add(i, position):
        epoch, place = position
        bit = (step >> (jnp.uint32(31) - i)) & jnp.uint32(1)
        epoch, place = 2 * epoch + 2 * place // n, 2 * place % n
        place = place + bit * jnp.uint32(rest)
        return epoch + bit * jnp.uint32(whole) + place // n, place % n

    zero = jnp.uint32(0)
    return lax.fori_loop(zero, jnp.uint32(32), double_and_add, (zero, zero))


def _permuted(key: jax.Array, place: jax.Array, n: int) -> jax.Array:
    """Return the image of `place` under a random permutation of 0 to n - 1.

    The swap-or-not shuffle: Hoang, Morris and Rogaway, "An Enciphering Scheme Based on
    a Card Shuffle" (2012), figure 1. Each round pairs all places, i with shift - i, and
    a coin of the pair decides whether the two change places.
    """
    shifts, salts = _rounds(key)

    def swap_or_not(i, place):
        return _swapped(jnp, place, shifts[i], salts[i], n)

    return lax.fori_loop(0, _ROUNDS, swap_or_not, place, unroll=8)


def _rounds(key: jax.Array) -> jax.Array:
    return jax.random.bits(key, (2, _ROUNDS), jnp.uint32)


def _swapped(numpy: Any, place: Any, shift: Any, salt: Any, n: int) -> Any:
    """Return `place` after one round; `numpy` is NumPy's module or JAX's."""
    partner = (shift % n + (n - place)) % n
    coin = _mixed(numpy.maximum(place, partner) ^ salt) & 1
    return numpy.where(coin, partner, place)


def _mixed(bits: Any) -> Any:
    """Return a 32-bit hash: the finaliser of MurmurHash3 (Appleby, 2011)."""
    bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
