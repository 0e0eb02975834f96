"""Pictures of a run: its learning curves and the filters of its first convolution.

Drawn on `matplotlib.figure.Figure` itself: no window, no backend, no global state.
"""

import io
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .._files import write_file
from ..inspect.summary import Row
from .output import printable
from .progress import is_accuracy

_TRAIN_COLOUR = "#7aa6d8"
_VALIDATION_COLOUR = "#3c9a5f"
_TEST_COLOUR = "#c8501e"
_MOST_FILTERS = 64  # of a picture


def draw_run(
    run_dir: Path,
    metrics: list[dict[str, Any]],
    params: Any,
    rows: Sequence[Row],
    reached: str,
    *,
    watch: str,
) -> None:
    """Write `curves.png` and, of the first convolution of the plane, `filters.png`.

    Args:
        run_dir: The run's folder.
        metrics: As for `draw_curves`.
        params: The model's parameters.
        rows: What `jcnn.summarize` returns of the model.
        reached: What stands above the curves, after the name of the folder.
        watch: As for `draw_curves`.
    """
    title = f"{run_dir.name}: {reached}"
    draw = partial(draw_curves, metrics, title=title, watch=watch)
    try_picture(run_dir / "curves.png", draw)
    for row in rows:
        part = params
        for name in row.name.split("/"):
            part = part.get(name, {})
        kernel = part.get("kernel")
        if kernel is not None and kernel.ndim == 4:
            title = f"filters of {row.name}"
            draw = partial(draw_filters, kernel, title=title)
            try_picture(run_dir / "filters.png", draw)
            return


