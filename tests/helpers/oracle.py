"""What the library's convolutions must give: NumPy loops from the definitions.

All in float64 and without JAX. Which pixel meets which tap of the kernel at which
output is said once, as a list of links; values and gradients are sums over the links.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

Index = tuple[int, ...]

# The values of `impl` that serve every convolution.
IMPLS = ("auto", "lax", "im2col")

# Largest error allowed, in units of the largest sum of absolute products. A sum of n
# products is off by at most n * eps / 2 of that, by a few eps as a rule: eps is 1.2e-7
# in float32 and 2.2e-16 in float64, n below 1000, and algorithms that transform their
# operands may lose a digit. bfloat16 (eps 7.8e-3) is summed in float32, and rounded
# by eps / 2 when it leaves an operation.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 1e-2, "float16": 2e-3}


class Link(NamedTuple):
    """The output at `o` gets the pixel of x at `i` times the kernel's tap `k`."""

    o: Index
    k: Index
    i: Index


def assert_close(actual, expected, dtype, scale=None) -> None:
    """Compares shape, dtype and values with what is expected.

    `scale`: what the tolerance is relative to, an array as large as the sums of
    absolute products; None takes the expected values.
    """
    assert str(actual.dtype) == dtype
    actual = np.asarray(actual).astype(np.float64)
    expected = np.asarray(expected).astype(np.float64)
    assert actual.shape == expected.shape
    scale = expected if scale is None else scale
    largest = float(np.max(np.abs(scale), initial=0))
    error = float(np.max(np.abs(actual - expected), initial=0))
    assert error <= TOLERANCE[dtype] * largest, f"{error=} where {largest=}"


def as_tuple(value, rank: int) -> Index:
    return tuple(value) if isinstance(value, Sequence) else (value,) * rank


# --- the convolutions ---


def conv(x, kernel, groups=1, **settings) -> np.ndarray:
    """x [N, *spatial, C] with kernel [*size, C / groups, O]; settings as `links`."""
    x, kernel = _floats(x, kernel)
    out, links = conv_links(x.shape[1:-1], kernel.shape[:-2], **settings)
    return _sum(links, x, _dense(kernel, groups), out)


def conv_gradients(x, kernel, g, groups=1, **settings) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of <conv(x, kernel), g> to x and to the kernel."""
    x, kernel, g = _floats(x, kernel, g)
    _, links = conv_links(x.shape[1:-1], kernel.shape[:-2], **settings)
    gx, gw = _gradients(links, x, _dense(kernel, groups), g)
    return gx, _sparse(gw, groups)


def conv_transpose(x, kernel, groups=1, **settings) -> np.ndarray:
    """x [N, *spatial, C] with kernel [*size, C / groups, O]."""
    x, kernel = _floats(x, kernel)
    out, links = transpose_links(x.shape[1:-1], kernel.shape[:-2], **settings)
    return _sum(links, x, _dense(kernel, groups), out)


def conv_transpose_gradients(x, kernel, g, groups=1, **settings):
    """Gradients of <conv_transpose(x, kernel), g> to x and to the kernel."""
    x, kernel, g = _floats(x, kernel, g)
    _, links = transpose_links(x.shape[1:-1], kernel.shape[:-2], **settings)
    gx, gw = _gradients(links, x, _dense(kernel, groups), g)
    return gx, _sparse(gw, groups)


def patches(x, size, **settings) -> np.ndarray:
    """[N, *positions, taps * C]: what the window sees, 0 outside of x."""
    x = np.asarray(x)
    out, links = conv_links(x.shape[1:-1], size, **settings)
    result = np.zeros((x.shape[0], *out, *size, x.shape[-1]), x.dtype)
    for o, k, i in links:
        result[:, *o, *k] = x[:, *i]
    return result.reshape(x.shape[0], *out, math.prod(size) * x.shape[-1])


# --- who meets whom ---


def conv_links(
    size: Index,
    window: Index,
    strides=1,
    padding="VALID",
    mode="ZEROS",
    kernel_dilation=1,
    input_dilation=1,
) -> tuple[Index, list[Link]]:
    """The output's spatial size, and the links of a convolution."""
    rank = len(size)
    axes = []
    for n, k, s, p, d, e in zip(
        size,
        window,
        as_tuple(strides, rank),
        _padding_of_axes(padding, rank),
        as_tuple(kernel_dilation, rank),
        as_tuple(input_dilation, rank),
    ):
        axes.append(_conv_axis(n, k, s, p, mode, d, e))
    return _combine(axes)


def _conv_axis(n, k, stride, padding, mode, dilation, spreading):
    spread = max((n - 1) * spreading + 1, 0)
    reach = (k - 1) * dilation + 1
    low, high = _amounts(padding, spread, reach, stride)
    outputs = len(range(0, spread + low + high - reach + 1, stride))
    links = []
    for o, tap in product(range(outputs), range(k)):
        pixel = _pixel(o * stride + tap * dilation - low, n, mode, spreading)
        if pixel is not None:
            links.append((o, tap, pixel))
    return outputs, links


