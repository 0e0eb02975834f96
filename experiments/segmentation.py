"""A small U-Net that labels every pixel of canvases of handwritten digits.

Canvases of 64x64 with up to five MNIST digits that overlap a little, or with --m2nist
of 64x84 with up to three that do not. Each training canvas is composed anew, on the
device; 2,000 test canvases of the test digits, and 1,000 of training digits that are
held out for validation, are the same ones always.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.digit_canvas import BACKGROUND, Kind, fixed_set, make_batch_at
from experiments.digit_pictures import draw_masks
from jcnn.data import Dataset, load
from jcnn.metrics import confusion_matrix, make_sums, mean_iou
from jcnn.models import unet
from jcnn.runs import Count, Muon, Optimizer, Recipe, RunConfig, main
from jcnn.train import TrainState, classification

CLASSES = BACKGROUND + 1


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 3
    batch_size: Count = 64
    m2nist: bool = False
    """Canvases of 64x84 with up to three digits that do not overlap."""
    widths: tuple[Count, ...] = (12, 24, 48, 96)
    """Channels of the U-Net at each size, from the largest to the smallest."""
    optimizer: Optimizer = Muon(learning_rate=0.01)


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Pixels from 0 to 1."""
    return jnp.asarray(images, jnp.float32) / 255


def recipe(config: Config) -> Recipe:
    digits, held_out, test = (
        load("mnist", split, data_dir=config.data_dir)
        for split in ("train[:55000]", "train[55000:]", "test")
    )
    kind = Kind((64, 84), 3, overlap=0) if config.m2nist else Kind()
    layer = unet(CLASSES, widths=config.widths, impl=config.impl)
    test = fixed_set(test, kind, "mask")

    def predict(params, model_state, images):
        x = prepare(images, None).astype(config.dtype)
        return layer.apply(params, model_state, x)[0].argmax(-1)

    def counts(params, model_state, batch):
        predicted = predict(params, model_state, batch["image"])
        return {"counts": confusion_matrix(batch["label"], predicted, CLASSES)}

    sums = make_sums(counts, batch_size=100)
    return Recipe(
        layer,
        config.optimizer,
        *classification(layer, prepare),
        digits,
        test,
        validation=fixed_set(held_out, kind, "mask"),
        batch_at=make_batch_at(kind, "mask"),
        split_metrics={"mean_iou": lambda *given: mean_iou(sums(*given)["counts"])},
        watch="mean_iou",
        higher_is_better=True,
        draw=partial(draw, predict, test),
    )


def draw(predict, test: Dataset, folder: Path, state: TrainState) -> None:
    """Draw inputs, true masks and predicted ones into segmentation.png."""
    images, masks = test.image[:8], test.label[:8]
    predicted = np.asarray(predict(state.params, state.model_state, images))
    path = folder / "segmentation.png"
    draw_masks(path, images, masks, predicted, classes=CLASSES)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
