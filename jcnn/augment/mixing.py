"""Parts of images replaced, by a colour or by another image, and blends of images."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._shapes import number
from .checks import as_images, check_fill


def random_erase(
    key: jax.Array,
    images: ArrayLike,
    *,
    probability: ArrayLike = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 3.3),
    fill: ArrayLike = 0,
) -> jax.Array:
    """Fill a rectangle of some of the images: Zhong et al., "Random Erasing" (2017).

    Area and logarithm of the aspect are uniform; the rectangle is cut at the border.
    `probability=1, area=(0.25, 0.25), aspect=(1, 1)` is Cutout (DeVries and Taylor,
    "Improved Regularization of Convolutional Neural Networks with Cutout" (2017)).

    Args:
        key: PRNG key; one key draws the rectangles of the whole batch.
        images: Batch of images [N, H, W, C], of any dtype.
        probability: With which an image is changed, from 0 to 1.
        area: Least and greatest area of a rectangle, as a fraction of the image.
        aspect: Least and greatest ratio of its height to its width.
        fill: The value that its pixels get.

    Returns:
        The images, of the shape and dtype of `images`.

    Raises:
        ValueError: If `images` has no four axes, or an argument is not as above.

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.ones((64, 8, 8, 1))
    >>> erased = random_erase(jax.random.key(0), images, probability=1)
    >>> bool((erased.min((1, 2, 3)) == 0).all())
    True
    """
    images = as_images(images)
    fill = check_fill(fill, images.dtype)
    probability = number("probability", probability, 0, 1)
    for name, (low, high), most in (("area", area, 1), ("aspect", aspect, np.inf)):
        if not 0 < low <= high <= most:
            raise ValueError(
                f"{name} must be (least, greatest), more than 0 and at most {most}, "
                f"got {(low, high)}"
            )
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 4)
    fraction = jax.random.uniform(keys[0], (n,), minval=area[0], maxval=area[1])
    low, high = np.log(aspect)
    ratio = jnp.exp(jax.random.uniform(keys[1], (n,), minval=low, maxval=high))
    pixels = fraction * (height * width)
    sizes = jnp.stack([jnp.sqrt(pixels * ratio), jnp.sqrt(pixels / ratio)], -1)
    inside = _rectangles(keys[2], sizes, height, width)
    inside &= jax.random.bernoulli(keys[3], probability, (n, 1, 1))
    return jnp.where(inside[..., None], jnp.asarray(fill, images.dtype), images)


def mixup(
    key: jax.Array, images: ArrayLike, targets: ArrayLike, *, alpha: ArrayLike = 0.2
) -> tuple[jax.Array, jax.Array]:
    """Blend each image and its target with another one's: Zhang et al., "mixup" (2017).

    Args:
        key: PRNG key; one key draws partners and weights of the whole batch.
        images: Batch of images [N, H, W, C], of a floating dtype.
        targets: Probabilities of the classes [N, …], such as `jax.nn.one_hot` gives.
        alpha: The weights are drawn from Beta(alpha, alpha); more than 0.

    Returns:
        Images and targets, of the shapes and dtypes given.

    Raises:
        TypeError: If images or targets are integers.
        ValueError: If a shape or an argument is not as above.

    >>> import jax, jax.numpy as jnp
    >>> images, targets = jnp.ones((4, 2, 2, 1)), jnp.eye(4)
    >>> _, mixed = mixup(jax.random.key(0), images, targets)
    >>> mixed.sum(-1).round(5).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    images, targets = _check_mixed(images, targets, alpha)
    _check_floating("images", images)
    of_partner, of_weight = jax.random.split(key)
    partner = jax.random.permutation(of_partner, len(images))
    weight = jax.random.beta(of_weight, alpha, alpha, images.shape[:1])
    return _blend(weight, images, partner), _blend(weight, targets, partner)


def cutmix(
    key: jax.Array, images: ArrayLike, targets: ArrayLike, *, alpha: ArrayLike = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Put a rectangle of another image into each: Yun et al., "CutMix" (2019).

    Targets are blended by the number of pixels that came from either image; those of
    pixels are cut and put as the image is.

    Args:
        key: PRNG key; one key draws partners and rectangles of the whole batch.
        images: Batch of images [N, H, W, C], of any dtype.
        targets: Probabilities [N, classes] or, of each pixel, [N, H, W, classes].
        alpha: The part of an image that is kept is drawn from Beta(alpha, alpha),
            before the rectangle is cut at the border; more than 0.

    Returns:
        Images and targets, of the shapes and dtypes given.

    Raises:
        TypeError: If the targets are integers.
        ValueError: If a shape or an argument is not as above.

    >>> import jax, jax.numpy as jnp
    >>> images, targets = jnp.ones((4, 2, 2, 1)), jnp.eye(4)
    >>> _, mixed = cutmix(jax.random.key(0), images, targets)
    >>> mixed.sum(-1).round(5).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    images, targets = _check_mixed(images, targets, alpha)
    n, height, width, _ = images.shape
    of_partner, of_size, of_place = jax.random.split(key, 3)
    partner = jax.random.permutation(of_partner, n)
    side = jnp.sqrt(1 - jax.random.beta(of_size, alpha, alpha, (n, 1)))
    sizes = side * jnp.array([[height, width]])
    inside = _rectangles(of_place, sizes, height, width)
    mixed = jnp.where(inside[..., None], images[partner], images)
    if targets.ndim != 2 and targets.shape[1:-1] != (height, width):
        raise ValueError(
            f"targets must be [{n}, classes] or [{n}, {height}, {width}, classes], got "
            f"shape {targets.shape}"
        )
    if targets.ndim != 2:  # of pixels
        return mixed, jnp.where(inside[..., None], targets[partner], targets)
    return mixed, _blend(1 - inside.mean((1, 2)), targets, partner)


def _rectangles(key, sizes, height: int, width: int) -> jax.Array:
    """Which pixels [N, H, W] are in rectangles of `sizes` [N, 2] at random places."""
    centres = jax.random.uniform(key, sizes.shape) * jnp.array([[height, width]])
    starts = jnp.round(centres - sizes / 2)
    ends = starts + jnp.round(sizes)

    def along(axis: int, length: int):
        place = jnp.arange(length)[None]
        return (place >= starts[:, axis, None]) & (place < ends[:, axis, None])

    return along(0, height)[:, :, None] & along(1, width)[:, None, :]


def _blend(weight: jax.Array, values: jax.Array, partner: jax.Array) -> jax.Array:
    weight = weight.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    return weight * values + (1 - weight) * values[partner]


def _check_mixed(
    images: ArrayLike, targets: ArrayLike, alpha: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    images, targets = as_images(images), jnp.asarray(targets)
    if targets.ndim < 2 or len(targets) != len(images):
        raise ValueError(
            f"targets must be probabilities [{len(images)}, classes], got shape "
            f"{targets.shape}: jax.nn.one_hot makes them of labels"
        )
    _check_floating("targets", targets)
    if not isinstance(number("alpha", alpha, 0), jax.Array) and alpha == 0:
        raise ValueError(f"alpha must be more than 0, got {alpha!r}")
    return images, targets


def _check_floating(name: str, values: jax.Array) -> None:
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name} must be of a floating dtype, got {values.dtype}")
