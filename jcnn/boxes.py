"""Boxes [..., 4] as (top, left, bottom, right) in pixels: targets, detections, scores.

The true objects of images are [N, M, 5], a box and a class each; class -1 for none.
`grid_targets` and `decode_grid` are for a detector that says for each cell of a grid
which object has its centre there, and how far its sides are: Zhou et al., "Objects as
Points" (2019), with the sides of Tian et al., "FCOS" (2019), section 3.1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike

from .pool import max_pool


def grid_targets(
    objects: JaxArrayLike,
    *,
    size: tuple[int, ...],
    stride: int,
    num_classes: int,
) -> tuple[jax.Array, jax.Array]:
    """Return what a detector is to say about the objects of each image.

    Args:
        objects: [N, M, 5].
        size: Height and width of the grid.
        stride: Pixels of a cell.
        num_classes: Number of classes.

    Returns:
        Scores float32 [N, *size, num_classes], 1 where an object's centre is, else 0;
        distances float32 [N, *size, 4] from the cell's middle to top, left, bottom and
        right, in cells, 0 without an object.

    >>> objects = jnp.array([[[0.0, 4.0, 8.0, 8.0, 1.0]]])
    >>> scores, sides = grid_targets(objects, size=(2, 2), stride=4, num_classes=3)
    >>> scores[0, 1, 1], sides[0, 1, 1]
    (Array([0., 1., 0.], dtype=float32), Array([1.5, 0.5, 0.5, 0.5], dtype=float32))
    """
    height, width = size

    def of_image(objects):
        boxes, classes = objects[:, :4], objects[:, 4].astype(int)
        row, column = ((boxes[:, :2] + boxes[:, 2:]) // (2 * stride)).T.astype(int)
        row = jnp.where((classes < 0) | (row < 0), height, row)  # outside: dropped
        column = jnp.where(column < 0, width, column)
        middles = jnp.stack([row, column], -1) + 0.5
        corners = boxes / stride
        sides = jnp.concatenate([middles - corners[:, :2], corners[:, 2:] - middles], 1)
        scores = jnp.zeros((height, width, num_classes))
        return (
            scores.at[row, column, classes].set(1, mode="drop"),
            jnp.zeros((height, width, 4)).at[row, column].set(sides, mode="drop"),
        )

    return jax.vmap(of_image)(jnp.asarray(objects, jnp.float32))


def grid_loss(
    logits: JaxArrayLike,
    sides: JaxArrayLike,
    true_scores: JaxArrayLike,
    true_sides: JaxArrayLike,
) -> jax.Array:
    """Return the loss of each image [N]: focal loss of scores and error of distances.

    The focal loss is that of Lin et al., "Focal Loss" (2017), section 3, with alpha 0.9
    and gamma 2. The error is the mean absolute one, in cells, at the objects' centres.
    Both are divided by the number of objects.

    Args:
        logits: Of the scores [N, H, W, num_classes].
        sides: Distances [N, H, W, 4].
        true_scores, true_sides: As `grid_targets` gives them.

    >>> scores, sides = jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 1, 4))
    >>> grid_loss(jnp.full((1, 1, 1, 1), 99.0), sides + 0.5, scores, sides)
    Array([0.5], dtype=float32)
    """
    from optax.losses import sigmoid_focal_loss

    logits, sides = (jnp.asarray(x, jnp.float32) for x in (logits, sides))
    true_scores, true_sides = jnp.asarray(true_scores), jnp.asarray(true_sides)
    focal = sigmoid_focal_loss(logits, true_scores, alpha=0.9, gamma=2)
    there = true_scores.any(-1, keepdims=True)
    error = jnp.abs(sides - true_sides) * there / 4
    number = jnp.maximum(there.sum((1, 2, 3)), 1)
    return (focal.sum((1, 2, 3)) + error.sum((1, 2, 3))) / number


def decode_grid(
    scores: JaxArrayLike, sides: JaxArrayLike, *, stride: int, most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the best detections: cells whose score is the highest of 3x3 in its class.

    Where such cells are neighbours, so of the same score, the first one in reading
    order is taken.

    Args:
        scores: [N, H, W, num_classes], from 0 to 1.
        sides: Distances [N, H, W, 4] as `grid_targets` gives them.
        stride: Pixels of a cell.
        most: Number of detections for each image.

    Returns:
        Boxes [N, most, 4], scores and classes [N, most], the best first; class -1 with
        a score of 0 where there are fewer.

    >>> objects = jnp.array([[[0.0, 4.0, 8.0, 8.0, 1.0]]])
    >>> targets = grid_targets(objects, size=(2, 2), stride=4, num_classes=3)
    >>> decode_grid(*targets, stride=4, most=1)
    (Array([[[0., 4., 8., 8.]]], dtype=float32), Array([[1.]], dtype=float32),
     Array([[1]], dtype=int32))
    """
    scores, sides = jnp.asarray(scores), jnp.asarray(sides)
    n, height, width, num_classes = scores.shape
    is_peak = scores == _highest_around(scores)
    place = jnp.arange(height * width, 0, -1, jnp.float32).reshape(height, width, 1)
    order = jnp.where(is_peak, place[None], 0)
    peaks = jnp.where(is_peak & (order == _highest_around(order)), scores, 0)
    best, index = jax.lax.top_k(peaks.reshape(n, -1), most)
    cell, classes = jnp.divmod(index, num_classes)
    middles = jnp.stack(jnp.divmod(cell, width), -1) + 0.5
    sides = jnp.take_along_axis(sides.reshape(n, -1, 4), cell[..., None], 1)
    corners = [middles - sides[..., :2], middles + sides[..., 2:]]
    classes = jnp.where(best > 0, classes, -1)
    return jnp.concatenate(corners, -1) * stride, best, classes


