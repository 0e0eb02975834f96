"""Augmentation: each result is an image that a NumPy loop makes, and all occur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcnn.augment import (
    alternating_flip,
    average_views,
    cutmix,
    mixup,
    random_affine,
    random_crop,
    random_erase,
    random_flip,
)


def _images(num_images, *, height=5, width=7, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(num_images)
    values = rng.integers(1, 256, (num_images, height, width, channels))
    return values.astype(dtype)


def _shifted(image, down, right, fill=0):
    """`image` moved by whole pixels, written pixel by pixel."""
    result = np.full_like(image, fill)
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


@pytest.mark.parametrize(
    "augment",
    [
        lambda k, x: random_crop(k, x, 2),
        random_flip,
        lambda k, x: random_affine(k, x, degrees=10),
        random_erase,
    ],
)
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


def test_reflected_pixels_enter_at_the_edge():
    images = _images(200, height=4, width=5)
    moved = random_crop(jax.random.key(1), jnp.asarray(images), 2, border="reflect")
    seen = set()
    for before, after in zip(images, np.asarray(moved), strict=True):
        windows = {}
        for down in range(-2, 3):
            for right in range(-2, 3):
                rows = [_reflected(i - down, 4) for i in range(4)]
                columns = [_reflected(j - right, 5) for j in range(5)]
                windows[down, right] = before[rows][:, columns]
        found = [s for s, w in windows.items() if np.array_equal(w, after)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 25


def _reflected(i, n):
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def test_alternating_flips_show_both_sides_in_two_epochs():
    images, key = jnp.asarray(_images(300)), jax.random.key(5)
    indices = jnp.arange(300)
    by_epoch = [alternating_flip(key, images, indices, e) for e in range(4)]
    mirrored = images[:, :, ::-1]
    flipped = [np.asarray((m == mirrored).all((1, 2, 3))) for m in by_epoch]
    unflipped = [np.asarray((m == images).all((1, 2, 3))) for m in by_epoch]
    for epoch in range(4):
        assert np.array_equal(flipped[epoch], ~unflipped[epoch])
        assert np.array_equal(flipped[epoch], flipped[0] ^ (epoch % 2 == 1))
    assert 110 < flipped[0].sum() < 190
    # What an example does depends on its index, not on its place in the batch.
    order = np.random.default_rng(0).permutation(300)
    again = alternating_flip(key, images[order], indices[order], 0)
    assert np.array_equal(again, by_epoch[0][order])


def _bilinear(image, row, column):
    """The value of a 2-D image between pixels, zeros outside, from the definition."""
    value = 0.0
    for i in (int(np.floor(row)), int(np.floor(row)) + 1):
        for j in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                part = (1 - abs(row - i)) * (1 - abs(column - j))
                value += part * image[i, j]
    return value


def test_affine_maps_by_the_places_where_pixels_come_from(rng):
    """Two channels are row and column: they tell where each pixel came from."""
    n, height, width = 30, 11, 14
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    noise = rng.normal(size=(n, height, width)).astype(np.float32)
    ones = np.ones_like(noise)
    images = np.stack([ones * rows, ones * columns, noise, ones], -1)
    kept = np.zeros((n, 1, 4), np.float32)
    boxes = np.concatenate([kept + [3, 4, 7, 9], kept], 1)
    moved, new_boxes = random_affine(
        jax.random.key(7),
        jnp.asarray(images),
        degrees=40,
        shift=0.15,
        scale=(0.8, 1.3),
        boxes=jnp.asarray(boxes),
    )
    assert moved.dtype == jnp.float32
    angles, scales = [], []
    grid = np.stack([rows.ravel(), columns.ravel(), np.ones(height * width)], 1)
    for before, after, new in zip(images, np.asarray(moved), new_boxes, strict=True):
        inside = after[..., 3].ravel() > 1 - 1e-6
        assert inside.sum() > 20
        places = after[..., :2].reshape(-1, 2)
        back, *_ = np.linalg.lstsq(grid[inside], places[inside], rcond=None)
        np.testing.assert_allclose(grid[inside] @ back, places[inside], atol=1e-4)
        turned = np.linalg.inv(back[:2])  # of row vectors
        scale = np.sqrt(np.linalg.det(turned))
        np.testing.assert_allclose(turned @ turned.T, scale**2 * np.eye(2), atol=1e-3)
        angles.append(np.degrees(np.arctan2(turned[0, 1], turned[0, 0])))
        scales.append(scale)
        centre = np.array([height - 1, width - 1]) / 2
        shift = (centre - back[2]) @ turned - centre
        assert (abs(shift) <= 0.15 * np.array([height, width]) + 1e-3).all()
        expected = [_bilinear(before[..., 2], *place) for place in grid @ back]
        np.testing.assert_allclose(after[..., 2].ravel(), expected, atol=1e-4)
        corners = [[i, j] for i in (3, 7) for j in (4, 9)]
        corners = (np.array(corners) - 0.5 - back[2]) @ turned + 0.5
        around = np.concatenate([corners.min(0), corners.max(0)])
        around = np.clip(around, 0, [height, width] * 2)
        np.testing.assert_allclose(new[0], around, atol=2e-3)
        assert not np.asarray(new[1]).any()
    assert min(angles) < -25 and max(angles) > 25 and max(map(abs, angles)) <= 40.01
    assert 0.8 <= min(scales) < 0.9 and 1.2 < max(scales) <= 1.3001


def test_masks_move_with_their_images():
    """Bright pixels of the moved image are in the moved mask, dark ones are not."""
    images = np.zeros((20, 16, 16, 1), np.float32)
    images[:, 4:9, 5:12] = 1
    key, options = jax.random.key(3), {"degrees": 30, "shift": 0.2}
    moved = random_affine(key, jnp.asarray(images), **options)
    masks = jnp.asarray(images, jnp.int32) * 7
    labels = random_affine(key, masks, **options, nearest=True)
    assert labels.dtype == jnp.int32 and set(np.unique(labels)) == {0, 7}
    assert np.array_equal(
        np.asarray(moved) > 0.999, np.asarray(moved > 0.999) & (labels > 0)
    )
    assert not (np.asarray(labels > 0) & (np.asarray(moved) < 0.1)).any()
    for augment in (random_flip, lambda k, x: random_crop(k, x, 3)):
        both = [augment(key, x) for x in (jnp.asarray(images), masks)]
        assert np.array_equal(both[0] * 7, both[1])


def _coordinates(n, height, width):
    """Images whose channels are row, column and 1: they tell where pixels came from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.ones_like(rows)], -1)[None].repeat(n, 0)


