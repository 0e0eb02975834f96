"""Parts of splits, as tensorflow-datasets has them: `train[:90%]+test`."""

import re
from typing import NamedTuple

import numpy as np

from .dataset import DataError, Dataset

_NUMBER = r"(-?\d+%?|-?\d*\.?\d+%)?"
_PART = re.compile(rf"([\w.-]+)\[{_NUMBER}:{_NUMBER}\]", re.ASCII)


class Part(NamedTuple):
    """A split, from `start` to before `stop`: counts, percentages, or the ends."""

    split: str
    start: str | None = None
    stop: str | None = None


def parse(text: str) -> list[Part]:
    """The parts that a text is a sum of; what is no part is taken for a split's name.

    >>> [tuple(part) for part in parse("train[:90%] + test")]
    [('train', None, '90%'), ('test', None, None)]
    """
    matches = [(_PART.fullmatch(t), t) for t in re.split(r"\s*\+\s*", text.strip())]
    return [Part(*match.groups()) if match else Part(t) for match, t in matches]


def join(text: str, wholes: dict[str, Dataset]) -> Dataset:
    """Cuts the parts out of their splits and puts them together.

    Raises:
        ValueError: a part is beyond its split, or there is no example in all of them.
        DataError: a ValueError, too: the splits' images are of several sizes.

    >>> from .dataset import from_arrays
    >>> whole = from_arrays(np.zeros((10, 3, 3, 1)), [0] * 10, 1)
    >>> join("test[-25%:]+test[:3]", {"test": whole})
    Dataset(image=float32[5, 3, 3, 1], label=int32[5], num_classes=1)
    """
    parts = parse(text)
    first = wholes[parts[0].split]
    if parts == [Part(text)]:
        return first
    images, labels = [], []
    for part in parts:
        whole = wholes[part.split]
        place = _place(part, len(whole.label))
        images.append(whole.image[place])
        labels.append(whole.label[place])
        if whole.image.shape[1:] != first.image.shape[1:]:
            raise DataError(
                f"split is {text!r}, whose images are of several sizes: "
                f"{first.image.shape[1:]} and {whole.image.shape[1:]}"
            )
    if not any(map(len, labels)):
        raise ValueError(f"split is {text!r}, in which there is no example")
    image, label = np.concatenate(images), np.concatenate(labels)
    return Dataset(image, label, first.num_classes, first.class_names)


def _place(part: Part, count: int) -> slice:
    percent = any(text and text.endswith("%") for text in part[1:])
    most = 100 if percent else count

    def position(text: str | None, default: int) -> int:
        if text is None:
            return default
        number = float(text.rstrip("%"))
        if abs(number) > most:
            raise ValueError(
                f"split has {text} of {part.split!r}; allowed: from -{most} to {most}"
                + "%" * percent
            )
        # tensorflow-datasets rounds as Python does, halves to even numbers.
        index = round(number * count / 100) if percent else int(number)
        return index + count if index < 0 else index

    return slice(position(part.start, 0), position(part.stop, count))
