"""Initializers beside those of `jax.nn`: functions (key, shape, dtype) -> kernel."""

from functools import cache
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jax.typing import ArrayLike, DTypeLike

from ._layer import Initializer


def he_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draw from a normal distribution of variance 2 / fan-in, truncated at 2 sigma.

    He et al., "Delving Deep into Rectifiers" (2015), section 2.2.

    >>> he_normal(jax.random.key(0), (3, 3, 1, 8)).shape
    (3, 3, 1, 8)
    """
    return initializers.he_normal()(key, shape, dtype)


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32):
    """Return a kernel whose first filters return their input, the others uniform.

    Zagoruyko and Komodakis, "DiracNets" (2017), section 3, for as many filters as there
    are inputs; the others are uniform within 1 / sqrt(fan_in).

    Args:
        key: PRNG key.
        shape: [*size, I, O] with odd sizes.
        dtype: Of the kernel.

    Raises:
        ValueError: If a size is even: then there is no middle.

    >>> kernel = dirac(jax.random.key(0), (3, 3, 1, 2))
    >>> kernel[..., 0, 0]
    Array([[0., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    *size, inputs, outputs = shape
    if any(length % 2 == 0 for length in size):
        raise ValueError(f"kernel must have odd sizes for dirac, got {tuple(size)}")
    bound = 1 / np.sqrt(prod(shape[:-1]))
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    same = min(inputs, outputs)
    middle = tuple(length // 2 for length in size)
    passing = jnp.zeros((*size, inputs, same), dtype)
    passing = passing.at[middle].set(jnp.eye(inputs, same, dtype=dtype))
    return kernel.at[..., :same].set(passing)


def whitening(images: ArrayLike, *, epsilon: float = 5e-4) -> Initializer:
    """Return an initializer of filters that decorrelate patches of these images.

    They are the eigenvectors of the mean of p pᵀ over all patches p, each divided by
    sqrt(eigenvalue + epsilon), and their negatives: Jordan, "94% on CIFAR-10 in 3.29
    Seconds on a Single GPU" (2024), section 3.2. The kernel is for as many filters,
    2 * H * W * C.

    Args:
        images: [N, H, W, C] as the network gets them; a few thousand are enough.
        epsilon: Added to the eigenvalues, more than 0.

    Raises:
        ValueError: If `images` has no four axes; when called, if the kernel's shape
            does not fit.

    >>> images = jax.random.normal(jax.random.key(0), (9, 8, 8, 3))
    >>> whitening(images)(jax.random.key(0), (2, 2, 3, 24), jnp.float32).shape
    (2, 2, 3, 24)
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, C], got shape {images.shape}")
    channels = images.shape[-1]

    @cache
    def filters(height: int, width: int) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(
            images, (height, width), axis=(1, 2)
        )
        patches = np.moveaxis(windows, 3, -1).reshape(-1, height * width * channels)
        moments = (patches.T @ patches).astype(np.float64) / len(patches)
        values, vectors = np.linalg.eigh(moments)
        found = vectors / np.sqrt(values + epsilon)
        return np.concatenate([found, -found], axis=1)

    def initializer(key, shape, dtype=jnp.float32):
        *size, inputs, outputs = shape
        inside = prod(shape[:-1])
        if len(size) != 2 or inputs != channels or outputs != 2 * inside:
            raise ValueError(
                f"kernel must be [H, W, {channels}, 2 * H * W * {channels}] for the "
                f"whitening of images {images.shape}, got {tuple(shape)}"
            )
        return jnp.asarray(filters(*size).reshape(shape), dtype)

    return initializer
