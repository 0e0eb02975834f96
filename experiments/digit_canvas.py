"""Canvases of several handwritten digits on a noisy ground, composed on the device.

`make_batch_at` makes batches of them from MNIST for each training step, `fixed_set` the
same set of them always. Later digits lie on earlier ones, and one that finds no place
in some tries is left out. Without overlap they are as M2NIST's (64x84, up to 3 digits).
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jcnn.data import Dataset
from jcnn.layers import child_key
from jcnn.train import BatchAt

SIDE = 28  # of a digit
BACKGROUND = 10  # the class of pixels without a digit
_TRIES = 16


class Canvas(NamedTuple):
    """Canvases, or one without the first axis."""

    image: jax.Array  # uint8 [N, H, W, 1]
    mask: jax.Array  # int32 [N, H, W]: 0 to 9, BACKGROUND elsewhere
    objects: jax.Array  # float32 [N, K, 5]: the box of the ink, as in jcnn.boxes


class Kind(NamedTuple):
    """The kind of canvases."""

    size: tuple[int, int] = (64, 64)
    most: int = 5
    overlap: float = 0.25  # greatest part of a digit's ink that lies on others'


def compose(key: jax.Array, digits, number: int, kind: Kind) -> Canvas:
    """Compose so many canvases of {"image": …, "label": …}."""
    keys = jax.random.split(key, number)
    return jax.vmap(partial(_compose_one, digits=digits, kind=kind))(keys)


def make_batch_at(kind: Kind, label: str) -> BatchAt:
    """Return a recipe's `batch_at` of new canvases; `label` is a field of `Canvas`."""

    def batch_at(key, step, data, batch_size):
        key = jax.random.fold_in(child_key(key, "canvas"), step)
        canvas = compose(key, data, batch_size, kind)
        return {"image": canvas.image, "label": getattr(canvas, label)}

    return batch_at


def fixed_set(digits: Dataset, kind: Kind, label: str) -> Dataset:
    """Return canvases, a fifth as many as there are digits, the same ones always."""
    make = jax.jit(partial(compose, number=len(digits.label) // 5, kind=kind))
    data = {"image": digits.image, "label": digits.label}
    canvases = jax.tree.map(np.asarray, make(jax.random.key(0), data))
    labels = getattr(canvases, label)
    return dataclasses.replace(digits, image=canvases.image, label=labels)


def _compose_one(key: jax.Array, digits, kind: Kind) -> Canvas:
    (height, width), most = kind.size, kind.most
    named = partial(child_key, key)
    count = jax.random.randint(named("count"), (), 1, most + 1)
    which = jax.random.randint(named("which"), (most,), 0, len(digits["label"]))
    room = jnp.array([height - SIDE + 1, width - SIDE + 1])
    corners = jax.random.randint(
        named("corner"), (most, _TRIES, 2), 0, room[None, None]
    )
    images, classes = digits["image"][which, ..., 0], digits["label"][which]

    def place(index, canvas):
        ink, mask, objects = canvas
        digit = images[index]

        def free(corner):
            taken = lax.dynamic_slice(ink, corner, digit.shape) > 0
            return (taken & (digit > 0)).sum() <= kind.overlap * (digit > 0).sum()

        fits = jax.vmap(free)(corners[index])
        corner = corners[index, jnp.argmax(fits)]
        visible = fits.any() & (index < count)
        digit = jnp.where(visible, digit, 0)
        old = lax.dynamic_slice(ink, corner, digit.shape)
        ink = lax.dynamic_update_slice(ink, jnp.maximum(old, digit), corner)
        old = lax.dynamic_slice(mask, corner, digit.shape)
        new = jnp.where(digit > 127, classes[index], old)
        mask = lax.dynamic_update_slice(mask, new, corner)
        box = jnp.tile(corner, 2) + _extent(images[index] > 127)
        found = jnp.append(box, classes[index]).astype(jnp.float32)
        return ink, mask, objects.at[index].set(jnp.where(visible, found, nothing))

    nothing = jnp.array([0.0, 0.0, 0.0, 0.0, -1.0])
    empty = (
        jnp.zeros(kind.size, jnp.uint8),
        jnp.full(kind.size, BACKGROUND),
        jnp.tile(nothing, (most, 1)),
    )
    ink, mask, objects = lax.fori_loop(0, most, place, empty)
    noise = jax.random.uniform(named("noise"), kind.size, maxval=100.0)
    image = jnp.maximum(ink, noise).astype(jnp.uint8)
    return Canvas(image[..., None], mask, objects)


def _extent(ink: jax.Array) -> jax.Array:
    """Return top, left, bottom and right of what is ink."""
    rows, columns = ink.any(1), ink.any(0)
    starts = [jnp.argmax(a) for a in (rows, columns)]
    ends = [SIDE - jnp.argmax(a[::-1]) for a in (rows, columns)]
    return jnp.stack(starts + ends)
