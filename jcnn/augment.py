"""Random flips and crops of a batch of images, as pure functions of a key.

They run on the device, inside the jitted training step, on uint8 as well as on floats:
`random_crop(jax.random.fold_in(key, 1), batch["image"], 4)`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ._shapes import integer


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Shift each image by its own random number of pixels, zeros entering at the edge.

    An image is padded with zeros on all four sides and a window of its own size is cut
    out of that, at a place drawn uniformly from the `(2 * padding + 1) ** 2` ones.

    Args:
        key: PRNG key; one key draws the places of the whole batch.
        images: Batch of images, `[N, H, W, C]`, of any dtype.
        padding: Pixels of zeros on each side, so also the greatest shift; at least 0.

    Returns:
        The shifted images, of the shape and dtype of `images`.

    Raises:
        TypeError: If `padding` is not an integer.
        ValueError: If `images` has no four axes, or `padding` is negative.

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.ones((8, 4, 4, 1), jnp.uint8)
    >>> moved = random_crop(jax.random.key(0), images, padding=1)
    >>> moved.shape, moved.dtype.name, int(moved.min())
    ((8, 4, 4, 1), 'uint8', 0)
    """
    _check_images(images)
    padding = integer("padding", padding, minimum=0)
    num_images, *window = images.shape
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    corners = jax.random.randint(key, (num_images, 2), 0, 2 * padding + 1)

    def cut(image, corner):
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), window)

    return jax.vmap(cut)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability one half.

    Args:
        key: PRNG key; one key tosses the coins of the whole batch.
        images: Batch of images, `[N, H, W, C]`, of any dtype.

    Returns:
        The images, some of them mirrored, of the shape and dtype of `images`.

    Raises:
        ValueError: If `images` has no four axes.

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.arange(3).reshape(1, 1, 3, 1).repeat(6, axis=0)
    >>> sorted({str(row.ravel()) for row in random_flip(jax.random.key(0), images)})
    ['[0 1 2]', '[2 1 0]']
    """
    _check_images(images)
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def _check_images(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, C], got shape {images.shape}")
