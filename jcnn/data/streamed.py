"""Images that stay in their files, and are decoded, cropped and scaled when needed."""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .dataset import DataError, Dataset

WHOLE_RECORD = -1  # in place of a length
_SHARE = 0.5  # of the memory, for the images of a set
_FILE = "(?<=cannot identify image file) .*"  # its name, or an object
_ATTEMPTS = 10  # to place a random crop in an image


class View(NamedTuple):
    """What is taken of an image.

    Attributes:
        size: Height and width of the result; None: as they are, the same for all.
        center: Part of the shorter side that the center crop takes: 0.875 is the usual
            224 of 256 pixels.
        random: Whether training takes a random crop instead, of 8 to 100 % of the area
            and sides of 3 to 4 up to 4 to 3, which is scaled to `size`: Szegedy et al.,
            "Going Deeper with Convolutions" (2014), section 6; torchvision's
            RandomResizedCrop. Evaluation always takes the center crop.
    """

    size: int | None = None
    center: float = 1.0
    random: bool = False


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """An array of images [N, H, W, C], uint8, in files: the `image` of a `Dataset`.

    Slices and integer arrays select images without reading them; `np.asarray` reads
    them all, cropped as for evaluation.

    Attributes:
        files: Paths, bytes [F].
        ranges: int64 [N, 3]: of each image the index of its file, and in files of
            records its first byte and number of bytes, or its record and -1.
        shape: (N, H, W, C).
        view: What is taken of each image.
        keys: The features of image and label in records; None: files of one image each,
            which are turned as their EXIF data say, and laid on white.
        digest: SHA-256 of the content of the files.
        workers: Processes to read with; 0: threads of this one.
        max_broken: How many images may be broken; None: one in a thousand, and one.
    """

    files: np.ndarray
    ranges: np.ndarray
    shape: tuple[int, int, int, int]
    view: View
    keys: tuple[str, str] | None
    digest: str
    workers: int
    max_broken: int | None

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, selected: Any) -> "StreamedImages":
        ranges = self.ranges[selected]
        if ranges.ndim != 2:
            raise TypeError(f"images must be selected by an array, got {selected!r}")
        return replace(self, ranges=ranges, shape=(len(ranges), *self.shape[1:]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = np.empty(self.shape, np.uint8)
        for index in range(len(self)):
            try:
                found[index] = self.read(index)
            except Exception as error:
                raise DataError(f"{self.name(index)}: {reason(error)}") from error
        return found.astype(dtype or found.dtype, copy=False)

    @property
    def most_broken(self) -> int:
        """How many images may be broken, never all."""
        most = max(1, len(self) // 1000) if self.max_broken is None else self.max_broken
        return min(most, len(self) - 1)

    def describe(self) -> dict[str, Any]:
        """Return dtype, shape and a digest of what the images are made of."""
        facts = f"{self.digest} {self.shape} {self.view} {self.keys}".encode()
        digest = hashlib.sha256(facts + self.ranges.astype("<i8").tobytes())
        return {
            "dtype": "uint8",
            "shape": list(self.shape),
            "sha256": digest.hexdigest(),
        }

    def name(self, index: int) -> str:
        """Return the file of an image, and where in it the image begins."""
        file, start, length = self.ranges[index].tolist()
        path = os.fsdecode(bytes(self.files[file]))
        if self.keys is None:
            return path
        return f"{path}, {'record' if length == WHOLE_RECORD else 'byte'} {start}"

    def read(self, index: int, draws: np.ndarray | None = None) -> np.ndarray:
        """Return an image, uint8 [H, W, C].

        Args:
            index: Of the image.
            draws: Numbers of `draw` for a random crop; None: the center crop.

        Raises:
            Exception: Almost any, if it is broken.
        """
        from PIL import Image, ImageOps

        from .decode_image import FORMATS, open_stored, to_mode, to_stored

        _, height, width, channels = self.shape
        encoded = self._encoded(index)
        if self.keys is None:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
                image = to_mode(ImageOps.exif_transpose(file), channels)
        else:
            with open_stored(encoded) as file:
                image = to_stored(file, channels)
        if self.view.size is None:
            if image.size != (width, height):
                raise ValueError(
                    f"images must have one size, got {image.height}x{image.width}, "
                    f"others {height}x{width}"
                )
        elif draws is not None and self.view.random:
            box = random_crop_box(image.width, image.height, draws)
            image = image.resize((width, height), Image.Resampling.BILINEAR, box)
        else:
            edge = (1 - self.view.center) / 2
            how = Image.Resampling.BILINEAR
            image = ImageOps.fit(image, (width, height), how, edge)
        return np.asarray(image).reshape(self.shape[1:])

    def _encoded(self, index: int) -> bytes:
        file, start, length = self.ranges[index].tolist()
        path = os.fsdecode(bytes(self.files[file]))
        if self.keys is None and not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError("not a file")
        if length == WHOLE_RECORD:
            from .example import parse_example

            status = os.stat(path)
            reader = _reader(path, status.st_ino, status.st_mtime_ns, status.st_size)
            return parse_example(reader.read([start])[0], *self.keys or ())[0]
        with open(path, "rb") as opened:
            opened.seek(start)
            return opened.read(length if self.keys else -1)


class TooLarge(Exception):
    """Arrays should not be in memory."""


def fits_in_memory(num_bytes: int) -> bool:
    """Return whether arrays take at most half of the memory.

    >>> fits_in_memory(1 << 20), fits_in_memory(1 << 60)
    (True, False)
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # that of a container
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return num_bytes <= _SHARE * memory


def is_streamed(dataset: Dataset) -> bool:
    """Return whether a set's images are in files rather than in memory."""
    return isinstance(dataset.image, StreamedImages)


def join(images: Sequence[Any]) -> Any:
    """Return arrays of images, or streamed images of one view, one after the other."""
    if not isinstance(images[0], StreamedImages):
        return np.concatenate(images)
    ranges, files = [], 0
    for part in images:
        ranges.append(part.ranges + (files, 0, 0))
        files += len(part.files)
    ranges = np.concatenate(ranges)
    return replace(
        images[0],
        files=np.concatenate([part.files for part in images]),
        ranges=ranges,
        shape=(len(ranges), *images[0].shape[1:]),
        digest=" ".join(part.digest for part in images),
    )


def draw(key: tuple[int, int], place: int) -> np.ndarray:
    """Return numbers from 0 to 1, a pure function of a key and a place in the order.

    They are made of the raw bits of Philox (Salmon et al., 2011), which NumPy keeps.

    >>> draw((1, 2), 3).shape
    (10, 4)
    """
    word = key[0] << 32 | key[1]
    bits = np.random.Philox(key=np.array([word, place], np.uint64))
    return ((bits.random_raw(4 * _ATTEMPTS) >> 11) * 2.0**-53).reshape(_ATTEMPTS, 4)


def random_crop_box(
    width: int, height: int, draws: np.ndarray
) -> tuple[float, float, float, float]:
    """Return a random crop (left, top, right, bottom) of an image: see `View`.

    >>> random_crop_box(300, 200, np.full((10, 4), 0.5))
    (60.0, 10.0, 240.0, 190.0)
    """
    area = width * height * (0.08 + 0.92 * draws[:, 0])
    ratio = 0.75 * (16 / 9) ** draws[:, 1]
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (1 <= widths) & (widths <= width) & (1 <= heights) & (heights <= height)
    if fits.any():
        first = int(fits.argmax())
        w, h = float(widths[first]), float(heights[first])
        left = float(np.floor(draws[first, 2] * (width - w + 1)))
        top = float(np.floor(draws[first, 3] * (height - h + 1)))
    else:  # the middle, as wide or high as is allowed
        w, h = min(width, height * 4 / 3), min(height, width * 4 / 3)
        left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def reason(error: Exception) -> str:
    """Return what is wrong with a file, without its name."""
    text = getattr(error, "strerror", None) or re.sub(_FILE, "", str(error))
    return text or type(error).__name__


@lru_cache(64)
def _reader(path: str, *of_file: int) -> Any:
    """Return what reads a file, a new one where the file is another one."""
    from array_record.python.array_record_module import ArrayRecordReader

    # One record at a time is read: nothing is to be read ahead.
    options = "readahead_buffer_size:0,max_parallelism:0"
    return ArrayRecordReader(os.fsencode(path), options=options)
