"""A small U-Net that labels every pixel of canvases of handwritten digits.

Canvases of 64x64 with up to five MNIST digits that may overlap, or with --m2nist of
64x84 with up to three that do not. Each training canvas is composed anew, on the
device; 2,000 test canvases of the test digits are the same ones always.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.digit_canvas import BACKGROUND, Kind, compose, prepare_test
from jcnn import Layer
from jcnn.data import Dataset, load
from jcnn.metrics import confusion_matrix, make_sums, mean_iou
from jcnn.models import unet
from jcnn.runs import AdamW, Count, Optimizer, Recipe, RunConfig, main
from jcnn.train import TrainState, classification

CLASSES, TEST_CANVASES = BACKGROUND + 1, 2000


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 4
    batch_size: Count = 64
    m2nist: bool = False
    """Canvases of 64x84 with up to three digits that do not overlap."""
    widths: tuple[Count, ...] = (8, 16, 32, 64)
    """Channels of the U-Net at each size, from the largest to the smallest."""
    optimizer: Optimizer = AdamW(learning_rate=4e-3)


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1."""
    return jnp.asarray(images, jnp.float32) / 255


def predict(layer: Layer, params, model_state, images) -> jax.Array:
    return layer.apply(params, model_state, prepare(images, None))[0].argmax(-1)


def recipe(config: Config) -> Recipe:
    digits, test = (
        load("mnist", split, data_dir=config.data_dir) for split in ("train", "test")
    )
    kind = Kind((64, 84), 3, overlap=False) if config.m2nist else Kind()
    layer = unet(CLASSES, widths=config.widths, impl=config.impl)
    canvases = prepare_test(test, TEST_CANVASES, kind)
    test = dataclasses.replace(test, image=canvases.image, label=canvases.mask)

    def composed(key, step, data, batch_size):
        canvas = compose(jax.random.fold_in(key, step), data, batch_size, kind)
        return {"image": canvas.image, "label": canvas.mask}

    def counts(params, model_state, batch):
        predicted = predict(layer, params, model_state, batch["image"])
        return {"counts": confusion_matrix(batch["label"], predicted, CLASSES)}

    sums = make_sums(counts, batch_size=100)
    return Recipe(
        layer,
        config.optimizer,
        *classification(layer, prepare),
        digits,
        test,
        batch_at=composed,
        split_metrics={"mean_iou": lambda *given: mean_iou(sums(*given)["counts"])},
        watch="mean_iou",
        higher_is_better=True,
        draw=partial(draw, layer, test),
    )


def draw(layer: Layer, test: Dataset, folder: Path, state: TrainState) -> None:
    """Draw inputs, true masks and predicted ones into segmentation.png."""
    images, masks = test.image[:8], test.label[:8]
    rows = {
        "input": (images[..., 0], {"cmap": "gray"}),
        "truth": (masks, {"cmap": "tab20", "vmin": 0, "vmax": BACKGROUND}),
    }
    predicted = np.asarray(predict(layer, state.params, state.model_state, images))
    rows["prediction"] = (predicted, rows["truth"][1])
    figure = Figure(figsize=(1.6 * len(images), 5), layout="constrained")
    axes = figure.subplots(3, len(images), squeeze=False)
    for row, (name, (arrays, style)) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for one, array in zip(row, arrays, strict=True):
            one.imshow(array, **style)
            one.set(xticks=[], yticks=[])
    figure.savefig(folder / "segmentation.png", dpi=150)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
