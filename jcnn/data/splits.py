"""Parts and sums of splits, in the notation of tensorflow-datasets."""

import re
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from .dataset import DataError, Dataset
from .streamed import join

_BOUND = r"(-?\d+%?|-?\d*\.?\d+%)?"
_PART = re.compile(rf"([\w.-]+)\[{_BOUND}:{_BOUND}\]", re.ASCII)


def select(text: str, load_split: Callable[[str], Dataset]) -> Dataset:
    """Return parts of splits, concatenated.

    Args:
        text: A split, part or sum: `train`, `train[:90%]`, `train[-100:]+test`.
        load_split: Function that returns a whole split. What is no part or sum is
            taken for the name of a split.

    Raises:
        TypeError: If `text` is not a str.
        ValueError: If a part is out of range, or there is no example in all of them.
        DataError: If the splits' images have several sizes.

    >>> from .dataset import from_arrays
    >>> whole = from_arrays(np.zeros((10, 3, 3, 1)), [0] * 10, 1)
    >>> select("test[-25%:] + test[:3]", lambda split: whole)
    Dataset(image=float32[5, 3, 3, 1], label=int32[5], num_classes=1)
    """
    if not isinstance(text, str):
        raise TypeError(f"split must be a str, got {text!r}")
    load_split = cache(load_split)
    images, labels, first = [], [], None
    for term in re.split(r"\s*\+\s*", text.strip()):
        match = _PART.fullmatch(term)
        split, start, stop = match.groups() if match else (term, None, None)
        whole = load_split(split)
        if term == text and not match:
            return whole
        place = _slice(split, start, stop, len(whole.label))
        images.append(whole.image[place])
        labels.append(whole.label[place])
        first = first or whole
        if (size := images[-1].shape[1:]) != images[0].shape[1:]:
            raise DataError(
                f"split must have images of one size, got {images[0].shape[1:]} and "
                f"{size} in {text!r}"
            )
    if first is None or not any(map(len, labels)):
        raise ValueError(f"split must have at least one example, got {text!r}")
    image, label = join(images), np.concatenate(labels)
    return Dataset(image, label, first.num_classes, first.class_names)


def check_split(split: str, known: Iterable[str], name: str) -> None:
    """Raise ValueError if the set `name` has no such split.

    >>> check_split("val", ["train", "test"], "tiny:1.0.0")
    Traceback (most recent call last):
    ValueError: split must be 'train' or 'test' of tiny:1.0.0, or a part or sum such as
    'train[:90%]+train[-5:]', got 'val'
    """
    if split not in known:
        raise ValueError(
            f"split must be {' or '.join(map(repr, known))} of {name}, or a part or "
            f"sum such as 'train[:90%]+train[-5:]', got {split!r}"
        )


def _slice(split: str, start: str | None, stop: str | None, count: int) -> slice:
    percent = "%" if "%" in f"{start}{stop}" else ""
    most = 100 if percent else count

    def index(bound: str | None) -> int | None:
        if bound is None:
            return None
        number = float(bound.rstrip("%"))
        if abs(number) > most:
            raise ValueError(
                f"split must have bounds from -{most}{percent} to {most}{percent} of "
                f"{split!r}, got {bound}"
            )
        # Like tensorflow-datasets, `round` takes halves to even numbers.
        value = round(number * count / 100) if percent else int(number)
        return value + count if value < 0 else value

    return slice(index(start), index(stop))