def _highest_around(x: jax.Array) -> jax.Array:
    return max_pool(x, 3, strides=1, padding="SAME")


def box_iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Return the intersection over union of each pair of boxes.

    Args:
        a: Boxes [N, 4].
        b: Boxes [M, 4].

    Returns:
        float64 [N, M]; 0 where both are empty.

    Raises:
        ValueError: If the shapes do not fit.

    >>> box_iou([[0, 0, 2, 2]], [[0, 1, 2, 3], [5, 5, 6, 6]])
    array([[0.33333333, 0.        ]])
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    for name, x in (("a", a), ("b", b)):
        if x.size and (x.ndim != 2 or x.shape[1] != 4):
            raise ValueError(f"{name} must be boxes [N, 4], got shape {x.shape}")
    a, b = a.reshape(-1, 1, 4), b.reshape(1, -1, 4)
    top_left = np.maximum(a[..., :2], b[..., :2])
    bottom_right = np.minimum(a[..., 2:], b[..., 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), -1)
    areas = [np.prod(np.clip(x[..., 2:] - x[..., :2], 0, None), -1) for x in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def average_precision(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    objects: ArrayLike,
    *,
    num_classes: int,
    threshold: float = 0.5,
) -> np.ndarray:
    """Return the average precision of each class, over many images.

    Detections of a class go in the order of their scores. One is right if, of the true
    boxes of its image and class, the one it overlaps most is still free and their IoU
    is at least `threshold`. The precision at a recall is the best one at that recall or
    a higher one, and is integrated over all recalls: Everingham et al., "The Pascal
    Visual Object Classes Challenge: A Retrospective" (2015), section 2.2.

    Args:
        boxes: Detections [N, K, 4] of N images.
        scores: Their scores [N, K].
        classes: Their classes [N, K], integers; -1 for no detection.
        objects: True boxes and classes [N, M, 5].
        num_classes: Number of classes.
        threshold: Least IoU of a right detection.

    Returns:
        float64 [num_classes]; NaN for a class without true boxes. `np.nanmean` of it is
        the mean average precision.

    Raises:
        ValueError: If the shapes do not fit.

    >>> boxes, objects = [[[0, 0, 4, 4], [5, 5, 9, 9]]], [[[5, 5, 9, 9, 0]]]
    >>> average_precision(boxes, [[0.9, 0.8]], [[0, 0]], objects, num_classes=1)
    array([0.5])
    """
    boxes, objects = (np.asarray(x, np.float64) for x in (boxes, objects))
    scores, classes = np.asarray(scores), np.asarray(classes)
    given = (boxes.shape, scores.shape, classes.shape, objects.shape)
    n, k = scores.shape if scores.ndim == 2 else (0, 0)
    if given != ((n, k, 4), (n, k), (n, k), (n, *objects.shape[1:2], 5)):
        raise ValueError(
            "boxes, scores, classes and objects must be [N, K, 4], [N, K], [N, K] and "
            f"[N, M, 5], got {', '.join(map(str, given))}"
        )
    true_boxes, true_classes = objects[..., :4], objects[..., 4]
    found = np.full(num_classes, np.nan)
    for one in range(num_classes):
        total = (true_classes == one).sum()
        if total:
            images, places = np.nonzero(classes == one)
            order = np.argsort(-scores[images, places], kind="stable")
            detections = zip(images[order], places[order], strict=True)
            right = _right(
                [(image, boxes[image, place]) for image, place in detections],
                [b[c == one] for b, c in zip(true_boxes, true_classes, strict=True)],
                threshold,
            )
            found[one] = _area(right, int(total))
    return found


def _right(
    detections: list[tuple[int, np.ndarray]], truth: list[np.ndarray], threshold: float
) -> np.ndarray:
    """Return for each detection, best first, whether it is the first of a true box."""
    free = [np.ones(len(boxes), bool) for boxes in truth]
    right = np.zeros(len(detections), bool)
    for number, (image, box) in enumerate(detections):
        if len(truth[image]):
            overlaps = box_iou(box[None], truth[image])[0]
            best = overlaps.argmax()
            if overlaps[best] >= threshold and free[image][best]:
                free[image][best], right[number] = False, True
    return right


def _area(right: np.ndarray, total: int) -> float:
    """Return the area under the curve of precision over recall, made to fall only."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * right).sum() / total)