def _pixel(place: int, n: int, mode: str, spreading: int) -> int | None:
    """The pixel that is seen at `place` of an image without ends; None sees 0."""
    if mode == "CIRCULAR":
        return place % n
    if mode == "EDGE":
        return min(max(place, 0), n - 1)
    if mode == "REFLECT":
        while not 0 <= place < n:
            if n == 1:
                return 0
            place = -place if place < 0 else 2 * (n - 1) - place
        return place
    assert mode == "ZEROS"
    pixel, hole = divmod(place, spreading)
    return pixel if 0 <= pixel < n and not hole else None


def transpose_links(
    size: Index, window: Index, strides=1, padding="SAME", kernel_dilation=1
) -> tuple[Index, list[Link]]:
    """The output's spatial size, and the links of a transposed convolution."""
    rank = len(size)
    axes = []
    for n, k, s, p, d in zip(
        size,
        window,
        as_tuple(strides, rank),
        _padding_of_axes(padding, rank),
        as_tuple(kernel_dilation, rank),
    ):
        axes.append(_transpose_axis(n, k, s, p, d))
    return _combine(axes)


def _transpose_axis(n, k, stride, padding, dilation):
    reach = (k - 1) * dilation + 1
    if isinstance(padding, str):  # a convolution from `outputs` pixels to n, backwards
        outputs = n * stride
        if padding == "VALID":
            outputs = (n - 1) * stride + max(reach, stride)
        back, links = _conv_axis(outputs, k, stride, padding, "ZEROS", dilation, 1)
        assert back == n
        return outputs, [(i, k - 1 - tap, o) for o, tap, i in links]
    low, high = padding
    outputs = (n - 1) * stride + 1 + low + high - (reach - 1)
    links = []
    for i, tap in product(range(n), range(k)):  # every pixel scatters its kernel
        o = low + i * stride - tap * dilation
        if 0 <= o < outputs:
            links.append((o, tap, i))
    return outputs, links


def _padding_of_axes(padding, rank: int) -> tuple:
    if isinstance(padding, (str, int)):
        padding = (padding,) * rank
    return tuple((p, p) if isinstance(p, int) else p for p in padding)


def _amounts(padding, n: int, reach: int, stride: int) -> tuple[int, int]:
    if padding == "VALID":
        return 0, 0
    if padding not in ("SAME", "SAME_LOWER"):
        return padding
    total = 0  # the least that gives a window to every stride of the image
    while len(range(0, n + total - reach + 1, stride)) < len(range(0, n, stride)):
        total += 1
    less, more = total // 2, (total + 1) // 2
    return (less, more) if padding == "SAME" else (more, less)


def _combine(axes) -> tuple[Index, list[Link]]:
    links = [Link(*zip(*each)) for each in product(*(links for _, links in axes))]
    return tuple(outputs for outputs, _ in axes), links


# --- sums over links ---


def _sum(links, x, dense, out: Index) -> np.ndarray:
    y = np.zeros((x.shape[0], *out, dense.shape[-1]))
    for o, k, i in links:
        y[:, *o] += x[:, *i] @ dense[k]
    return y


def _gradients(links, x, dense, g) -> tuple[np.ndarray, np.ndarray]:
    gx, gw = np.zeros(x.shape), np.zeros(dense.shape)
    for o, k, i in links:
        gx[:, *i] += g[:, *o] @ dense[k].T
        gw[k] += x[:, *i].T @ g[:, *o]
    return gx, gw


def _dense(kernel: np.ndarray, groups: int) -> np.ndarray:
    """The kernel [*size, C, O] of one group that does what this one of groups does."""
    *size, inputs, outputs = kernel.shape
    dense = np.zeros((*size, inputs * groups, outputs))
    for g, feature in _features(groups, outputs):
        dense[..., g * inputs : (g + 1) * inputs, feature] = kernel[..., feature]
    return dense


def _sparse(dense: np.ndarray, groups: int) -> np.ndarray:
    """The part of a gradient to `_dense(kernel)` that the kernel has."""
    *size, channels, outputs = dense.shape
    inputs = channels // groups
    kernel = np.zeros((*size, inputs, outputs))
    for g, feature in _features(groups, outputs):
        kernel[..., feature] = dense[..., g * inputs : (g + 1) * inputs, feature]
    return kernel


def _features(groups: int, outputs: int) -> Iterator[tuple[int, int]]:
    """Every feature after its group."""
    return ((f // (outputs // groups), f) for f in range(outputs))


def _floats(*arrays) -> list[np.ndarray]:
    return [np.asarray(a).astype(np.float64) for a in arrays]
