"""Augmentation: each result is an image that a NumPy loop makes, and all occur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcnn.augment import random_crop, random_flip


def _images(num_images, *, height=5, width=7, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(num_images)
    values = rng.integers(1, 256, (num_images, height, width, channels))
    return values.astype(dtype)


def _shifted(image, down, right):
    """`image` moved by whole pixels, written pixel by pixel."""
    result = np.zeros_like(image)
    height, width, _ = image.shape
    for row in range(height):
        for column in range(width):
            source_row, source_column = row - down, column - right
            if 0 <= source_row < height and 0 <= source_column < width:
                result[row, column] = image[source_row, source_column]
    return result


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_crop_is_one_of_all_shifts_and_all_of_them_occur(padding, dtype):
    images = _images(400, dtype=dtype)
    moved = np.asarray(random_crop(jax.random.key(1), jnp.asarray(images), padding))
    assert moved.shape == images.shape and moved.dtype == images.dtype
    reach = range(-padding, padding + 1)
    shifts = [(down, right) for down in reach for right in reach]
    counts = dict.fromkeys(shifts, 0)
    for before, after in zip(images, moved, strict=True):
        found = [s for s in shifts if np.array_equal(_shifted(before, *s), after)]
        assert len(found) == 1
        counts[found[0]] += 1
    expected = len(images) / len(shifts)
    spread = np.sqrt(expected)
    assert all(abs(count - expected) <= 4 * spread for count in counts.values())


def test_flip_is_the_image_or_its_mirror_image_in_equal_parts():
    images = _images(400)
    flipped = np.asarray(random_flip(jax.random.key(2), jnp.asarray(images)))
    mirrored = 0
    for before, after in zip(images, flipped, strict=True):
        reversed_columns = np.stack([before[:, 6 - j] for j in range(7)], axis=1)
        is_same = np.array_equal(after, before)
        is_mirrored = np.array_equal(after, reversed_columns)
        assert is_same != is_mirrored
        mirrored += is_mirrored
    assert 150 < mirrored < 250


@pytest.mark.parametrize("augment", [lambda k, x: random_crop(k, x, 2), random_flip])
def test_a_key_decides_all_and_jit_changes_nothing(augment):
    images = jnp.asarray(_images(64))
    first = augment(jax.random.key(3), images)
    assert np.array_equal(first, jax.jit(augment)(jax.random.key(3), images))
    assert not np.array_equal(first, augment(jax.random.key(4), images))


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 2, 5, 7, 3)])
def test_images_without_four_axes_are_refused(shape):
    images = jnp.zeros(shape)
    with pytest.raises(ValueError, match="images"):
        random_flip(jax.random.key(0), images)
    with pytest.raises(ValueError, match="images"):
        random_crop(jax.random.key(0), images, 1)


def test_bad_padding_is_refused():
    images = jnp.asarray(_images(2))
    with pytest.raises(ValueError, match="padding.*-1"):
        random_crop(jax.random.key(0), images, -1)
    with pytest.raises(TypeError):
        random_crop(jax.random.key(0), images, 1.5)  # pyright: ignore
