"""`jcnn predict`: what a trained network says of image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from ..data.decode_image import read_image
from ..data.folder import image_files
from .output import printable
from .pictures import try_picture
from .store.folder import write_json
from .store.network import Network, load

MOST = 5  # classes that are shown
_PICTURED = 24
_BATCH = 64


class Prediction(NamedTuple):
    """The most probable classes of one image file, the first the most probable."""

    file: Path
    image: np.ndarray  # as the network sees it, uint8 [H, W, C]
    classes: list[tuple[str, float]]  # name and probability


def predict(run: Path, files: Sequence[Path], output: Path) -> int:
    """Print the classes of images; write `predictions.json` and `predictions.png`.

    Args:
        run: Folder of a run of a classifier.
        files: PNG and JPEG files, and folders of them.
        output: Folder to write to; it is made if it is not there.

    Returns:
        0, or 1 if no file could be read.

    Raises:
        FileNotFoundError: If the run has no network, or there is no such file, or none
            in a folder.
        ValueError: If the network does not classify images of 8 bits.
    """
    network = load(run)
    _check(network)
    paths = list(dict.fromkeys(path for file in files for path in _below(file)))
    height, width, channels = network.image_shape
    colour = "colour" if channels == 3 else "grey"
    print(
        f"Each image is turned as its EXIF data say, made {colour}, and scaled and cut "
        f"to {height} x {width} pixels."
    )
    predictions, broken = [], {}
    for start in range(0, len(paths), _BATCH):
        some = paths[start : start + _BATCH]
        found = {path: read_image(path, network.image_shape) for path in some}
        broken |= {path: e for path, e in found.items() if isinstance(e, str)}
        images = {path: a for path, a in found.items() if not isinstance(a, str)}
        predictions += _predictions(network, images)
    for one in predictions:
        named = ", ".join(f"{name} {p:.1%}" for name, p in one.classes)
        print(printable(f"{one.file}: {named}"))
    for path, error in broken.items():
        print(printable(f"{path}: left out: {error}"))
    output.mkdir(parents=True, exist_ok=True)
    listed = [
        {
            "file": str(one.file),
            "classes": [{"name": n, "probability": p} for n, p in one.classes],
        }
        for one in predictions
    ]
    left_out = {str(path): error for path, error in broken.items()}
    record = {"run": str(run), "predictions": listed, "left_out": left_out}
    write_json(output / "predictions.json", record)
    if predictions:
        try_picture(output / "predictions.png", lambda: _figure(predictions))
    print(printable(f"everything is in {output}"))
    return 0 if predictions else 1


def _check(network: Network) -> None:
    if network.image_dtype != np.uint8 or network.image_shape[2:] not in ((1,), (3,)):
        raise ValueError(
            "the network must be for images of 8 bits in grey or colour, it is for "
            f"{network.image_dtype} {list(network.image_shape)}"
        )
    one = jax.ShapeDtypeStruct((1, *network.image_shape), np.uint8)
    shape = jax.eval_shape(network.logits, one).shape
    if shape != (1, len(network.class_names)):
        raise ValueError(
            f"the network must give a score for each of {len(network.class_names)} "
            f"classes, it gives {list(shape[1:])}"
        )


def _below(file: Path) -> list[Path]:
    if file.is_dir():
        if not (found := list(image_files(file))):
            raise FileNotFoundError(f"there is no PNG or JPEG file in {file}")
        return found
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    return [file]


def _predictions(network: Network, images: dict[Path, np.ndarray]) -> list[Prediction]:
    if not images:
        return []
    logits = network.logits(np.stack([*images.values()]))
    probabilities = np.asarray(jax.nn.softmax(logits.astype("float32")))
    predictions = []
    for (path, image), row in zip(images.items(), probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:MOST]
        classes = [(network.class_names[i], float(row[i])) for i in best]
        predictions.append(Prediction(path, image, classes))
    return predictions


def _figure(predictions: Sequence[Prediction]) -> Figure:
    """Draw each image as the network sees it, with bars of its classes."""
    shown = predictions[:_PICTURED]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4 * columns, 1.7 * rows), dpi=120, layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, one in enumerate(shown):
        row, column = divmod(number, columns)
        picture, bars = grid[row, 2 * column : 2 * column + 2]
        picture.imshow(one.image.squeeze(), cmap="gray", vmin=0, vmax=255)
        title = printable(one.file.name)
        picture.set_title(
            title if len(title) < 22 else f"{title[:20]}…",
            fontsize=8,
            parse_math=False,
        )
        names, values = zip(*one.classes[::-1])
        bars.set_axis_on()
        bars.barh(range(len(names)), values, color="#7aa6d8")
        bars.set(xlim=(0, 1), xticks=[], yticks=[])
        bars.spines[:].set_visible(False)
        for place, (name, value) in enumerate(zip(names, values)):
            text = f"{printable(name)}: {value:.0%}"
            bars.text(0.02, place, text, va="center", fontsize=8, parse_math=False)
    return figure
