"""Drawing functions: cells, frames, arrows, dimensions, text, and the whole page.

One unit is the side of a cell. y runs downwards from the top of a section. The picture
starts at x = 0, with its text to the left.
"""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INK, GREY, LINE = "#22262b", "#6b737c", "#d3d8de"
WINDOW, BLUE, RED, OUTSIDE = "#e08600", "#2166ac", "#b2182b", "#e0ebf6"

WIDTH = 34  # of a picture, in units, like all lengths below
_INCHES = 0.22  # a unit
_TEXT, _MARGIN, _GAP, _HEADER, _FOOTER = 15, 2.6, 3.6, 7.5, 3.0

Point = tuple[float, float]


class Section(NamedTuple):
    """A part of the page: text on the left, a picture on the right.

    Attributes:
        title: Heading.
        caption: Description of the picture.
        code: The calls that compute it, one per line.
        height: Height of the picture, in units.
        draw: Function that draws it on axes in units, x from 0 to `WIDTH`, y downwards.
    """

    title: str
    caption: str
    code: str
    height: float
    draw: Callable[[Axes], None]


def draw_page(
    title: str, subtitle: str, footer: str, sections: Sequence[Section]
) -> Figure:
    """Draw all sections on one page, one below the other."""
    width = _MARGIN + _TEXT + WIDTH + _MARGIN
    height = _HEADER + sum(s.height + _GAP for s in sections) + _FOOTER
    figure = Figure(figsize=(width * _INCHES, height * _INCHES), dpi=160)

    def add_axes(top: float, tall: float) -> Axes:
        box = (0, 1 - (top + tall) / height, 1, tall / height)
        axes = figure.add_axes(box, frameon=False, xticks=[], yticks=[])
        axes.set(xlim=(-_MARGIN - _TEXT, WIDTH + _MARGIN), ylim=(tall, 0))
        axes.set_autoscale_on(False)
        return axes

    page = add_axes(0, height)
    write(page, -_TEXT, 3.2, title, size=23, align="left", weight="bold")
    write(page, -_TEXT, 5.4, subtitle, size=10, align="left", colour=GREY)
    top = _HEADER
    for number, section in enumerate(sections, 1):
        page.plot([-_TEXT, WIDTH], [top, top], color=LINE, linewidth=0.8)
        axes = add_axes(top + _GAP / 2, section.height)
        _draw_words(axes, number, section)
        section.draw(axes)
        top += section.height + _GAP
    page.plot([-_TEXT, WIDTH], [top, top], color=LINE, linewidth=0.8)
    write(page, -_TEXT, top + 1.2, footer, size=7.5, align="left", colour=GREY)
    return figure


def _draw_words(axes: Axes, number: int, section: Section) -> None:
    left, top, line = -_TEXT + 2, 1.7, 0.79
    caption = fill(section.caption, 37)
    write(axes, -_TEXT, 0.5, str(number), size=13, align="left", colour=WINDOW)
    write(axes, left, 0.5, section.title, size=13, align="left")
    style = {"va": "top", "linespacing": 1.45}
    axes.text(left, top, caption, fontsize=8.6, color=INK, **style)
    below = top + line * (caption.count("\n") + 1) + 0.6
    style |= {"family": "monospace", "color": BLUE}
    axes.text(left, below, section.code, fontsize=7.2, **style)


def write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 8.5,
    align: str = "center",
    colour: str = INK,
    weight: str = "normal",
) -> None:
    """Write a line of text, vertically centred at y."""
    style = {"color": colour, "weight": weight, "fontsize": size, "zorder": 5}
    axes.text(x, y, text, ha=align, va="center_baseline", **style)


def draw_cells(
    axes: Axes,
    values: np.ndarray,
    x: float,
    y: float,
    *,
    size: float = 1.0,
    limit: float | None = None,
    signed: bool = False,
    numbers: bool = False,
    outside: np.ndarray | None = None,
    label: str = "",
) -> None:
    """Draw an array as a grid of cells.

    Args:
        axes: Where to draw.
        values: Values `[H, W]`; NaN is drawn as padding without a number.
        x: Left end.
        y: Upper end.
        size: Side of a cell.
        limit: The value drawn darkest. By default the largest one.
        signed: Use blue for negative and red for positive values, not white to black.
        numbers: Write the values into the cells.
        outside: Mask of padding cells, bool `[H, W]`.
        label: Text above the grid.
    """
    rows, columns = values.shape
    limit = limit or float(np.nanmax(np.abs(values))) or 1.0
    hidden = np.isnan(values) if outside is None else outside
    colours = matplotlib.colormaps["RdBu_r" if signed else "Greys"]
    axes.pcolormesh(
        x + size * np.arange(columns + 1),
        y + size * np.arange(rows + 1),
        np.ma.masked_array(values, hidden),
        cmap=colours.with_extremes(bad=OUTSIDE),
        vmin=-1.2 * limit if signed else 0,
        vmax=1.2 * limit,
        edgecolors=LINE,
        linewidth=0.7 * size,
    )
    if numbers:
        texts = [format_number(value) for value in values.flat]
        font = size * {1: 8.8, 2: 7.8}.get(max(map(len, texts)), 6.8)
        for (r, c), text in zip(np.ndindex(rows, columns), texts, strict=True):
            dark = not hidden[r, c] and abs(values[r, c]) > 0.6 * limit
            colour = "white" if dark else INK if values[r, c] else GREY
            at = x + (c + 0.5) * size, y + (r + 0.5) * size
            write(axes, *at, text, size=font, colour=colour)
    write(axes, x + columns * size / 2, y - 0.7, label, colour=GREY, size=8)


def format_number(value: float) -> str:
    """Format a number with a minus sign (not a hyphen), zero unsigned, NaN as "".

    >>> format_number(-0.0), format_number(-3.0), format_number(float("nan"))
    ('0', '−3', '')
    """
    return "" if np.isnan(value) else f"{value + 0.0:g}".replace("-", "−")


def draw_frame(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    colour: str = WINDOW,
    dashed: bool = False,
) -> None:
    """Draw the outline of a window."""
    frame = Rectangle((x, y), width, height, fill=False, edgecolor=colour)
    frame.set(linewidth=2, linestyle=(0, (2.2, 1.4)) if dashed else "solid", zorder=3)
    axes.add_patch(frame)


def draw_arrow(axes: Axes, start: Point, end: Point, *, colour: str = GREY) -> None:
    """Draw an arrow between two points."""
    style = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axes.annotate("", end, start, arrowprops={"color": colour, "lw": 1.1, **style})


def draw_measure(axes: Axes, start: Point, end: Point, text: str) -> None:
    """Draw a dimension line with its label above it or on its left."""
    style = {"arrowstyle": "|-|,widthA=0.25,widthB=0.25", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={"color": GREY, "lw": 0.9, **style})
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    if start[0] == end[0]:
        write(axes, x - 0.4, y, text, align="right")
    else:
        write(axes, x, y - 0.7, text)
