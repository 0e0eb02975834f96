"""Attribution: which pixels, or which places of a feature map, a score comes from.

All take a function from images [N, H, W, C] to scores [N, classes], for example
`lambda x: layer.apply(params, state, x)[0]`, and the class of each image, [N].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._shapes import integer
from .parts import evaluate

Scores = Callable[[jax.Array], jax.Array]


def input_gradient(scores: Scores, images: ArrayLike, classes: ArrayLike) -> jax.Array:
    """Return the gradient of the score of each image's class, [N, H, W, C].

    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2013),
    section 3; `jnp.abs(gradient).max(-1)` is its saliency map.

    Raises:
        ValueError: If scores are not [N, classes], or classes not N of them.

    >>> x = jnp.ones((1, 2, 2, 1))
    >>> input_gradient(lambda x: x.reshape(1, 4) ** 2, x, [2])[0, :, :, 0]
    Array([[0., 0.],
           [2., 0.]], dtype=float32)
    """
    return jax.grad(lambda x: _total(scores(x), classes))(jnp.asarray(images))


def integrated_gradients(
    scores: Scores,
    images: ArrayLike,
    classes: ArrayLike,
    *,
    baseline: ArrayLike = 0.0,
    steps: int = 64,
) -> jax.Array:
    """Return what each number of an image adds to its class's score, [N, H, W, C].

    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017),
    section 3: the sum is score(image) - score(baseline), as nearly as so many steps
    from one to the other tell.

    Args:
        scores, images, classes: As for all of this module.
        baseline: The image without information, of a shape that broadcasts.
        steps: Gradients that are averaged, at the middles of equal steps.

    >>> x = jnp.array([[[[3.0]]]])
    >>> integrated_gradients(lambda x: x.reshape(1, 1) ** 2, x, [0]).ravel()
    Array([9.], dtype=float32)
    """
    steps = integer("steps", steps, minimum=1)
    images = jnp.asarray(images)
    baseline = jnp.broadcast_to(baseline, images.shape)
    difference = images - baseline

    def add(total, at):
        return total + input_gradient(scores, baseline + at * difference, classes), None

    middles = (jnp.arange(steps, dtype=images.dtype) + 0.5) / steps
    total, _ = jax.lax.scan(add, jnp.zeros_like(images), middles)
    return total / steps * difference


def grad_cam(
    scores: Scores, images: ArrayLike, classes: ArrayLike, part: str
) -> jax.Array:
    """Return how much each place of a feature map speaks for the class, [N, h, w].

    Selvaraju et al., "Grad-CAM" (2017), section 3: the feature maps, weighted by their
    mean gradients, where the sum is positive.

    Args:
        scores, images, classes: As for all of this module.
        part: Path of the part whose output [N, h, w, features] is looked at, one of
            `part_outputs`.

    Raises:
        ValueError: If there is no such part, or its output is no feature map.

    >>> from jcnn import global_avg_pool, serial
    >>> net = serial(square=lambda x: x**2, mean=global_avg_pool)
    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> grad_cam(lambda x: net.apply({}, {}, x)[0], x, [0], "square")[0]
    Array([[0.  , 0.25],
           [1.  , 2.25]], dtype=float32)
    """
    images = jnp.asarray(images)
    shapes = jax.eval_shape(lambda x: evaluate(scores, x)[1], images)
    shape = shapes.get(part)
    if shape is None or shape.ndim != 4:
        maps = [name for name, shape in shapes.items() if shape.ndim == 4]
        raise ValueError(
            f"part must be one with an output [N, h, w, features], "
            f"{', '.join(maps)}, got {part!r}"
        )

    def total(added):
        found, outputs = evaluate(scores, images, {part: added})
        return _total(found, classes), outputs[part]

    gradient, maps = jax.grad(total, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    weights = gradient.mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * maps).sum(-1))


def _total(scores: jax.Array, classes: ArrayLike) -> jax.Array:
    classes = jnp.asarray(classes)
    if scores.ndim != 2 or classes.shape != scores.shape[:1]:
        raise ValueError(
            "scores must be [N, classes] for classes [N], got shapes "
            f"{scores.shape} and {classes.shape}"
        )
    return jnp.take_along_axis(scores, classes[:, None], 1).sum()
