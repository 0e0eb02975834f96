"""A labelled set of images, and the checks that every one has passed."""

import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class DataError(ValueError):
    """An error in the files of a data set. The message names the set."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with one class label each, made by `load` or `from_arrays`.

    Attributes:
        image: Images [N, H, W, C], uint8 in 0..255 or finite float32; of a streamed
            set (`is_streamed`) `StreamedImages`, which are read when they are needed.
        label: Labels [N], int32 in 0..num_classes - 1.
        num_classes: Number of classes.
        class_names: Names of the classes in the order of the labels, if known.
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
    """Return a data set of your own arrays, after checking them.

    Arrays of the right dtype are not copied.

    Args:
        image: Images [N, H, W, C], uint8 or any float dtype (converted to float32).
        label: Labels [N] of any integer dtype (converted to int32), from 0 to
            num_classes - 1.
        num_classes: Number of classes, at least 1.
        class_names: Names of the classes.

    Raises:
        TypeError: If a dtype is not one of those above, an array is masked, num_classes
            is not an int, or a name is not a str.
        ValueError: If a shape is wrong or looks like [N, C, H, W] (at most 4 high, but
            more than 4 wide and more than 4 channels), there is no pixel, or a value is
            out of range.

    >>> import numpy as np
    >>> from_arrays(np.zeros((2, 8, 8, 1), np.uint8), [0, 2], num_classes=3)
    Dataset(image=uint8[2, 8, 8, 1], label=int32[2], num_classes=3)
    """
    image, label = _array("image", image), _array("label", label)
    _check_shapes(image, label)
    num_classes = _count(num_classes)
    names = _names(class_names, num_classes)
    return Dataset(_pixels(image), _labels(label, num_classes), num_classes, names)


def _array(name: str, value: Any) -> np.ndarray:
    parts = value if isinstance(value, list | tuple) else ()
    if any(map(np.ma.isMaskedArray, (value, *parts))):
        raise TypeError(  # NumPy would silently return what is under the mask
            f"{name} must be a plain array, got a masked one; fill it first, for "
            f"instance by {name}.filled(0)"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array: {error}") from error


def _check_shapes(image: np.ndarray, label: np.ndarray) -> None:
    shape, hint = image.shape, ""
    if image.ndim == 3:
        hint = "; add the channel by image[..., None]"
    if image.ndim == 4 and 0 < shape[1] <= 4 < min(shape[2:]):
        hint = ", which looks like [N, C, H, W]; use image.transpose(0, 2, 3, 1)"
    if image.ndim != 4 or hint:
        raise ValueError(f"image must be [N, H, W, C], got shape {shape}{hint}")
    if image.size == 0:
        raise ValueError(f"image must not be empty, got shape {shape}")
    if label.shape != shape[:1]:
        raise ValueError(
            f"label must have shape {shape[:1]}, one for each image, got {label.shape}"
        )


def _count(num_classes: Any) -> int:
    if isinstance(num_classes, bool) or not hasattr(num_classes, "__index__"):
        raise TypeError(f"num_classes must be an int, got {num_classes!r}")
    count = operator.index(num_classes)
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
            f"class_names must have {num_classes} names, one for each class, got "
            f"{len(names)}"
        )
    return tuple(names)


def _pixels(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image must have dtype uint8 or float, got {image.dtype}")
    with np.errstate(over="ignore"):  # too large for float32: reported just below
        image = image.astype(np.float32, copy=False)
    _check_values("image", image, np.isfinite(image), "finite in float32")
    return image


def _labels(label: np.ndarray, num_classes: int) -> np.ndarray:
    if not np.issubdtype(label.dtype, np.integer):
        raise TypeError(f"label must have an integer dtype, got {label.dtype}")
    good = (label >= 0) & (label < num_classes)
    _check_values("label", label, good, f"from 0 to {num_classes - 1}")
    return label.astype(np.int32, copy=False)


def _check_values(name: str, values: np.ndarray, good: np.ndarray, what: str) -> None:
    if not good.all():
        index = tuple(int(i) for i in np.unravel_index(np.argmin(good), good.shape))
        raise ValueError(f"{name} must be {what}, got {values[index]} at {list(index)}")
