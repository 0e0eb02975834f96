"""Images of one's own: a folder with a subfolder of image files for each class."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._extras import missing
from .._files import user_cache, write_file
from .._shapes import integer
from . import cache
from .dataset import DataError, Dataset, from_arrays
from .streamed import View, fits_in_memory

_SUFFIXES = {".png", ".jpg", ".jpeg"}


class Folder(NamedTuple):
    """The images of a folder.

    Attributes:
        dataset: All images that could be read, class by class; class names are those of
            the subfolders, in alphabetical order.
        paths: The path of each image below the folder.
        broken: What was wrong with the files that could not be read, by path.
    """

    dataset: Dataset
    paths: tuple[str, ...]
    broken: dict[str, str]


def load_folder(
    folder: str | os.PathLike[str],
    *,
    size: int,
    channels: int = 3,
    stream: bool | None = None,
) -> Folder:
    """Return the images of a folder of class folders, all of one size.

    Files `CLASS/**/*.png`, `.jpg` and `.jpeg` are read, of any size and kind of colour,
    turned as their EXIF data say, and laid on white where they are transparent. The
    shorter side is scaled to `size`, and of the longer one the middle is taken. The
    result is kept in jcnn's cache folder while no file's content changes.

    Args:
        folder: The folder. Names that begin with "." are skipped.
        size: Height and width of the result, at least 1.
        channels: 3 for colour, 1 for grey.
        stream: Whether to leave the images in their files, as `stream_folder` does;
            None: if their arrays were larger than half of the memory. What is broken is
            then found when it is read.

    Raises:
        DataError: If there are fewer than two class folders, or no image of a class can
            be read.
        FileNotFoundError: If there is no such folder.
        ModuleNotFoundError: If Pillow is not installed.
        ValueError: If `size` or `channels` is out of range.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, grey in (("cat", 10), ("dog", 200)):
    ...         Path(folder, name).mkdir()
    ...         Image.new("L", (9, 5), grey).save(Path(folder, name, "1.png"))
    ...     found = load_folder(folder, size=4, channels=1)
    >>> found.dataset.image.max((1, 2, 3)), found.paths
    (array([ 10, 200], dtype=uint8), ('cat/1.png', 'dog/1.png'))
    """
    from .stream import check_options, stream_files

    size = integer("size", size, minimum=1)
    check_channels(channels)

    names, files = find_images(folder := Path(folder))
    paths = [path.relative_to(folder).as_posix() for path, _ in files]
    if stream is None:
        stream = not fits_in_memory(len(files) * size * size * channels)
    if stream:
        shape, options = (size, size, channels), check_options(View(size))
        return Folder(stream_files(names, files, shape, options), tuple(paths), {})
    digests = digests_of([path for path, _ in files])
    facts = json.dumps([size, channels, names, list(zip(paths, digests))])
    key = hashlib.sha256(facts.encode()).hexdigest()[:32]
    kept = user_cache() / "folders" / f"{key}.npz"
    dataset = cache.read(kept)
    if dataset is not None:
        notes = json.loads(kept.with_suffix(".json").read_bytes())
        return Folder(dataset, tuple(notes["paths"]), notes["broken"])
    found = _decode(folder, files, paths, names, size, channels)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        notes = {"paths": found.paths, "broken": found.broken}
        write_file(kept.with_suffix(".json"), json.dumps(notes).encode())
        cache.write(kept, found.dataset)
    except OSError as error:
        cache.warn_of(error, stacklevel=2)
    return found


def split_folder(found: Folder, test: float = 0.2) -> tuple[Dataset, Dataset]:
    """Return training and test images: of each class the same fraction.

    Which images are test images depends on the digests of their paths, so it changes
    little where images are added.

    Args:
        found: What `load_folder` gave.
        test: Fraction of each class's images to test on, above 0 and below 1.

    Raises:
        DataError: If a class has fewer than two images.
        ValueError: If `test` is out of range.

    >>> image, label = np.zeros((10, 2, 2, 1)), [0] * 5 + [1] * 5
    >>> data = from_arrays(image, label, 2, class_names=["cat", "dog"])
    >>> train, test = split_folder(Folder(data, tuple("abcdefghij"), {}), 0.4)
    >>> np.bincount(test.label)
    array([2, 2])
    """
    if not 0 < test < 1:
        raise ValueError(f"test must be above 0 and below 1, got {test!r}")
    data, names = found.dataset, found.dataset.class_names or ()
    order = [hashlib.sha256(os.fsencode(path)).digest() for path in found.paths]
    chosen = np.zeros(len(order), bool)
    for label, name in enumerate(names):
        members = np.flatnonzero(data.label == label)
        if len(members) < 2:
            raise DataError(
                f"class {name} must have at least 2 images, one to train and one to "
                f"test on, got {len(members)}"
            )
        number = min(max(1, round(test * len(members))), len(members) - 1)
        chosen[sorted(members, key=order.__getitem__)[:number]] = True
    train, tested = (
        dataclasses.replace(data, image=data.image[part], label=data.label[part])
        for part in (~chosen, chosen)
    )
    return train, tested


def check_channels(channels: int) -> None:
    """Raise ValueError unless images can have so many channels."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")


def find_images(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the classes of a folder, and its image files with their labels.

    Raises:
        DataError: If there are fewer than two class folders, or one has no image.
        FileNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    names = sorted(p.name for p in _visible(folder) if p.is_dir())
    files = [
        (path, label)
        for label, name in enumerate(names)
        for path in image_files(folder / name, (folder.resolve(),))
    ]
    if len(names) < 2 or not files:
        raise DataError(
            f"{folder} must have a subfolder of PNG or JPEG files for each of two or "
            f"more classes, got subfolders {', '.join(names) or 'none'} with "
            f"{len(files)} such files"
        )
    if empty := [names[n] for n in {*range(len(names))} - {n for _, n in files}]:
        raise DataError(
            f"each class of {folder} must have PNG or JPEG files, got none of "
            f"{', '.join(sorted(empty))}"
        )
    return names, files


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def image_files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the PNG and JPEG files below a folder, in the order of their names.

    Links to folders are followed, but not to those `above`.
    """
    above = (*above, folder.resolve())
    for path in sorted(_visible(folder)):
        if path.is_dir():
            if path.resolve() not in above:
                yield from image_files(path, above)
        elif path.suffix.lower() in _SUFFIXES:
            yield path


def digests_of(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file; of one that cannot be read, the reason."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> str:
    try:
        if path.is_fifo():  # it would be waited for
            return "not a file"
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return str(error)


def _decode(folder, files, paths, names, size: int, channels: int) -> Folder:
    try:
        from .decode_image import read_image
    except ModuleNotFoundError as error:
        raise missing("data", error) from error

    with ThreadPoolExecutor() as pool:
        found = [pool.submit(read_image, p, (size, size, channels)) for p, _ in files]
        results = [one.result() for one in found]
    all_read = list(zip(paths, results, (label for _, label in files), strict=True))
    broken = {path: result for path, result, _ in all_read if isinstance(result, str)}
    good = [one for one in all_read if one[0] not in broken]
    labels = [label for *_, label in good]
    if empty := [name for label, name in enumerate(names) if label not in labels]:
        raise DataError(
            f"each class of {folder} must have an image that can be read, got none of "
            f"{', '.join(empty)}; {len(broken)} files are broken"
        )
    images = np.stack([image for _, image, _ in good])
    dataset = from_arrays(images, labels, len(names), class_names=names)
    return Folder(dataset, tuple(path for path, *_ in good), broken)
