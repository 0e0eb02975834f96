"""What arguments of augmentations must be."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from .._shapes import number


def as_images(images: ArrayLike) -> jax.Array:
    """Return images as an array, which must be [N, H, W, C]."""
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, C], got shape {images.shape}")
    return images


def as_boxes(boxes: ArrayLike | None, images: jax.Array) -> jax.Array | None:
    """Return boxes, if any, as float32 [N, K, 4]."""
    if boxes is None:
        return None
    boxes = jnp.asarray(boxes, jnp.float32)
    if boxes.ndim != 3 or boxes.shape[::2] != (len(images), 4):
        raise ValueError(
            f"boxes must be [{len(images)}, K, 4], got shape {boxes.shape}"
        )
    return boxes


def check_fill(fill: ArrayLike, dtype: DTypeLike) -> float | jax.Array:
    """Return the value of filled pixels, which their dtype must have."""
    if jnp.issubdtype(dtype, bool):
        return number("fill", fill, 0, 1)
    is_float = jnp.issubdtype(dtype, jnp.floating)
    limits: Any = jnp.finfo(dtype) if is_float else jnp.iinfo(dtype)
    return number("fill", fill, limits.min, limits.max)
