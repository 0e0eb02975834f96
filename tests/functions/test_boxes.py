"""Boxes and average precision, against loops written from the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jcnn.boxes import average_precision, box_iou, decode_grid, grid_loss, grid_targets

CLASSES = 3
_BOX = [[0.0, 0.0, 2.0, 3.0]]


def _boxes(rng, *shape, size=20):
    corners = rng.uniform(0, size, (*shape, 2, 2))
    return np.concatenate([corners.min(-2), corners.max(-2)], -1)


def _overlap(a, b, samples=2000):
    """By counting points of a fine grid."""
    grid = (np.arange(samples) + 0.5) / samples * 20
    inside = []
    for top, left, bottom, right in (a, b):
        rows, columns = (grid > top) & (grid < bottom), (grid > left) & (grid < right)
        inside.append((rows, columns))
    both = [x & y for x, y in zip(*inside, strict=True)]
    areas = [float(r.sum()) * float(c.sum()) for r, c in [*inside, both]]
    return areas[2] / (areas[0] + areas[1] - areas[2])


def test_overlaps_are_those_of_counted_points(rng):
    a, b = _boxes(rng, 3), _boxes(rng, 4)
    expected = [[_overlap(x, y) for y in b] for x in a]
    np.testing.assert_allclose(box_iou(a, b), expected, atol=5e-3)


@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 2, 4), (2, 2)])
def test_overlaps_are_those_of_boxes(shape):
    for name, given in (("a", (np.ones(shape), _BOX)), ("b", (_BOX, np.ones(shape)))):
        with pytest.raises(ValueError, match=rf"{name} must be boxes \[N, 4\], got sh"):
            box_iou(*given)
    assert box_iou([], _BOX).shape == (0, 1) and box_iou(_BOX, []).shape == (1, 0)


def test_boxes_without_area_overlap_nothing():
    empty = [[3, 3, 3, 3], [5, 5, 4, 4]]
    assert (box_iou(empty, [*empty, [0, 0, 9, 9]]) == 0).all()


def _precision_of(one, boxes, scores, classes, true_boxes, true_classes):
    """Average precision by its definition, threshold by threshold of the score."""
    total, points = (true_classes == one).sum(), []
    if total == 0:
        return np.nan
    for least in np.unique(scores[classes == one]):
        hits = found = 0
        for image in range(len(boxes)):
            wanted = true_boxes[image][true_classes[image] == one]
            own = (classes[image] == one) & (scores[image] >= least)
            used = set()
            for place in sorted(np.flatnonzero(own), key=lambda i: -scores[image, i]):
                found += 1
                if len(wanted):
                    overlaps = [
                        box_iou([boxes[image, place]], [w])[0, 0] for w in wanted
                    ]
                    best = int(np.argmax(overlaps))
                    if overlaps[best] >= 0.5 and best not in used:
                        used.add(best)
                        hits += 1
        points.append((hits / total, hits / found))
    area, last = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    return area


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    true_boxes, true_classes = _boxes(rng, 6, 3), rng.integers(-1, CLASSES, (6, 3))
    near = np.concatenate([true_boxes, true_boxes], 1) + rng.normal(size=(6, 6, 4))
    scores = rng.permutation(36).reshape(6, 6) / 36
    classes = np.concatenate([true_classes, rng.integers(-1, CLASSES, (6, 3))], 1)
    given, objects = (near, scores, classes), _objects(true_boxes, true_classes)
    found = average_precision(*given, objects, num_classes=CLASSES)
    expected = [
        _precision_of(one, *given, true_boxes, true_classes) for one in range(CLASSES)
    ]
    np.testing.assert_allclose(found, expected)
    assert 0 < np.nanmean(found) < 1


def test_a_class_without_true_boxes_has_no_precision():
    objects = [[[0, 0, 4, 4, 0]]]
    found = average_precision([[[0, 0, 4, 4]]], [[0.5]], [[1]], objects, num_classes=3)
    np.testing.assert_array_equal(found, [0, np.nan, np.nan])


def test_shapes_that_do_not_fit_are_rejected():
    given = [np.zeros(shape) for shape in ((2, 3, 4), (2, 4), (2, 3), (2, 3, 5))]
    with pytest.raises(ValueError, match=r"must be \[N, K, 4\]"):
        average_precision(*given, num_classes=2)


def _objects(boxes, classes):
    return np.concatenate([boxes, classes[..., None]], -1).astype(np.float32)


def _scene(rng):
    """Boxes in different cells of 4 pixels, the last of each image no object."""
    corner = rng.integers(0, 4, (2, 3, 2)) + 12 * np.array([[0, 0], [0, 1], [1, 0]])
    size = rng.integers(3, 8, (2, 3, 2))
    classes = rng.integers(0, CLASSES, (2, 3))
    classes[:, 2] = -1
    boxes = np.concatenate([corner, corner + size], -1).astype(np.float32)
    return boxes, classes, _objects(boxes, classes)


HOW = {"size": (6, 6), "stride": 4, "num_classes": CLASSES}


def test_targets_are_at_the_cell_of_each_centre(rng):
    boxes, classes, objects = _scene(rng)
    scores, sides = map(np.asarray, grid_targets(objects, **HOW))
    expected, distances = np.zeros((2, 6, 6, CLASSES)), np.zeros((2, 6, 6, 4))
    for image in range(2):
        for (top, left, bottom, right), one in zip(boxes[image], classes[image]):
            if one >= 0:
                row, column = int((top + bottom) / 8), int((left + right) / 8)
                expected[image, row, column, one] = 1
                y, x = 4 * row + 2, 4 * column + 2
                far = np.array([y - top, x - left, bottom - y, right - x])
                distances[image, row, column] = far / 4
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_allclose(sides, distances)


def test_decoding_gives_back_what_the_targets_say(rng):
    boxes, classes, objects = _scene(rng)
    scores, sides = grid_targets(objects, **HOW)
    found, best, of_class = map(
        np.asarray, decode_grid(scores, sides, stride=4, most=4)
    )
    np.testing.assert_array_equal(best, [[1, 1, 0, 0]] * 2)
    for image in range(2):
        pairs = [(*b, c) for b, c in zip(found[image].tolist(), of_class[image])]
        for box, one in zip(boxes[image, :2], classes[image, :2]):
            assert (*box.tolist(), one) in pairs


def test_only_peaks_are_detected(rng):
    scores = rng.uniform(size=(1, 5, 7, 2)).astype(np.float32)
    _, best, classes = decode_grid(scores, np.zeros((1, 5, 7, 4)), stride=1, most=70)
    padded = np.pad(scores[0], ((1, 1), (1, 1), (0, 0)))
    peaks = [
        (float(scores[0, r, c, k]), k)
        for r, c, k in np.ndindex(5, 7, 2)
        if scores[0, r, c, k] == padded[r : r + 3, c : c + 3, k].max()
    ]
    number = len(peaks)
    found = list(zip(best[0, :number].tolist(), classes[0, :number].tolist()))
    assert found == sorted(peaks, reverse=True)
    assert (best[0, number:] == 0).all() and (classes[0, number:] == -1).all()


def _first_peaks(scores):
    """Peaks by comparing cells one by one; of equal neighbours among them the first."""
    height, width = scores.shape
    near = {
        (r, c): [
            (i, j)
            for i, j in np.ndindex(height, width)
            if max(abs(i - r), abs(j - c)) == 1
        ]
        for r, c in np.ndindex(height, width)
    }
    peaks = [at for at in near if all(scores[at] >= scores[one] for one in near[at])]
    return [
        at for at in peaks if not any(one in peaks and one < at for one in near[at])
    ]


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_neighbours_of_equal_scores_are_one_detection(levels, rng):
    scores = rng.integers(1, levels + 1, (3, 6, 7, 2)).astype(np.float32) / 8
    # A box around each cell, by which it is found again.
    sides = np.full((3, 6, 7, 4), 0.5, np.float32)
    boxes, best, classes = decode_grid(scores, sides, stride=1, most=84)
    boxes, best, classes = map(np.asarray, (boxes, best, classes))
    for image in range(3):
        for one in range(2):
            expected = _first_peaks(scores[image, ..., one])
            cells = boxes[image][classes[image] == one, :2]
            assert sorted(map(tuple, cells.tolist())) == sorted(expected)
    assert ((best > 0) == (classes >= 0)).all() and (levels > 1 or best.sum() == 6 / 8)


def test_objects_whose_middle_is_outside_have_no_cell():
    boxes = [[-9.0, 0, 1, 8, 0], [0, -9, 8, 1, 1], [9, 0, 19, 8, 2], [0, 6, 8, 14, 0]]
    scores, sides = grid_targets([boxes], size=(2, 3), stride=4, num_classes=CLASSES)
    assert scores.sum() == scores[0, 1, 2, 0] == 1
    assert np.argwhere(np.asarray(sides).any(-1)).tolist() == [[0, 1, 2]]


def test_the_loss_is_focal_and_counts_distances_at_centres_only(rng):
    boxes, classes, objects = _scene(rng)
    scores, sides = map(np.asarray, grid_targets(objects, **HOW))
    logits, guess = rng.normal(size=scores.shape), rng.normal(size=sides.shape)
    expected = np.zeros(2)
    p = 1 / (1 + np.exp(-logits))
    right = np.where(scores == 1, p, 1 - p)
    weight = np.where(scores == 1, 0.9, 0.1)
    for image in range(2):
        focal = -(weight * (1 - right) ** 2 * np.log(right))[image].sum()
        there = scores[image].any(-1)
        error = np.abs(guess - sides)[image][there].sum() / 4
        expected[image] = (focal + error) / there.sum()
    found = grid_loss(logits, guess, scores, sides)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    smooth = jnp.asarray(logits, jnp.float32)
    check_grads(lambda x: grid_loss(x, guess, scores, sides), (smooth,), order=2)


def test_an_image_without_objects_has_a_finite_loss():
    empty = jnp.zeros((1, 2, 2, CLASSES)), jnp.zeros((1, 2, 2, 4))
    found = jax.jit(grid_loss)(jnp.full((1, 2, 2, CLASSES), -9.0), empty[1], *empty)
    assert 0 <= float(found[0]) < 1e-3
