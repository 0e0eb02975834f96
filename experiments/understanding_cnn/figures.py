"""The pictures of the page: the facts as drawings of real numbers.

Each function draws one into axes of units, as `canvas.Section` describes them.
"""

from functools import partial

import jax
import numpy as np
from matplotlib.axes import Axes
from numpy.lib.stride_tricks import sliding_window_view

from jcnn import conv, max_pool

from .canvas import (
    BLUE,
    GREY,
    INK,
    LINE,
    RED,
    WINDOW,
    draw_arrow,
    draw_cells,
    draw_frame,
    draw_measure,
    format_number,
    write,
)
from .probes import (
    VERTICAL_EDGE,
    connections,
    edge_map,
    feature_map,
    output_size,
    pooled,
    slope,
    windows_entered,
)


def draw_symbols(axes: Axes, digit: np.ndarray) -> None:
    x, y, size = 2.4, 1.8, 0.84
    ring = np.pad(np.zeros((8, 8), bool), 1, constant_values=True)
    draw_cells(axes, np.pad(digit, 1), x, y, size=size, outside=ring)
    draw_frame(axes, x + 2 * size, y, 3 * size, 3 * size, dashed=True)
    draw_frame(axes, x, y, 3 * size, 3 * size)
    draw_measure(axes, (x - 0.5, y), (x - 0.5, y + 3 * size), "f = 3")
    draw_measure(axes, (x, y - 0.5), (x + 2 * size, y - 0.5), "s = 2")
    right = x + 10 * size + 0.5
    for top, bottom, text in ((0, 1, "p = 1"), (1, 9, "n = 8")):
        draw_measure(axes, (right, y + top * size), (right, y + bottom * size), "")
        write(axes, right + 0.4, y + (top + bottom) / 2 * size, text, align="left")
    mean = np.full((3, 3), 1 / 9, np.float32)
    filters = [VERTICAL_EDGE, VERTICAL_EDGE.T, mean]
    names = ["vertical edges", "horizontal edges", "mean"]
    for i, (name, kernel) in enumerate(zip(names, filters, strict=True)):
        middle = 2.8 + 3.3 * i
        write(axes, 19, middle, name, align="right", colour=GREY, size=8)
        draw_cells(axes, kernel, 19.5, middle - 1.2, size=0.8, signed=True, limit=1)
        draw_arrow(axes, (22.4, middle), (23.8, middle))
        values = feature_map(digit, kernel, padding=1, strides=2)
        draw_cells(axes, values, 24.3, middle - 1.4, size=0.7, signed=True)
    write(axes, 20.7, 0.6, "n_filters = 3")
    write(axes, 25.7, 0.6, "3 maps")
    sides = ["side of a map:", "⌊(n+2p−f)/s⌋+1", "= ⌊(8+2−3)/2⌋+1", "= 4"]
    for i, text in enumerate(sides):
        colour = INK if i else GREY
        write(axes, 28.2, 4.6 + i, text, align="left", size=8, colour=colour)


def draw_parameters(axes: Axes) -> None:
    left, decade, bottom = 8.6, 2.75, 7.3
    axes.plot([left, left + 8 * decade], [bottom, bottom], color=GREY, linewidth=0.8)
    ticks = ["1", "10", "100", "1 k", "10 k", "100 k", "1 M", "10 M", "100 M"]
    for x, text in zip(left + decade * np.arange(9), ticks, strict=True):
        axes.plot([x, x], [bottom, bottom + 0.25], color=GREY, linewidth=0.8)
        axes.plot([x, x], [0, bottom - 0.2], color="white", linewidth=0.8, zorder=2)
        write(axes, x, bottom + 0.8, text, size=7, colour=GREY)
    text = "parameters; each mark is ten times the one before it"
    write(axes, left + 4 * decade, bottom + 1.9, text, size=8, colour=GREY)
    bars = [
        ("the article’s count", "(3·3 + 1)·10", 100, GREY),
        ("shared filters", "(3·3·3 + 1)·10", 280, WINDOW),
        ("dense layer", "(32·32·3)·(30·30·10)", 27_648_000, BLUE),
    ]
    for i, (name, formula, count, colour) in enumerate(bars):
        y, length = 1.1 + 2.4 * i, decade * np.log10(count)
        axes.barh(y, length, left=left, height=1.5, color=colour)
        write(axes, left - 0.5, y - 0.4, name, align="right")
        write(axes, left - 0.5, y + 0.5, formula, align="right", size=7.2, colour=GREY)
        write(axes, left + length + 0.4, y, f"{count:,}", align="left", weight="bold")


