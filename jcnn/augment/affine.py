"""Affine maps of images: turned, scaled and shifted."""

from typing import overload

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from .._shapes import number
from .checks import as_boxes, as_images, check_fill
from .geometry import Moved, are_empty, cut_boxes


@overload
def random_affine(
    key: jax.Array,
    images: ArrayLike,
    *,
    degrees: ArrayLike = ...,
    shift: ArrayLike = ...,
    scale: tuple[float, float] = ...,
    fill: ArrayLike = ...,
    boxes: None = ...,
    nearest: bool = ...,
) -> jax.Array: ...
@overload
def random_affine(
    key: jax.Array,
    images: ArrayLike,
    *,
    degrees: ArrayLike = ...,
    shift: ArrayLike = ...,
    scale: tuple[float, float] = ...,
    fill: ArrayLike = ...,
    boxes: ArrayLike,
    nearest: bool = ...,
) -> Moved: ...
def random_affine(
    key: jax.Array,
    images: ArrayLike,
    *,
    degrees: ArrayLike = 0,
    shift: ArrayLike = 0,
    scale: tuple[float, float] = (1, 1),
    fill: ArrayLike = 0,
    boxes: ArrayLike | None = None,
    nearest: bool = False,
) -> jax.Array | Moved:
    """Rotate, scale and shift each image about its centre, `fill` entering at the edge.

    Args:
        key: PRNG key; one key draws the maps of the whole batch.
        images: Batch of images or masks [N, H, W, C], of any dtype.
        degrees: Angles are uniform from -degrees to degrees, at most 180.
        shift: Shifts are uniform up to this fraction of height and width, at most 1.
        scale: Least and greatest factor, uniform; more than 1 enlarges.
        fill: The value of pixels from outside.
        boxes: Boxes [N, K, 4], each (top, left, bottom, right) in pixels from the
            image's corner. A box becomes the least one around its moved corners, cut at
            the border; one that has left the image becomes (0, 0, 0, 0).
        nearest: Take the nearest pixel, as masks of classes need; otherwise pixels are
            interpolated linearly in float32, and rounded if they are integers.

    Returns:
        The images, of the shape and dtype of `images`; with `boxes` a pair of them and
        the moved boxes, float32 [N, K, 4].

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
    images = as_images(images)
    boxes = as_boxes(boxes, images)
    fill = check_fill(fill, images.dtype)
    degrees = number("degrees", degrees, 0, 180)
    shift = number("shift", shift, 0, 1)
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be (least, greatest) above 0, got {scale}")
    n, height, width, _ = images.shape
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
            order = 0 if nearest else 1
            return map_coordinates(channel, list(places), order, cval=fill)

        values = jax.vmap(one, -1, -1)(image if nearest else image.astype(jnp.float32))
        is_float = jnp.issubdtype(image.dtype, jnp.floating)
        return (values if is_float else jnp.round(values)).astype(image.dtype)

    if images.dtype == bool:  # which map_coordinates does not take
        moved = jax.vmap(take)(images.astype(jnp.uint8), places).astype(bool)
    else:
        moved = jax.vmap(take)(images, places)
    if boxes is None:
        return moved
    top, left, bottom, right = jnp.moveaxis(boxes, -1, 0)
    corners = jnp.stack([top, left, top, right, bottom, left, bottom, right], -1)
    middle = size[None, None, None] / 2  # of edges: pixel 0 is from 0 to 1
    corners = corners.reshape(n, -1, 4, 2) - middle
    corners = jnp.einsum("nij,nkcj->nkci", rotations * scales[:, None, None], corners)
    corners = corners + shifts[:, None, None] + middle
    around = jnp.concatenate([corners.min(2), corners.max(2)], -1)
    return moved, cut_boxes(jnp.where(are_empty(boxes), 0, around), images)
