"""Moves of the pixels of images: crops, flips and affine maps."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from .._shapes import integer, number
from .checks import check_images

Border = Literal["zeros", "reflect"]
"""What enters at an image's edge: zeros, or the image mirrored at its last pixel."""


def random_crop(
    key: jax.Array, images: jax.Array, padding: int, *, border: Border = "zeros"
) -> jax.Array:
    """Pad each image on all sides and cut a window of its own size out of that.

    The windows are uniform among the `(2 * padding + 1) ** 2` ones: each image is
    shifted by its own whole numbers of pixels.

    Args:
        key: PRNG key; one key draws the shifts of the whole batch.
        images: Batch of images [N, H, W, C], of any dtype.
        padding: Pixels on each side, and so the greatest shift; at least 0, and less
            than H and W if `border` is "reflect".
        border: What enters at the edge.

    Returns:
        The shifted images, of the shape and dtype of `images`.

    Raises:
        TypeError: If `padding` is not an integer.
        ValueError: If `images` has no four axes, or an argument is not as above.

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.ones((8, 4, 4, 1), jnp.uint8)
    >>> moved = random_crop(jax.random.key(0), images, padding=1)
    >>> moved.shape, moved.dtype.name, int(moved.min())
    ((8, 4, 4, 1), 'uint8', 0)
    """
    check_images(images)
    padding = integer("padding", padding, minimum=0)
    num_images, *window = images.shape
    padded = _padded(images, padding, border)
    corners = jax.random.randint(key, (num_images, 2), 0, 2 * padding + 1)

    def cut(image, corner):
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), window)

    return jax.vmap(cut)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Flip each image left to right with probability one half.

    Args:
        key: PRNG key; one key tosses the coins of the whole batch.
        images: Batch of images [N, H, W, C], of any dtype.

    Returns:
        The images, some of them flipped, of the shape and dtype of `images`.

    Raises:
        ValueError: If `images` has no four axes.

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.arange(3).reshape(1, 1, 3, 1).repeat(6, axis=0)
    >>> sorted({str(row.ravel()) for row in random_flip(jax.random.key(0), images)})
    ['[0 1 2]', '[2 1 0]']
    """
    check_images(images)
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def alternating_flip(
    key: jax.Array, images: jax.Array, indices: jax.Array, epoch: jax.Array | int
) -> jax.Array:
    """Flip half of the data set in even epochs, and the other half in odd ones.

    Which half is drawn once, by example. So two epochs in a row show each image and its
    mirror image once: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024),
    section 3.6.

    Args:
        key: PRNG key, the same one in all steps of a run.
        images: Batch of images [N, H, W, C], of any dtype.
        indices: Which examples of the data set these are, integers [N].
        epoch: Number of the epoch, or that of each image [N].

    Returns:
        The images, some of them flipped, of the shape and dtype of `images`.

    Raises:
        ValueError: If a shape is not as above.

    >>> import jax, jax.numpy as jnp
    >>> images, key = jnp.arange(3).reshape(1, 1, 3, 1), jax.random.key(0)
    >>> even = alternating_flip(key, images, jnp.array([7]), 2)
    >>> odd = alternating_flip(key, images, jnp.array([7]), 3)
    >>> bool((even == odd[:, :, ::-1]).all())
    True
    """
    check_images(images)
    if indices.shape != images.shape[:1]:
        raise ValueError(f"indices must be [{len(images)}], got shape {indices.shape}")

    def in_first_half(index):
        return jax.random.bernoulli(jax.random.fold_in(key, index))

    flip = jax.vmap(in_first_half)(indices) ^ (jnp.asarray(epoch) % 2 == 1)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_affine(
    key: jax.Array,
    images: jax.Array,
    *,
    degrees: ArrayLike = 0,
    shift: ArrayLike = 0,
    scale: tuple[float, float] = (1, 1),
    boxes: jax.Array | None = None,
    nearest: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Rotate, scale and shift each image about its centre, zeros entering at the edge.

    Args:
        key: PRNG key; one key draws the maps of the whole batch.
        images: Batch of images or masks [N, H, W, C], of any dtype.
        degrees: Angles are uniform from -degrees to degrees, at most 180.
        shift: Shifts are uniform up to this fraction of height and width, at most 1.
        scale: Least and greatest factor, uniform; more than 1 enlarges.
        boxes: Boxes [N, K, 4], each (top, left, bottom, right) in pixels from the
            image's corner. A box becomes the least one around its moved corners, cut at
            the border; one that has left the image becomes (0, 0, 0, 0).
        nearest: Take the nearest pixel, as masks of classes need; otherwise pixels are
            interpolated linearly in float32, and rounded if they are integers.

    Returns:
        Images of the shape and dtype of `images`; boxes float32 [N, K, 4], or None.

    Raises:
        ValueError: If a shape or an argument is not as above.

    >>> import jax, jax.numpy as jnp
    >>> key, images = jax.random.key(0), jnp.ones((8, 9, 9, 1))
    >>> moved, boxes = random_affine(
    ...     key, images, degrees=20, shift=0.1, boxes=jnp.array([[[1, 1, 4, 4]]] * 8)
    ... )
    >>> moved.shape, boxes.shape
    ((8, 9, 9, 1), (8, 1, 4))
    """
    check_images(images)
    degrees = number("degrees", degrees, 0, 180)
    shift = number("shift", shift, 0, 1)
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be (least, greatest) above 0, got {scale}")
    n, height, width, _ = images.shape
    if boxes is not None and (boxes.ndim != 3 or boxes.shape[::2] != (n, 4)):
        raise ValueError(f"boxes must be [{n}, K, 4], got shape {boxes.shape}")
    size = jnp.array([height, width], jnp.float32)
    of_angle, of_scale, of_shift = jax.random.split(key, 3)
    most = jnp.deg2rad(degrees)
    angles = jax.random.uniform(of_angle, (n,), minval=-most, maxval=most)
    scales = jax.random.uniform(of_scale, (n,), minval=scale[0], maxval=scale[1])
    shifts = jax.random.uniform(of_shift, (n, 2), minval=-shift, maxval=shift)
    shifts = shifts * size[None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    rotations = jnp.stack([cos, sin, -sin, cos], -1).reshape(n, 2, 2)

    # Where a pixel of the result comes from: its offset from the centre, mapped back.
    centre = (size - 1) / 2
    grid = jnp.stack(jnp.mgrid[:height, :width], -1) - centre[None, None]
    back = jnp.swapaxes(rotations, 1, 2) / scales[:, None, None]
    grid = grid[None] - shifts[:, None, None]
    places = jnp.einsum("nij,nhwj->nihw", back, grid) + centre[None, :, None, None]

    def take(image, places):
        def one(channel):
            return map_coordinates(channel, list(places), order=0 if nearest else 1)

        values = jax.vmap(one, -1, -1)(image if nearest else image.astype(jnp.float32))
        is_float = jnp.issubdtype(image.dtype, jnp.floating)
        return (values if is_float else jnp.round(values)).astype(image.dtype)

    if images.dtype == bool:  # which map_coordinates does not take
        moved = jax.vmap(take)(images.astype(jnp.uint8), places).astype(bool)
    else:
        moved = jax.vmap(take)(images, places)
    if boxes is None:
        return moved, None
    top, left, bottom, right = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    corners = jnp.stack([top, left, top, right, bottom, left, bottom, right], -1)
    middle = size[None, None, None] / 2  # of edges: pixel 0 is from 0 to 1
    corners = corners.reshape(n, -1, 4, 2) - middle
    corners = jnp.einsum("nij,nkcj->nkci", rotations * scales[:, None, None], corners)
    corners = corners + shifts[:, None, None] + middle
    around = jnp.concatenate([corners.min(2), corners.max(2)], -1)
    around = jnp.clip(around, 0, jnp.tile(size, 2)[None, None])
    empty = (around[..., :2] >= around[..., 2:]) | (boxes[..., :2] >= boxes[..., 2:])
    return moved, jnp.where(empty.any(-1, keepdims=True), 0, around)


def average_views(
    predict: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    *,
    mirror: bool = True,
    shift: int = 0,
) -> jax.Array:
    """Average predictions over each image, its mirror image, and shifts of both.

    Args:
        predict: From images [N, H, W, C] to logits or probabilities [N, classes]; or of
            pixels, [N, h, w, classes], which are mirrored back, and need a shift of 0.
        images: Batch of images [N, H, W, C], of any dtype.
        mirror: Whether to take the mirror images too.
        shift: Pixels; if not 0, half of the weight is that of the images shifted by so
            many up and left, and down and right, the border reflected (Jordan, "94% on
            CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), section 3.5).

    Returns:
        Predictions of the shape that `predict` gives.

    Raises:
        ValueError: If `images` has no four axes, or `shift` is negative, too large, or
            not 0 for predictions of pixels.

    >>> import jax.numpy as jnp
    >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> average_views(lambda images: images[:, 0, 0, 0], images)
    Array([1.5], dtype=float32)
    """
    check_images(images)
    shift = integer("shift", shift, minimum=0)

    def of_both(images):
        found = predict(images)
        if found.ndim > 2 and shift:
            raise ValueError(
                f"shift must be 0 for predictions of pixels {found.shape}, got {shift}"
            )
        if not mirror:
            return found
        mirrored = predict(images[:, :, ::-1])
        return (found + (mirrored[:, :, ::-1] if found.ndim > 2 else mirrored)) / 2

    if shift == 0:
        return of_both(images)
    padded = _padded(images, shift, "reflect")
    _, height, width, _ = images.shape
    up, down = padded[:, 2 * shift :, 2 * shift :], padded[:, :height, :width]
    return of_both(images) / 2 + (of_both(up) + of_both(down)) / 4


def _padded(images: jax.Array, padding: int, border: Border) -> jax.Array:
    if border not in ("zeros", "reflect"):
        raise ValueError(f'border must be "zeros" or "reflect", got {border!r}')
    if border == "reflect" and padding >= min(images.shape[1:3]):
        raise ValueError(
            "reflected pixels must be fewer than height and width "
            f"{images.shape[1:3]}, got {padding}"
        )
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jnp.pad(images, pads, "constant" if border == "zeros" else "reflect")