def draw_sparsity(axes: Axes, digit: np.ndarray) -> None:
    jacobian = connections(np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32))
    y, size = 1.8, 0.9
    draw_cells(axes, digit, 0, y, size=size, label="image and one window")
    one = {"numbers": True, "signed": True, "limit": 5.0}
    text = "derivative of one output"
    draw_cells(axes, jacobian[2, 3], 8.8, y, size=size, label=text, **one)
    for x in (0, 8.8):
        draw_frame(axes, x + 3 * size, y + 2 * size, 3 * size, 3 * size)
    x, small = 19.6, 0.2
    text = "of all 36 outputs (rows) by all 64 inputs (columns)"
    matrix = jacobian.reshape(36, 64)
    draw_cells(axes, matrix, x, y, size=small, signed=True, label=text)
    row = y + (2 * 6 + 3) * small
    draw_frame(axes, x, row, 64 * small, small)
    middle = row + small / 2
    draw_arrow(axes, (8.8 + 8 * size + 0.4, middle), (x - 0.3, middle), colour=WINDOW)


def draw_convolution(axes: Axes, digit: np.ndarray) -> None:
    values = feature_map(digit, VERTICAL_EDGE)
    products = sliding_window_view(digit, (3, 3)) * VERTICAL_EDGE
    busy = np.count_nonzero(products, (2, 3))  # a window that contains ink
    r, c = np.unravel_index(busy.argmax(), busy.shape)
    y, size = 1.6, 0.9
    middle = y + (r + 1.5) * size
    draw_cells(axes, digit, 0, y, size=size, numbers=True, label="image, 8×8")
    draw_frame(axes, c * size, y + r * size, 3 * size, 3 * size)
    window = digit[r : r + 3, c : c + 3]
    panels = [("window", window, False, 16.0), ("filter", VERTICAL_EDGE, True, 2.0)]
    panels.append(("products", products[r, c], True, 24.0))
    for x, (name, panel, signed, limit) in zip((8.8, 13.1, 17.4), panels, strict=True):
        style = {"numbers": True, "signed": signed, "limit": limit, "label": name}
        draw_cells(axes, panel, x, middle - 1.5, **style)
    draw_frame(axes, 8.8, middle - 1.5, 3, 3)
    for x, sign in ((12.45, "×"), (16.75, "=")):
        write(axes, x, middle, sign, size=13)
    write(axes, 23.4, middle - 1.4, "sum", size=8, colour=GREY)
    total = format_number(float(values[r, c]))
    write(axes, 23.4, middle, total, size=12, weight="bold")
    x, top = 27.6, y + size
    style = {"numbers": True, "signed": True, "size": size, "label": "map, 6×6"}
    draw_cells(axes, values, x, top, **style)
    draw_frame(axes, x + c * size, top + r * size, size, size)
    draw_arrow(axes, (20.7, middle), (22.3, middle))
    draw_arrow(axes, (24.5, middle), (x - 0.3, middle))


