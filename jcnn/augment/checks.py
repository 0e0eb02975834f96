"""What arguments of augmentations must be."""

import jax


def check_images(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, C], got shape {images.shape}")


def check_range(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be from 0 to {most}, got {value!r}")