def draw_curves(
    metrics: list[dict[str, Any]], *, title: str = "", watch: str = "accuracy"
) -> Figure:
    """Draw the loss and the watched metric over the epochs, of each split.

    Of training the means over the epochs are drawn if an epoch has ended, else those of
    each line; the legend says which.

    Args:
        metrics: The lines of a run's `metrics.jsonl`, see `Record.add_metrics`.
        title: What stands above the picture, as it is.
        watch: Name of the watched metric; with "loss" the picture has one part only.
            Losses are drawn on a logarithmic scale if all are above 0, accuracies in
            percent.

    Returns:
        The picture.

    >>> metrics = [{"epoch": 1, "loss": 0.5, "accuracy": 0.9, "test_accuracy": 0.8}]
    >>> [axes.get_ylabel() for axes in draw_curves(metrics).axes]
    ['loss', 'accuracy (%)']
    >>> [axes.get_ylabel() for axes in draw_curves(metrics, watch="loss").axes]
    ['loss']
    """
    names = list(dict.fromkeys(("loss", watch)))
    figure = Figure(figsize=(4 * len(names), 3.4), dpi=150, layout="constrained")
    _set_title(figure, title)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        unit = 100 if is_accuracy(name) else 1
        values = _draw_splits(axes, metrics, name, unit=unit)
        label = printable(f"{name} (%)" if unit == 100 else name)
        axes.set_ylabel(label, parse_math=False)
        if unit == 100:
            axes.set_ylim(_least_accuracy(metrics, name), 100)
        if name == "loss" and min(values, default=1) > 0:
            axes.set(yscale="log")
            low, high = min(values, default=1), max(values, default=1)
            ticks = range(1, 10) if low < high < 10 * low else (1, 2, 5)
            axes.yaxis.set_major_locator(LogLocator(subs=ticks))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("epochs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if values:
            axes.legend(frameon=False)
    return figure


def draw_filters(kernel: np.ndarray, *, title: str = "") -> Figure:
    """Draw the filters of a convolution, in colour if it sees three channels.

    Filters of three channels are drawn as the picture they answer to most, each
    stretched to its own range; of other kernels the first channel is drawn,
    blue below zero and red above, all on one scale. Of very many the first 64 are
    drawn.

    Args:
        kernel: Kernel of the convolution, `[KH, KW, C, O]`.
        title: What stands above the picture, as it is.

    Returns:
        The picture.

    Raises:
        ValueError: If `kernel` has no four axes.

    >>> import numpy as np
    >>> len(draw_filters(np.ones((3, 3, 3, 6))).axes)
    6
    """
    if kernel.ndim != 4:
        raise ValueError(f"kernel must be [KH, KW, C, O], got shape {kernel.shape}")
    kernel = kernel[..., :_MOST_FILTERS].astype(np.float32)  # no picture is bfloat16
    num_filters = kernel.shape[-1]
    columns = min(8, num_filters)
    rows = math.ceil(num_filters / columns)
    figure = Figure(figsize=(columns + 1, rows + 0.5), dpi=150, layout="constrained")
    _set_title(figure, title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[num_filters:]:
        axes.remove()
    grid = list(grid[:num_filters])
    limit = float(np.abs(kernel[:, :, 0]).max())
    image = None
    for index, axes in enumerate(grid):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("lightgrey")
        if kernel.shape[2] == 3:
            axes.imshow(_stretch(kernel[..., index]))
        else:
            weights = kernel[:, :, 0, index]
            image = axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit)
    if image is not None:
        figure.colorbar(image, ax=grid, label="weight", shrink=0.9)
    return figure


def write_picture(path: Path, figure: Figure) -> None:
    """Write a picture as a PNG file.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "curves.png")
    ...     write_picture(file, draw_curves([]))
    ...     file.read_bytes()[1:4]
    b'PNG'
    """
    content = io.BytesIO()
    with warnings.catch_warnings():  # of letters that the font lacks: these are boxes
        warnings.filterwarnings("ignore", "Glyph ", UserWarning)
        figure.savefig(content, format="png")
    write_file(path, content.getvalue())


def try_picture(path: Path, draw: Callable[[], Figure]) -> None:
    """Draw a picture and write it; one that cannot be drawn is told of on stderr.

    Nothing that was computed is in a picture alone, so none may end a run.

    Args:
        path: The file.
        draw: Gives the picture.

    Raises:
        OSError: If the file cannot be written, with its name.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "curves.png")
    ...     try_picture(file, lambda: draw_filters(np.ones(3)))
    ...     try_picture(file, lambda: draw_filters(np.ones((3, 3, 1, 2))))
    ...     file.exists()
    True
    """
    try:
        write_picture(path, draw())
    except OSError:
        raise
    except Exception as error:
        print(f"{path} could not be drawn: {error}", file=sys.stderr)


def _set_title(figure: Figure, title: str) -> None:
    """A title in which nothing is mathematics, though names of folders have dollars."""
    figure.suptitle(printable(title), fontsize=11, parse_math=False, usetex=False)


def _draw_splits(
    axes: Axes, metrics: list[dict[str, Any]], name: str, *, unit: float
) -> list[float]:
    """Draw what there is of each split; return all of the values."""
    by_epoch = any(line.get("epoch_loss") is not None for line in metrics)
    of_train = (f"epoch_{name}", "epoch") if by_epoch else (name, "call")
    curves = {
        of_train[0]: (f"train, mean of each {of_train[1]}", _TRAIN_COLOUR, 1),
        f"validation_{name}": ("validation", _VALIDATION_COLOUR, 1.5),
        f"test_{name}": ("test", _TEST_COLOUR, 1.5),
    }
    drawn = []
    for key, (label, color, width) in curves.items():
        lines = [line for line in metrics if line.get(key) is not None]
        epochs = [line["epoch"] for line in lines]
        # A run of a few epochs has so few points that a line alone would hide them.
        marker = "o" if len(lines) <= 20 else None
        values = [line[key] * unit for line in lines]
        if values:
            style = {"label": label, "color": color, "linewidth": width}
            axes.plot(epochs, values, marker=marker, markersize=3, **style)
        drawn += values
    return drawn


def _least_accuracy(metrics: list[dict[str, Any]], name: str) -> float:
    """Where the axis begins: at five times the errors of the end, which shows those."""
    keys = (f"validation_{name}", f"test_{name}", f"epoch_{name}")
    found = [line[key] for key in keys for line in metrics if line.get(key) is not None]
    errors = next((1 - value for value in reversed(found)), 1.0)
    return 100 * max(0.0, 1 - 5 * max(errors, 0.01))


def _stretch(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, np.finfo(np.float32).tiny)
