"""The order of examples as a pure function of a key and the step.

Examples come as an endless stream of epochs, each a permutation of the whole set drawn
anew; batch k is the stream's k-th piece, and may reach over the end of an epoch. No
iterator has to be saved: any batch can be computed, inside jit too.
"""

import jax
import jax.numpy as jnp
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
    shifts, salts = jax.random.bits(key, (2, _ROUNDS), jnp.uint32)

    def swap_or_not(i, place):
        partner = (shifts[i] % n + (n - place)) % n
        coin = _mixed(jnp.maximum(place, partner) ^ salts[i]) & 1
        return jnp.where(coin, partner, place)

    return lax.fori_loop(0, _ROUNDS, swap_or_not, place, unroll=8)


def _mixed(bits: jax.Array) -> jax.Array:
    """Return a 32-bit hash: the finaliser of MurmurHash3 (Appleby, 2011)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
