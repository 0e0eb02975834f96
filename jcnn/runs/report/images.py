"""Arrays as small pictures in a page: PNG files in data URIs.

Large ones are scaled down, for a page is to be mailed.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

_LONGEST = 128  # side in pixels
_SIGNED = (33, 102, 172), (247, 247, 247), (178, 24, 43)  # blue, white, red
_HEAT = (0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)


def picture(image: np.ndarray) -> str:
    """Return an image [H, W, C] as a data URI, in colour if it has three channels.

    Of others the first channel is shown. Pixels that are not uint8 are stretched from
    the least to the greatest.

    >>> picture(np.zeros((2, 2, 1), np.uint8))[:22]
    'data:image/png;base64,'
    """
    return _uri(_visible(image if image.shape[-1] == 3 else image[..., 0]))


def signed(values: np.ndarray, limit: float | None = None) -> str:
    """Return numbers [H, W] as a data URI: blue below 0, white at 0, red above."""
    limit = limit or float(np.abs(values).max()) or 1.0
    return _uri(_coloured(values / limit / 2 + 0.5, _SIGNED))


def overlaid(image: np.ndarray, heat: np.ndarray) -> str:
    """Return an image [H, W, C] with a heat map [h, w] laid over it."""
    height, width, channels = image.shape
    whole = Image.fromarray(heat.astype(np.float32))
    whole = whole.resize((width, height), Image.Resampling.BILINEAR)
    colours = _coloured(np.asarray(whole) / max(float(heat.max()), 1e-30), _HEAT)
    below = _visible(image if channels == 3 else image[..., :1])
    return _uri((below / 2 + colours / 2).astype(np.uint8))


def tiles(maps: np.ndarray) -> str:
    """Return feature maps [H, W, C] side by side, each stretched to its own range."""
    height, width, number = maps.shape
    columns = min(8, number)
    size = (math.ceil(number / columns) * (height + 1) - 1, columns * (width + 1) - 1)
    sheet = np.zeros((*size, 2), np.uint8)  # between them it is transparent
    for i in range(number):
        top, left = (n * (s + 1) for n, s in zip(divmod(i, columns), (height, width)))
        grey = (255 * _stretched(maps[..., i])).astype(np.uint8)
        place = sheet[top : top + height, left : left + width]
        place[..., 0], place[..., 1] = grey, 255
    return _uri(sheet, max(size))


def filters(kernel: np.ndarray) -> list[str]:
    """Return each filter of a kernel [KH, KW, C, O], in colour if C is 3.

    Of other kernels the first channel is shown, all on one scale.
    """
    kernel = kernel.astype(np.float32)
    number = range(kernel.shape[-1])
    if kernel.shape[2] == 3:
        return [picture(kernel[..., i]) for i in number]
    limit = float(np.abs(kernel[:, :, 0]).max())
    return [signed(kernel[:, :, 0, i], limit) for i in number]


def _visible(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    return (255 * _stretched(image)).astype(np.uint8)


def _stretched(values: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-30)


def _coloured(values: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return uint8 [H, W, 3], the colours at equal steps of values from 0 to 1."""
    steps = np.linspace(0, 1, len(colours))
    channels = [np.interp(values, steps, channel) for channel in zip(*colours)]
    return np.stack(channels, -1).astype(np.uint8)


def _uri(pixels: np.ndarray, longest: int = _LONGEST) -> str:
    content, image = io.BytesIO(), Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    image.save(content, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
