"""A small residual network on a folder of your own images.

The folder has a subfolder for each class, with PNG and JPEG files of any sizes and
colours: `python -m experiments.own_images --images FOLDER`. A fixed fifth of each class
is for testing. Classes with few images weigh more in the loss; at the end there is a
report for each class. Files that cannot be read are named and left out.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from jcnn import Layer, global_avg_pool, residual, serial
from jcnn.augment import random_affine, random_erase, random_flip
from jcnn.data import Dataset, evaluation_batches, load_folder, split_folder
from jcnn.layers import Dense, MaxPool
from jcnn.metrics import confusion_matrix, f1, precision, recall
from jcnn.models import conv_norm_relu
from jcnn.runs import AdamW, Count, Optimizer, OptionError, Recipe, RunConfig, main
from jcnn.runs.config import Range
from jcnn.train import TrainState, classification


@dataclass(frozen=True)
class Config(RunConfig):
    images: Path | None = None
    """Folder of class folders of PNG and JPEG files."""
    size: Annotated[int, Range(8, 1024)] = 64
    """Height and width to scale the images to."""
    stream: bool | None = None
    """Leave the images in their files; by default if they would take more than half of
    the memory."""
    test: Annotated[float, Range(0, 1, True, True)] = 0.2
    """Part of each class to test on."""
    epochs: Count = 30
    batch_size: Count = 32
    validation: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Part of the training images to hold out, drawn by the seed, and to evaluate after
    each epoch; the checkpoint of the best epoch is kept."""
    optimizer: Optimizer = AdamW()


def model(num_classes: int, impl: str) -> Layer:
    unit = partial(conv_norm_relu, impl=impl)
    stages = {
        f"stage{i}": serial(
            unit=unit(width),
            pool=MaxPool(2),
            block=residual(serial(unit1=unit(width), unit2=unit(width))),
        )
        for i, width in enumerate((32, 64, 128), 1)
    }
    return serial(**stages, mean=global_avg_pool, head=Dense(num_classes, impl=impl))


def prepare(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """From -1 to 1; in training mirrored, turned, scaled, and with a patch erased."""
    x = images.astype(jnp.float32) / 127.5 - 1
    if key is None:
        return x
    flip, move, erase = jax.random.split(key, 3)
    x = random_affine(
        move, random_flip(flip, x), degrees=10, shift=0.1, scale=(0.9, 1.1)
    )
    return random_erase(erase, x, probability=0.25)


def recipe(config: Config) -> Recipe:
    if config.images is None:
        raise OptionError("--images must be a folder of class folders, got None")
    found = load_folder(config.images, size=config.size, stream=config.stream)
    for path, reason in found.broken.items():
        print(f"left out: {path}: {reason}", file=sys.stderr)
    train, test = split_folder(found, config.test)
    layer = model(train.num_classes, config.impl)
    weights = len(train.label) / np.bincount(train.label) / train.num_classes
    losses = classification(layer, prepare, class_weights=weights)
    report = partial(write_report, layer, test, config.dtype, len(found.broken))
    return Recipe(layer, config.optimizer, *losses, train, test, draw=report)


def write_report(
    layer: Layer,
    test: Dataset,
    dtype: str,
    broken: int,
    folder: Path,
    state: TrainState,
) -> None:
    """Print what was reached for each class, and write it to classes.txt."""

    @jax.jit
    def predict(images):
        x = prepare(images, None).astype(dtype)
        return layer.apply(state.params, state.model_state, x)[0].argmax(-1)

    matrix = np.zeros((test.num_classes, test.num_classes), int)
    for batch, indices in evaluation_batches(test.image, test.label, 100):
        found = predict(batch["image"])[: len(indices)]
        matrix += confusion_matrix(test.label[indices], found, test.num_classes)
    columns = [precision(matrix), recall(matrix), f1(matrix)]
    lines = [f"{'class':20} images  precision  recall      F1"]
    for name, number, *values in zip(
        test.class_names or (), matrix.sum(1), *columns, strict=True
    ):
        lines.append(f"{name:20} {number:6}  " + "  ".join(f"{v:7.1%}" for v in values))
    if broken:
        lines.append(f"{broken} files could not be read")
    print(*lines, sep="\n")
    (folder / "classes.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main(Config, recipe))