def draw_valid_and_same(axes: Axes) -> None:
    columns = [1.4, 3.2, 5.0, 7.6, 11.3, 16.3]
    heads = ["n", "f", "s", "valid", "SAME (JAX)", "p (PyTorch)"]
    for x, head in zip(columns, heads, strict=True):
        write(axes, x, 0.5, head, weight="bold")
    axes.plot([0.7, 18.6], [1.2, 1.2], color=INK, linewidth=0.8)
    sizes = [(8, 3, 1), (28, 5, 1), (7, 3, 2), (8, 3, 2), (28, 5, 2), (32, 3, 2)]
    sizes += [(28, 5, 3), (32, 7, 3)]
    for i, (n, f, s) in enumerate(sizes):
        p = (f - 1) // 2
        valid, same, even = (output_size(n, f, s, pad) for pad in ("VALID", "SAME", p))
        zeros = max((same - 1) * s + f - n, 0)  # needed by the last window
        before, behind = zeros // 2, zeros - zeros // 2
        row = [n, f, s, valid, f"{same}  ({before}, {behind})", f"{even}  ({p}, {p})"]
        for x, text in zip(columns, row, strict=True):
            differ = x > 10 and (before, behind) != (p, p)
            colour = WINDOW if differ else INK
            write(axes, x, 2.1 + 1.1 * i, str(text), colour=colour)
    text = "places of the map; in brackets, zeros before and behind"
    write(axes, 9.6, 11.0, text, size=7.5, colour=GREY)
    ramp, ones = np.arange(1, 9, dtype=np.float32)[None], np.ones((1, 3), np.float32)
    cases = [("SAME of JAX", 1.9, (0, 1)), ("p = 1 of PyTorch", 7.5, (1, 1))]
    for name, y, (before, behind) in cases:
        pads, x = ((0, 0), (before, behind)), 22.5 - before
        write(axes, 22.5, y - 1, f"{name}: n = 8, f = 3, s = 2", align="left")
        outside = np.pad(np.zeros((1, 8), bool), pads, constant_values=True)
        style = {"numbers": True, "limit": 99.0, "outside": outside}
        draw_cells(axes, np.pad(ramp, pads), x, y, **style)
        sums = feature_map(ramp, ones, strides=(1, 2), padding=pads)[0]
        for i, total in enumerate(sums):
            ends, level = np.array([0.12, 2.88]) + x + 2 * i, y + 1.4 + 0.45 * (i % 2)
            axes.plot(ends, [level, level], color=WINDOW, linewidth=2.2)
            write(axes, x + 2 * i + 1.5, y + 2.7, f"{total:g}", weight="bold")


def draw_padding(axes: Axes) -> None:
    y, size = 1.6, 0.95
    image = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    padded = feature_map(image, np.ones((1, 1), np.float32), padding=2)
    ring = np.pad(np.zeros((3, 3), bool), 2, constant_values=True)
    style = {"size": size, "numbers": True, "limit": 20.0}
    draw_cells(axes, image, 0, y + 2 * size, label="3×3", **style)
    draw_arrow(axes, (3.4, y + 3.5 * size), (4.9, y + 3.5 * size))
    draw_cells(axes, padded, 5.4, y, outside=ring, label="p = 2: 7×7", **style)
    for p, x in ((0, 17.6), (1, 26.2)):
        counts = np.pad(windows_entered(5, 3, p), p, constant_values=np.nan)
        top = y + (1 - p) * size
        draw_cells(axes, counts, x, top, label=f"p = {p}", **style)
    text = "number of 3×3 windows that each pixel enters"
    write(axes, 24.6, y + 7 * size + 0.8, text, size=8, colour=GREY)


def draw_stride(axes: Axes) -> None:
    y, size, x = 1.6, 0.8, 0.0
    for s in (1, 2, 3):
        count = output_size(7, 3, s, "VALID")
        draw_cells(axes, np.zeros((7, 7)), x, y, size=size, label=f"n = 7, s = {s}")
        draw_frame(axes, x, y, 3 * size, 3 * size)
        middles = size * (1.5 + s * np.arange(count))
        for down, across in np.ndindex(count, count):
            at = x + middles[across], y + middles[down]
            axes.plot(*at, "o", color=GREY, markersize=2.5)
        first, step = (x + middles[0], y + middles[0]), s * size
        draw_arrow(axes, first, (first[0] + step, first[1]), colour=WINDOW)
        draw_arrow(axes, first, (first[0], first[1] + step), colour=BLUE)
        x += 7 * size + 0.3
        draw_arrow(axes, (x, y + 3.5 * size), (x + 1.2, y + 3.5 * size))
        x, top = x + 1.6, y + (7 - count) / 2 * size
        draw_cells(axes, np.zeros((count, count)), x, top, size=size)
        below = top + count * size + 0.7
        write(axes, x + count * size / 2, below, f"{count}×{count}")
        x += count * size + 1.6


