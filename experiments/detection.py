"""A small one-stage detector of handwritten digits: where, how large, and which one.

After Zhou et al., "Objects as Points" (2019): on a grid of a quarter of the size the
network gives for each cell a score of each class, which is high at centres, and the
distances from the cell to the four sides of the box. Canvases of 64x64 with up to five
MNIST digits that overlap a little are composed anew for each step, on the device.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.digit_canvas import Kind, fixed_set, make_batch_at
from experiments.digit_pictures import draw_boxes, draw_precisions
from jcnn import Layer, serial
from jcnn.boxes import average_precision, decode_grid, grid_loss, grid_targets
from jcnn.data import Dataset, load
from jcnn.layers import MaxPool
from jcnn.models import conv_norm_relu, unet
from jcnn.runs import AdamW, Count, Optimizer, Recipe, RunConfig, main
from jcnn.train import TrainState

CLASSES, STRIDE, MOST = 10, 4, 10  # digits, pixels of a cell, detections per image
WATCH = "mean_average_precision"


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 4
    batch_size: Count = 64
    optimizer: Optimizer = AdamW(learning_rate=4e-3)


def model(impl: str) -> Layer:
    unit = partial(conv_norm_relu, impl=impl)
    return serial(
        unit1=unit(16),
        pool1=MaxPool(2),
        unit2=unit(32),
        pool2=MaxPool(2),
        body=unet(CLASSES + 4, widths=(64, 128), impl=impl),
    )


def prepare(dtype: str, images, key: jax.Array | None = None) -> jax.Array:
    """Pixels from 0 to 1."""
    return (jnp.asarray(images, jnp.float32) / 255).astype(dtype)


def losses(outputs: jax.Array, objects: jax.Array) -> jax.Array:
    """The loss of each image."""
    size, outputs = outputs.shape[1:3], outputs.astype("float32")
    true = grid_targets(objects, size=size, stride=STRIDE, num_classes=CLASSES)
    return grid_loss(outputs[..., :CLASSES], outputs[..., CLASSES:], *true)


def detect(layer: Layer, params, model_state, x) -> tuple[jax.Array, ...]:
    """Return boxes [N, MOST, 4], scores and classes [N, MOST], the best first."""
    outputs = layer.apply(params, model_state, x)[0].astype("float32")
    scores = jax.nn.sigmoid(outputs[..., :CLASSES])
    return decode_grid(scores, outputs[..., CLASSES:], stride=STRIDE, most=MOST)


def recipe(config: Config) -> Recipe:
    mnist = partial(load, "mnist", data_dir=config.data_dir)
    digits, held_out, test = map(mnist, ("train[:55000]", "train[55000:]", "test"))
    layer, kind = model(config.impl), Kind()
    test = fixed_set(test, kind, "objects")
    inputs = partial(prepare, config.dtype)
    found = jax.jit(lambda p, s, images: detect(layer, p, s, inputs(images)))

    def loss_fn(params, model_state, batch, key):
        x = inputs(batch["image"])
        outputs, model_state = layer.apply(params, model_state, x, train=True, key=key)
        return losses(outputs, batch["label"]).mean(), (model_state, {})

    def example_metrics(params, model_state, batch):
        outputs, _ = layer.apply(params, model_state, inputs(batch["image"]))
        return {"loss": losses(outputs, batch["label"])}

    return Recipe(
        layer,
        config.optimizer,
        loss_fn,
        example_metrics,
        digits,
        test,
        prepare=inputs,
        validation=fixed_set(held_out, kind, "objects"),
        batch_at=make_batch_at(kind, "objects"),
        split_metrics={WATCH: lambda *of: np.nanmean(precisions(found, *of))},
        watch=WATCH,
        higher_is_better=True,
        draw=partial(draw, found, test),
    )


def precisions(found, state: TrainState, data) -> np.ndarray:
    """Return the average precision of each class."""
    shown = [*found(state.params, state.model_state, data["image"]), data["label"]]
    return average_precision(*shown, num_classes=CLASSES)


def draw(found, test: Dataset, folder: Path, state: TrainState) -> None:
    """Draw eight test canvases, and the average precision of each class."""
    shown = found(state.params, state.model_state, test.image[:8])
    draw_boxes(folder / "detection.png", test.image[:8], test.label[:8], *shown)
    values = precisions(found, state, {"image": test.image, "label": test.label})
    draw_precisions(folder / "average_precision.png", values)


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
