"""Pictures of canvases of digits with what is true of them and what was found."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def draw_masks(path: Path, images, masks, predicted, *, classes: int) -> None:
    """Draw rows of inputs [N, H, W, 1], true masks [N, H, W] and predicted ones."""
    style = {"cmap": "tab20", "vmin": 0, "vmax": classes - 1}
    rows = {
        "input": (images[..., 0], {"cmap": "gray"}),
        "truth": (masks, style),
        "prediction": (predicted, style),
    }
    figure = Figure(figsize=(1.6 * len(images), 5), layout="constrained")
    axes = figure.subplots(3, len(images), squeeze=False)
    for row, (name, (arrays, style)) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for one, array in zip(row, arrays, strict=True):
            one.imshow(array, **style)
            one.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=150)


def draw_boxes(path: Path, images, labels, boxes, scores, classes) -> None:
    """Draw each image with its true boxes in white and the surer ones found in colour.

    Args:
        path: Of the PNG file.
        images: [N, H, W, 1].
        labels: True boxes and classes side by side, [N, M, 5].
        boxes, scores, classes: Those found, [N, K, 4], [N, K] and [N, K].
    """
    classes = np.where(scores > 0.4, classes, -1)
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    for number, axes in enumerate(figure.subplots(2, -(-len(images) // 2)).flat):
        axes.imshow(images[number, ..., 0], cmap="gray")
        axes.set(xticks=[], yticks=[])
        true = [(box[:4], box[4], "white") for box in labels[number]]
        pairs = zip(np.asarray(boxes[number]), classes[number])
        found = [(box, one, "tab:orange") for box, one in pairs]
        for (top, left, bottom, right), one, colour in true + found:
            if one >= 0:
                size = (right - left, bottom - top)
                axes.add_patch(
                    Rectangle((left - 0.5, top - 0.5), *size, fill=False, color=colour)
                )
                if colour != "white":
                    axes.text(left, top - 1, f"{one:g}", color=colour, fontsize=9)
    figure.savefig(path, dpi=150)


def draw_precisions(path: Path, values: np.ndarray) -> None:
    """Draw the average precision of each class as a bar."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(range(len(values)), values, color="#7aa6d8")
    axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.set(xticks=range(len(values)), xlim=(-0.6, len(values) - 0.4), xlabel="class")
    axes.set(ylim=(0, 1.08), ylabel="average precision")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