def draw_relu(axes: Axes, digit: np.ndarray) -> None:
    y, size = 1.6, 0.9
    values = feature_map(digit, VERTICAL_EDGE)
    style = {"size": size, "signed": True, "limit": float(np.abs(values).max())}
    draw_cells(axes, values, 0, y, label="map", **style)
    draw_arrow(axes, (5.7, y + 3 * size), (6.9, y + 3 * size))
    draw_cells(axes, np.asarray(jax.nn.relu(values)), 7.2, y, label="its ReLU", **style)
    titles = "function of z", "its derivative", "through k, at z = 1"
    curves, slopes, depths = (
        _plot(axes, x, y, 4.6, 6 * size, title)
        for x, title in zip((15.4, 22.3, 29.2), titles, strict=True)
    )
    z, k = np.linspace(-3, 3, 200, dtype=np.float32), range(1, 11)
    for function, colour in ((jax.nn.relu, RED), (jax.nn.sigmoid, BLUE)):
        curves.plot(z, function(z), color=colour)
        slopes.plot(z, jax.vmap(jax.grad(function))(z), color=colour)
        depths.semilogy(k, [slope(function, i, 1.0) for i in k], color=colour)
    curves.text(1.3, 2.2, "ReLU", color=RED, fontsize=8, ha="right")
    curves.text(-3.2, 0.6, "sigmoid", color=BLUE, fontsize=8)
    curves.set(xticks=[-3, 0, 3], yticks=[0, 1, 3])
    slopes.set(xticks=[-3, 0, 3], yticks=[0, 0.25, 1], yticklabels=["0", "¼", "1"])
    depths.set(xticks=[1, 5, 10], yticks=[1, 1e-3, 1e-6])


def _plot(axes: Axes, x: float, y: float, wide: float, tall: float, title: str) -> Axes:
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    span = right - left
    box = (x - left) / span, 1 - (y + tall) / bottom, wide / span, tall / bottom
    plot = axes.inset_axes(box)
    plot.spines[["top", "right"]].set_visible(False)
    plot.spines[["bottom", "left"]].set_color(GREY)
    plot.tick_params(labelsize=7, colors=GREY)
    write(axes, x + wide / 2, y - 0.7, title, colour=GREY, size=8)
    return plot