def _box_of_pixels(seen, box):
    """The least box around the pixels of a moved image that came from inside `box`."""
    top, left, bottom, right = box
    places = [
        (i, j)
        for i, j in np.ndindex(*seen.shape[:2])
        if seen[i, j, 2]
        and top <= seen[i, j, 0] < bottom
        and left <= seen[i, j, 1] < right
    ]
    if not places:
        return [0, 0, 0, 0]
    rows, columns = zip(*places, strict=True)
    return [min(rows), min(columns), max(rows) + 1, max(columns) + 1]


@pytest.mark.parametrize(
    "move",
    [
        random_flip,
        lambda k, x, **how: alternating_flip(k, x, jnp.arange(len(x)), 1, **how),
        lambda k, x, **how: random_crop(k, x, 4, **how),
    ],
)
def test_boxes_are_where_the_pixels_within_them_went(move, rng):
    """Also those of the border, cut as the images are, and those without a pixel."""
    n, height, width = 40, 7, 10
    images, key = jnp.asarray(_coordinates(n, height, width)), jax.random.key(2)
    corners = rng.integers(0, (height, width), (2, n, 5, 2))
    boxes = np.concatenate([corners.min(0), corners.max(0) + 1], -1)
    boxes[:, 4, 2] = boxes[:, 4, 0]  # no height
    moved, found = jax.jit(move)(key, images, boxes=boxes)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(moved, move(key, images))
    expected = [
        [_box_of_pixels(seen, box) for box in of_image]
        for seen, of_image in zip(np.asarray(moved), boxes, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)
    assert (np.asarray(moved) != images).any((1, 2, 3)).sum() > n / 4


def test_cut_boxes_are_those_of_an_affine_map():
    """A shift by whole pixels is one that both can draw."""
    images = jnp.asarray(_coordinates(2, 8, 8))
    boxes = jnp.array([[[-3.0, 1, 2.5, 9], [6, 6, 12, 12], [5, 5, 4, 6]]] * 2)
    unmoved, expected = random_affine(jax.random.key(0), images, boxes=boxes)
    np.testing.assert_array_equal(unmoved, images)
    _, kept = random_crop(jax.random.key(0), images, 0, boxes=boxes)
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(kept[0], [[0, 1, 2.5, 8], [6, 6, 8, 8], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    "dtype, fill", [(np.uint8, 255), (np.float32, -1.5), (bool, 1)]
)
def test_pixels_from_outside_are_filled(dtype, fill):
    images, key = jnp.asarray(_images(60).astype(dtype)), jax.random.key(4)
    moved = np.asarray(random_crop(key, images, 2, fill=fill))
    filled = 0
    for before, after in zip(np.asarray(images), moved, strict=True):
        shifts = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
        shifted = [_shifted(before, *shift, fill=fill) for shift in shifts]
        assert any(np.array_equal(one, after) for one in shifted)
        filled += (after == fill).any()
    assert filled > 40
    # What is filled has come from no pixel, so zeros enter there too.
    how = {"degrees": 30, "shift": 0.2, "nearest": True}
    inside = random_affine(key, jnp.ones_like(images), **how)
    zeros = random_affine(key, images, **how)
    moved = random_affine(key, images, **how, fill=fill)
    expected = np.where(np.asarray(inside) == 1, zeros, np.asarray(fill, dtype))
    np.testing.assert_array_equal(moved, expected)
    assert moved.dtype == dtype and 0 < np.mean(np.asarray(inside) == 1) < 1


def test_a_fill_is_blended_where_pixels_are_interpolated(rng):
    """An image less its fill, filled with zeros, is the same image."""
    images = jnp.asarray(rng.normal(size=(9, 6, 8, 2)), jnp.float32)
    how = {"degrees": 45, "shift": 0.3, "scale": (0.5, 1.5)}
    filled = random_affine(jax.random.key(1), images, **how, fill=0.7)
    moved = random_affine(jax.random.key(1), images - 0.7, **how)
    np.testing.assert_allclose(filled, moved + 0.7, atol=1e-5)


def test_lists_are_images_too():
    """As for the other array functions."""
    images, key = _images(3).tolist(), jax.random.key(1)
    given, boxes = jnp.asarray(images), [[[0, 1, 2, 3]]] * 3
    for move in (
        lambda k, x: random_flip(k, x, boxes=boxes),
        lambda k, x: alternating_flip(k, x, [4, 5, 6], 0),
        lambda k, x: random_crop(k, x, 1),
        lambda k, x: cutmix(k, x, np.eye(3).tolist()),
        lambda _, x: average_views(lambda x: x.sum((1, 2)), x),
    ):
        jax.tree.map(np.testing.assert_array_equal, move(key, images), move(key, given))


def test_boxes_that_leave_the_image_are_empty():
    images, boxes = jnp.ones((50, 10, 10, 1)), jnp.array([[[0, 0, 2, 2]]] * 50)
    _, moved = random_affine(jax.random.key(0), images, shift=1, boxes=boxes)
    moved = np.asarray(moved[:, 0])
    gone = ~moved.any(-1)
    assert gone.any() and not gone.all()
    assert (moved[~gone, :2] < moved[~gone, 2:]).all()
    assert (moved >= 0).all() and (moved <= 10).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_erased_pixels_are_one_rectangle_of_the_size_drawn(dtype):
    images = _images(300, height=20, width=30, channels=2, dtype=dtype)
    erased = random_erase(
        jax.random.key(2),
        jnp.asarray(images),
        probability=0.5,
        area=(0.1, 0.2),
        aspect=(0.5, 2),
        fill=0,
    )
    erased = np.asarray(erased)
    assert erased.dtype == dtype
    changed = (erased != images).any(-1)
    assert np.array_equal(erased[~changed], images[~changed])
    assert (erased[changed] == 0).all()
    is_changed = changed.any((1, 2))
    assert 110 < is_changed.sum() < 190
    areas = []
    for mask in changed[is_changed]:
        rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width
        if 0 < rows[0] and rows[-1] < 19 and 0 < columns[0] and columns[-1] < 29:
            areas.append(height * width / 600)
            assert 0.35 < height / width < 2.8
    assert min(areas) > 0.07 and max(areas) < 0.23 and np.ptp(areas) > 0.05


def test_cutout_is_a_square_at_each_image():
    erased = random_erase(
        jax.random.key(2),
        jnp.ones((100, 8, 8, 1)),
        probability=1,
        area=(0.25, 0.25),
        aspect=(1, 1),
    )
    counts = 64 - np.asarray(erased.sum((1, 2, 3)))
    assert counts.max() == 16 and counts.min() >= 4


def test_mixup_is_a_blend_of_two_images_and_of_their_targets(rng):
    n = 60
    images = rng.normal(size=(n, 3, 4, 2)).astype(np.float32)
    targets = np.eye(n, dtype=np.float32)
    mixed, blended = mixup(
        jax.random.key(1), jnp.asarray(images), jnp.asarray(targets), alpha=0.4
    )
    # The targets tell how much there is of each image.
    np.testing.assert_allclose(blended.sum(1), 1, rtol=1e-6)
    assert ((np.asarray(blended) > 0).sum(1) <= 2).all()
    expected = np.einsum("nm,mhwc->nhwc", np.asarray(blended, np.float64), images)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    weights = np.diag(blended)
    assert weights.min() < 0.2 and weights.max() > 0.8


def test_cutmix_puts_a_rectangle_of_another_image_into_each(rng):
    n, height, width = 60, 12, 9
    images = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(height, 1)
    images = images.repeat(width, 2)
    mixed, blended = cutmix(
        jax.random.key(1), jnp.asarray(images), jnp.eye(n, dtype=jnp.float32)
    )
    mixed = np.asarray(mixed)[..., 0]
    for i, (image, target) in enumerate(zip(mixed, np.asarray(blended), strict=True)):
        others = set(np.unique(image)) - {i}
        assert len(others) <= 1
        np.testing.assert_allclose(target[i], (image == i).mean(), atol=1e-6)
        if others:
            other = others.pop()
            np.testing.assert_allclose(
                target[other], (image == other).mean(), atol=1e-6
            )
            rows, columns = np.where(image == other)
            area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert area == len(rows)
    assert np.diag(blended).min() < 0.3


def test_cutmix_cuts_the_targets_of_pixels_as_it_cuts_images(rng):
    labels = rng.integers(0, 3, (20, 8, 6))
    images = jnp.asarray(labels[..., None], jnp.float32)
    mixed, targets = cutmix(jax.random.key(2), images, jax.nn.one_hot(labels, 3))
    np.testing.assert_array_equal(targets.argmax(-1), mixed[..., 0])
    assert set(np.unique(targets)) == {0, 1} and (mixed != images).any()


def test_views_are_averaged(rng):
    images = rng.normal(size=(3, 6, 7, 2)).astype(np.float32)
    weights = rng.normal(size=(6, 7, 2)).astype(np.float32)

    def predict(images):
        return jnp.tanh(jnp.einsum("nhwc,hwc->n", images, weights))[:, None]

    def by_hand(down, right, mirror):
        rows = [_reflected(i - down, 6) for i in range(6)]
        columns = [_reflected(j - right, 7) for j in range(7)]
        view = images[:, rows][:, :, columns]
        view = view[:, :, ::-1] if mirror else view
        return np.tanh(np.einsum("nhwc,hwc->n", view.astype(np.float64), weights))

    def both(shift):
        return (by_hand(shift, shift, False) + by_hand(shift, shift, True)) / 2

    given = jnp.asarray(images)
    np.testing.assert_allclose(average_views(predict, given)[:, 0], both(0), atol=1e-5)
    shifted = both(0) / 2 + both(1) / 4 + both(-1) / 4
    np.testing.assert_allclose(
        average_views(predict, given, shift=1)[:, 0], shifted, atol=1e-5
    )
    alone = average_views(predict, given, mirror=False, shift=1)[:, 0]
    expected = by_hand(0, 0, False) / 2
    expected += (by_hand(1, 1, False) + by_hand(-1, -1, False)) / 4
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_predictions_of_pixels_are_mirrored_back(rng):
    """What commutes with mirroring is not changed by it; other predictions are."""
    images = jnp.asarray(rng.normal(size=(3, 6, 7, 2)), jnp.float32)
    np.testing.assert_array_equal(average_views(lambda x: x, images), images)
    ramp = jnp.arange(7.0)[None, None, :, None]
    found = average_views(lambda x: x + ramp, images)
    np.testing.assert_allclose(found, images + 3, rtol=1e-6)
    with pytest.raises(ValueError, match="shift must be 0.*got 1"):
        average_views(lambda x: x, images, shift=1)


def test_masks_of_bools_move_as_those_of_integers():
    mask = jnp.asarray(_images(4) > 120)
    for nearest in (True, False):
        moved = random_affine(jax.random.key(1), mask, degrees=40, nearest=nearest)
        as_int = mask.astype(jnp.uint8)
        other = random_affine(jax.random.key(1), as_int, degrees=40, nearest=nearest)
        assert moved.dtype == bool and 0 < moved.mean() < 1
        np.testing.assert_array_equal(moved, other.astype(bool))


def test_strengths_can_be_traced():
    """So sweeps can vary them."""
    images, targets = jnp.asarray(_images(4), jnp.float32), jnp.eye(4)
    key = jax.random.key(0)

    def all_of(strength):
        moved = random_affine(key, images, degrees=90 * strength, shift=strength)
        erased = random_erase(key, moved, probability=strength)
        return mixup(key, erased, targets, alpha=strength)

    for traced, plain in zip(jax.jit(all_of)(0.3), all_of(0.3)):
        np.testing.assert_allclose(traced, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda k, x: random_affine(k, x, degrees=200), "degrees.*200"),
        (lambda k, x: random_affine(k, x, shift=1.5), "shift.*1.5"),
        (lambda k, x: random_affine(k, x, scale=(2, 1)), "scale.*2, 1"),
        (lambda k, x: random_affine(k, x, boxes=jnp.ones((2, 4))), "boxes.*2, 4"),
        (lambda k, x: random_affine(k, x, fill=np.nan), "fill.*nan"),
        (lambda k, x: random_crop(k, x > 0, 1, fill=2), "fill must be from 0 to 1.*2"),
        (lambda k, x: random_crop(k, x, 1, boxes=jnp.ones((2, 4))), "boxes.*2, 4"),
        (lambda k, x: random_flip(k, x, boxes=jnp.ones((3, 1, 4))), "boxes.*3, 1, 4"),
        (lambda k, x: random_crop(k, x, 5, border="reflect"), "fewer than.*got 5"),
        (lambda k, x: random_crop(k, x, 1, border="wrap"), "border.*wrap"),
        (lambda k, x: random_erase(k, x, probability=2), "probability.*2"),
        (lambda k, x: random_erase(k, x, area=(0, 1)), "area.*0, 1"),
        (lambda k, x: random_erase(k, x.astype(jnp.uint8), fill=-1), "fill.*0 to 255"),
        (lambda k, x: alternating_flip(k, x, jnp.arange(3), 0), "indices.*3"),
        (lambda k, x: mixup(k, x, jnp.ones((3, 2))), "targets.*3, 2"),
        (lambda k, x: cutmix(k, x, jnp.ones((2, 2)), alpha=0), "alpha.*0"),
        (lambda k, x: mixup(k, x, jnp.ones((2, 2)), alpha=np.inf), "alpha.*inf"),
        (lambda k, x: cutmix(k, x, jnp.ones((2, 7, 5, 4))), r"targets.*2, 7, 5, 4"),
        (lambda k, x: average_views(jnp.sum, x, shift=-1), "shift.*-1"),
    ],
)
def test_bad_arguments_are_named(call, words):
    images = jnp.ones((2, 5, 7, 3))
    with pytest.raises(ValueError, match=words):
        call(jax.random.key(0), images)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_targets_are_probabilities(mix):
    images = jnp.ones((2, 5, 7, 3))
    with pytest.raises(TypeError, match="targets.*int32"):
        mix(jax.random.key(0), images, jnp.ones((2, 3), jnp.int32))


def test_bad_padding_is_refused():
    images = jnp.asarray(_images(2))
    with pytest.raises(ValueError, match="padding.*-1"):
        random_crop(jax.random.key(0), images, -1)
    with pytest.raises(TypeError):
        random_crop(jax.random.key(0), images, 1.5)  # pyright: ignore
