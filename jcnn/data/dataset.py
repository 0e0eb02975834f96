"""A labelled set of images, and the checks every one of them has passed."""

import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class DataError(ValueError):
    """Files of a data set cannot be used; the message names the set and the fault."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with one class label each; made by `load` or `from_arrays`.

    Attributes:
        image: [N, H, W, C], uint8 in 0..255 or finite float32.
        label: [N], int32 in 0..num_classes - 1.
        num_classes: how many classes there are.
        class_names: their names in the order of the labels, if these are known.
    """

    image: np.ndarray
    label: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        image, label = (f"{x.dtype}{list(x.shape)}" for x in (self.image, self.label))
        names = self.class_names and f", class_names={reprlib.repr(self.class_names)}"
        classes = f"num_classes={self.num_classes}{names or ''}"
        return f"Dataset({image=!s}, {label=!s}, {classes})"


def from_arrays(
    image: ArrayLike,
    label: ArrayLike,
    num_classes: int,
    *,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Makes a data set of your own arrays, after checking them.

    Nothing is copied where the dtype is already right.

    Args:
        image: [N, H, W, C], uint8, or any float dtype (becomes float32).
        label: [N], any integer dtype, 0 <= label < num_classes (becomes int32).
        num_classes: at least 1.
        class_names: one for each class.

    Returns:
        The data set.

    Raises:
        TypeError: a dtype is not one of those above, an array is masked, num_classes
            is not an int, or a name is not a str.
        ValueError: a shape does not fit or looks like [N, C, H, W] (at most 4 high,
            but more than 4 wide and with more than 4 channels), there is no pixel at
            all, or a value is out of range; the message has the index of the first
            bad one.

    >>> import numpy as np
    >>> from_arrays(np.zeros((2, 8, 8, 1), np.uint8), [0, 2], num_classes=3)
    Dataset(image=uint8[2, 8, 8, 1], label=int32[2], num_classes=3)
    """
    image, label = _array("image", image), _array("label", label)
    if image.ndim == 4 and 0 < image.shape[1] <= 4 < min(image.shape[2:]):
        raise ValueError(
            f"image has shape {image.shape}, which looks like [N, C, H, W]; it must be "
            "[N, H, W, C]: image.transpose(0, 2, 3, 1)"
        )
    num_classes = _count(num_classes)
    if image.ndim != 4:
        hint = "; add the channel with image[..., None]" if image.ndim == 3 else ""
        raise ValueError(
            f"image has shape {image.shape}; it must be [N, H, W, C]{hint}"
        )
    if image.size == 0:
        raise ValueError(f"image has shape {image.shape}: it is empty")
    if label.shape != image.shape[:1]:
        raise ValueError(
            f"label has shape {label.shape}; it must be {image.shape[:1]}, "
            f"one for each of the {len(image)} images"
        )
    names = _names(class_names, num_classes)
    return Dataset(_pixels(image), _labels(label, num_classes), num_classes, names)


def _array(name: str, value: Any) -> np.ndarray:
    parts = value if isinstance(value, list | tuple) else ()
    if any(map(np.ma.isMaskedArray, (value, *parts))):
        raise TypeError(  # NumPy would silently give what is under the mask
            f"{name} is a masked array; it must be a plain one: say what is to be in "
            f"the masked places, {name}.filled(0) for instance"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from error


def _count(num_classes: Any) -> int:
    try:
        count = operator.index(num_classes)
    except TypeError:
        count = None
    if count is None or isinstance(num_classes, bool):
        raise TypeError(f"num_classes must be an int, got {num_classes!r}")
    if not 1 <= count <= 2**31:  # labels are int32
        raise ValueError(f"num_classes must be from 1 to 2**31, got {count}")
    return count


def _names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names must be a list of str, got {reprlib.repr(names)}")
    if len(names) != num_classes:
        raise ValueError(
            f"class_names has {len(names)} names; it must have {num_classes}, one for "
            "each class"
        )
    return tuple(names)


def _pixels(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image has dtype {image.dtype}; it must be uint8 or float")
    with np.errstate(over="ignore"):  # too large for float32: reported just below
        image = image.astype(np.float32, copy=False)
    bad = ~np.isfinite(image)
    if bad.any():
        index = _first(bad)
        raise ValueError(
            f"image{list(index)} is {image[index]} as float32; it must be finite"
        )
    return image


def _labels(label: np.ndarray, num_classes: int) -> np.ndarray:
    if not np.issubdtype(label.dtype, np.integer):
        raise TypeError(f"label has dtype {label.dtype}; it must be an integer dtype")
    bad = (label < 0) | (label >= num_classes)
    if bad.any():
        index = _first(bad)
        raise ValueError(
            f"label{list(index)} is {label[index]}; "
            f"it must be from 0 to {num_classes - 1} (num_classes={num_classes})"
        )
    return label.astype(np.int32, copy=False)


def _first(bad: np.ndarray) -> tuple[int, ...]:
    """Index of the first true element."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
