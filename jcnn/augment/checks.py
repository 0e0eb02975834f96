"""What arguments of augmentations must be."""

import jax


def check_images(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, C], got shape {images.shape}")
