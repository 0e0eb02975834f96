"""Measurements of jcnn on one image and one filter, as NumPy arrays."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcnn import conv, max_pool

VERTICAL_EDGE = np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]], np.float32)


def feature_map(image: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    """Convolve one image with one filter by `jcnn.conv`, by default without padding.

    Args:
        image: Image `[H, W]` float32.
        kernel: Filter `[KH, KW]` float32.
        options: Keyword arguments of `jcnn.conv`.

    >>> feature_map(np.eye(3, dtype=np.float32), np.ones((2, 2), np.float32))
    array([[2., 1.],
           [1., 2.]], dtype=float32)
    """
    options = {"padding": "VALID"} | options
    y = conv(image[None, :, :, None], kernel[:, :, None, None], **options)
    return np.asarray(y[0, :, :, 0])


def pooled(values: np.ndarray, window: int) -> np.ndarray:
    """Apply `jcnn.max_pool` to one feature map.

    >>> pooled(np.eye(4, dtype=np.float32), 2)
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    return np.asarray(max_pool(values[None, :, :, None], window)[0, :, :, 0])


def edge_map(place: int) -> np.ndarray:
    """Return the feature map `[8, 8]` of a 9x9 image bright from column `place` on.

    >>> edge_map(3)[0]
    array([0., 0., 2., 0., 0., 0., 0., 0.], dtype=float32)
    """
    image = np.zeros((9, 9), np.float32)
    image[:, place:] = 1
    return feature_map(image, np.array([[-1, 1], [-1, 1]], np.float32))


def output_size(n: int, f: int, s: int, padding: int | str) -> int:
    """Return the output size of a window of `f` on `n` values, from shapes alone.

    >>> output_size(7, 3, 2, "VALID")
    3
    """
    shapes = ((1, n, 1), (f, 1, 1))
    specs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    return jax.eval_shape(partial(conv, strides=s, padding=padding), *specs).shape[1]


def connections(kernel: np.ndarray) -> np.ndarray:
    """Return the Jacobian `[6, 6, 8, 8]` of an output `[6, 6]` by an input `[8, 8]`.

    >>> connections(np.ones((3, 3), np.float32))[2, 3].sum()
    np.float32(9.0)
    """
    valid = partial(conv, padding="VALID")
    x, kernel = jnp.ones((1, 8, 8, 1)), kernel[:, :, None, None]
    return np.asarray(jax.jacobian(valid)(x, kernel)[0, :, :, 0, 0, :, :, 0])


def windows_entered(n: int, f: int, p: int) -> np.ndarray:
    """Return how many f x f windows contain each of n x n pixels, padded by p.

    This is the derivative of the sum of all windows by the pixel.

    >>> windows_entered(3, 2, 0)
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]], dtype=float32)
    """

    def sum_of_windows(x):
        return conv(x, jnp.ones((f, f, 1, 1)), padding=p).sum()

    return np.asarray(jax.grad(sum_of_windows)(jnp.ones((1, n, n, 1)))[0, :, :, 0])


def slope(function: Callable[[Any], Any], times: int, z: float) -> float:
    """Return the derivative at z of a function applied several times.

    >>> slope(jnp.square, 2, 1.0)
    4.0
    """

    def chain(z):
        for _ in range(times):
            z = function(z)
        return z

    return float(jax.grad(chain)(z))
