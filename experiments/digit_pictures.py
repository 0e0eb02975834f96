"""Pictures of canvases of digits with what is true of them and what was found."""

from pathlib import Path

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


def draw_boxes(path: Path, images, labels, boxes, classes) -> None:
    """Draw each image with its true boxes in white and those found in colour.

    Args:
        path: Of the PNG file.
        images: [N, H, W, 1].
        labels: True boxes and classes side by side, [N, M, 5].
        boxes, classes: Those found, [N, K, 4] and [N, K]; class -1: none.
    """
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    for number, axes in enumerate(figure.subplots(2, -(-len(images) // 2)).flat):
        axes.imshow(images[number, ..., 0], cmap="gray")
        axes.set(xticks=[], yticks=[])
        true = [(box[:4], box[4], "white") for box in labels[number]]
        found = [(b, c, "tab:orange") for b, c in zip(boxes[number], classes[number])]
        for (top, left, bottom, right), one, colour in true + found:
            if one >= 0:
                size = (right - left, bottom - top)
                axes.add_patch(
                    Rectangle((left - 0.5, top - 0.5), *size, fill=False, color=colour)
                )
                if colour != "white":
                    axes.text(left, top - 1, f"{one:g}", color=colour, fontsize=9)
    figure.savefig(path, dpi=150)
