"""One image file, of any size and kind of colour, as an array of a given size."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .streamed import reason

FORMATS = ("PNG", "JPEG")
STORED = (*FORMATS, "WEBP", "GIF", "BMP")  # for EPS, Pillow starts a program
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by the number of channels


def read_image(path: Path, shape: Sequence[int]) -> np.ndarray | str:
    """Return uint8 of a shape [H, W, C]; what is wrong with the file if it is broken.

    The image is scaled until it covers H by W, and its middle is taken.

    >>> read_image(Path("nowhere.png"), (8, 8, 3))
    'No such file or directory'
    """
    height, width, channels = shape
    try:
        if path.is_fifo():  # it would be waited for
            return "not a file"
        with Image.open(path, formats=FORMATS) as file:
            image = to_mode(ImageOps.exif_transpose(file), channels)
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(shape)
    except Exception as error:  # damage causes almost any error in Pillow's decoders
        return reason(error)


def eight_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 of 16 bits of grey, which `convert` would clip."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Return the image in grey or colour, on white where it is transparent.

    >>> to_mode(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), 3).getpixel((0, 0))
    (255, 255, 255)
    """
    image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if channels == 3 else "L")


def open_stored(encoded: bytes) -> Image.Image:
    """Open an image of a prepared set.

    Raises:
        ValueError: If it has several frames.
    """
    file = Image.open(io.BytesIO(encoded), formats=STORED)
    # Any PNG may hold an animation besides its image, any JPEG a preview.
    if file.format in ("GIF", "WEBP") and getattr(file, "is_animated", False):
        raise ValueError("an image must have one frame, got several")
    return file


def to_stored(image: Image.Image, channels: int) -> Image.Image:
    """Return the image as TensorFlow decodes it to uint8.

    >>> to_stored(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), 3).getpixel((0, 0))
    (255, 0, 0)
    """
    return eight_bits(image).convert(MODES[channels])