def draw_max_pool(axes: Axes, digit: np.ndarray) -> None:
    small = np.array([[1, 3, 2, 1], [4, 6, 5, 0], [3, 1, 9, 8], [0, 2, 4, 7]])
    features = _features(digit, VERTICAL_EDGE)
    cases = [
        (0.0, 1.35, 16.0, "4×4", small.astype(np.float32)),
        (17.0, 0.9, None, "6×6", features),
    ]
    for x, size, limit, label, values in cases:
        side = len(values) * size
        limit = limit or 1.2 * float(values.max())
        style = {"size": size, "numbers": True, "limit": limit}
        style["signed"] = values is features
        draw_cells(axes, values, x, 1.6, label=label, **style)
        for r, c in np.ndindex(len(values) // 2, len(values) // 2):
            draw_frame(axes, x + 2 * c * size, 1.6 + 2 * r * size, 2 * size, 2 * size)
        draw_arrow(axes, (x + side + 0.4, 4.3), (x + side + 1.8, 4.3))
        at = x + side + 2.3, 4.3 - side / 4
        half = label.replace(label[0], str(len(values) // 2))
        draw_cells(axes, pooled(values, 2), *at, label=half, **style)


def draw_flatten(axes: Axes, digit: np.ndarray) -> None:
    kernels = (VERTICAL_EDGE, VERTICAL_EDGE.T)
    maps = np.stack([pooled(_features(digit, kernel), 2) for kernel in kernels], -1)
    style = {"numbers": True, "signed": True, "limit": 1.2 * float(maps.max())}
    for i, y in enumerate((0.7, 5.3)):
        draw_cells(axes, maps[..., i], 0.6, y, label=f"map {i + 1}", **style)
    draw_arrow(axes, (4.2, 4.4), (7.2, 2.3))
    left, size = 8.0, 1.4
    draw_cells(axes, maps.reshape(1, -1), left, 1.6, size=size, **style)
    for i, place in enumerate(("(0, 0)", "(0, 1)", "(0, 2)", "(1, 0)")):
        start = left + 2 * i * size
        draw_measure(axes, (start + 0.15, 1.3), (start + 2 * size - 0.15, 1.3), place)
    write(axes, left + 8.4 * size, 0.6, "and so on", align="left", colour=GREY, size=8)
    inputs = left + size * (0.5 + np.arange(maps.size))
    outputs = np.linspace(inputs[0], inputs[-1], 10)
    for start in inputs:
        for end in outputs:
            axes.plot([start, end], [3.1, 7.1], color=LINE, linewidth=0.45)
    style = {"color": "white", "markeredgecolor": GREY, "markersize": 14}
    for i, x in enumerate(outputs):
        axes.plot(x, 7.6, "o", **style)
        write(axes, x, 7.6, str(i))


def _features(digit: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.relu(feature_map(digit, kernel)))


def draw_shift(axes: Axes, digit: np.ndarray) -> None:
    y, size, shift = 1.6, 0.6, 3
    values = feature_map(np.pad(digit, ((0, 0), (1, 0))), VERTICAL_EDGE)
    r, c = np.unravel_index(values.argmax(), values.shape)
    for x, moved in ((0, 0), (18.4, shift)):
        image = np.pad(digit, ((0, 0), (1 + moved, 4 - moved)))
        values = feature_map(image, VERTICAL_EDGE)
        names = [f"{name}, moved by 3" if moved else name for name in ("image", "map")]
        draw_cells(axes, image, x, y, size=size, label=names[0])
        right, top = x + 13 * size + 1.0, y + size
        draw_cells(axes, values, right, top, size=size, signed=True, label=names[1])
        for left, up, side in ((x, y, 3 * size), (right, top, size)):
            at = left + (c + moved) * size, up + r * size
            if moved:
                start = left + c * size
                draw_frame(axes, start, at[1], side, side, dashed=True)
            draw_frame(axes, *at, side, side)


def draw_invariance(axes: Axes, digits: np.ndarray) -> None:
    for x, label in ((3.1, "image"), (10.1, "map"), (16.8, "pooled by 2")):
        write(axes, x, 0.9, label, colour=GREY, size=8)
    for i, place in enumerate((3, 4, 5)):
        y, size = 1.6 + 3.1 * i, 0.68
        image, values = np.zeros((3, 9)), edge_map(place)[:2]
        image[:, place:] = 1
        style = {"signed": True, "limit": 3.0}
        draw_cells(axes, image, 0, y, size=size, limit=1.6)
        y += size / 2
        draw_cells(axes, values, 7.4, y, size=size, **style)
        draw_cells(axes, pooled(values, 2), 14.1, y, size=2 * size, **style)
    write(
        axes, 28.5, 0.9, "relative change if moved by one column,", size=8, colour=GREY
    )
    write(axes, 28.5, 1.8, f"mean over {len(digits)} digits", size=8, colour=GREY)
    for i, (name, change) in enumerate(shift_changes(digits).items()):
        y = 3.2 + 1.5 * i
        axes.barh(y, 4.8 * change, left=27, height=0.9, color=BLUE)
        write(axes, 26.6, y, name, align="right", size=8)
        write(axes, 27.3 + 4.8 * change, y, f"{change:.0%}", align="left", size=8)


def shift_changes(digits: np.ndarray) -> dict[str, float]:
    """Return how much a shift by one column changes a digit and its features.

    Args:
        digits: `[N, 8, 8]` float32.

    Returns:
        Means over the digits of |after − before| / |before|, in Euclidean norms.
    """
    before, after = (
        np.pad(digits, ((0, 0), (2, 2), (2 + d, 2 - d)))[..., None] for d in (0, 1)
    )

    def features(x, window):
        y = conv(x, VERTICAL_EDGE[:, :, None, None], padding="SAME")
        return max_pool(jax.nn.relu(y), window)

    def change(function):
        a, b = (np.asarray(function(x)).reshape(len(x), -1) for x in (before, after))
        return float(np.mean(np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1)))

    stages = {"image": lambda x: x, "map, ReLU": partial(features, window=1)}
    for name, window in (("pooled by 2", 2), ("pooled by 4", 4), ("its maximum", 12)):
        stages[name] = partial(features, window=window)
    return {name: change(function) for name, function in stages.items()}


def draw_fields(axes: Axes, digit: np.ndarray, label: int) -> None:
    y, size, ink = 1.6, 0.86, digit > 8
    names = ["classification: 10 scores", "segmentation: a class per pixel"]
    names.append("detection: box, score, class")
    for x, name in zip((0.0, 14.6, 26.9), names, strict=True):
        draw_cells(axes, digit, x, y, size=size, label=name)
    draw_arrow(axes, (7.3, y + 4 * size), (8.7, y + 4 * size))
    write(axes, 9.8, y + 4 * size, str(label), size=20, weight="bold")
    draw_cells(axes, ink.astype(float), 14.6, y, size=size, signed=True, limit=1.3)
    (top, bottom), (left, right) = (
        (place.min(), place.max() + 1) for place in np.nonzero(ink)
    )
    at = 26.9 + left * size, y + top * size
    draw_frame(axes, *at, (right - left) * size, (bottom - top) * size)
