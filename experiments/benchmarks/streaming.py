"""Measure how fast images are read from their files, and whether training waits.

A folder of JPEG files like those of ImageNet is made first: about 500x375 pixels, of
varied sizes, 110 kB each. Then follow images per second of one thread for each part of
the work, of worker processes together, and the time that train steps of a ResNet wait
for their batches.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from PIL import Image

from experiments.imagenet import prepare
from jcnn import train
from jcnn.data import Batches, View, stream_folder
from jcnn.data.streamed import draw, random_crop_box
from jcnn.models import imagenet_resnet
from jcnn.runs import keep_memory

from .report import environment, table


@dataclass(frozen=True)
class Config:
    images: int = 512
    """Number of JPEG files."""
    size: int = 224
    """Height and width of the network's images."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of processes to read with."""
    batch_size: int = 32
    """Images per step."""
    depth: int = 50
    """Layers of the network."""
    steps: int = 8
    """Train steps; 0: none."""


class Timed(Batches):
    """Batches that note how long each was waited for."""

    def __init__(self):
        super().__init__()
        self.waited: list[float] = []

    def _next(self):
        start = time.perf_counter()
        batch = super()._next()
        self.waited.append(time.perf_counter() - start)
        return batch


def main(config: Config) -> None:
    keep_memory()
    print(environment(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        files = make_photographs(Path(folder), config.images)
        kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1e3
        print(f"{len(files)} files of {kilobytes:.0f} kB on average\n")
        rows = [
            [name, f"{len(files) / seconds:.0f}"]
            for name, seconds in of_parts(files, config.size).items()
        ]
        rows += [
            [f"{n} worker{'s' * (n > 1)}", f"{of_workers(Path(folder), n, config):.0f}"]
            for n in config.workers
        ]
        print(table(["", "images/s"], rows), end="\n\n")
        if config.steps:
            train_steps(Path(folder), config)


def make_photographs(folder: Path, number: int, *, classes: int = 8) -> list[Path]:
    """Write JPEG files of varied sizes into class folders: clouds with some noise."""
    rng, paths = np.random.default_rng(0), []
    for index in range(number):
        width, height = (int(n) for n in rng.integers((400, 300), (601, 451)))
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        image = Image.fromarray(coarse).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 18, (height, width, 1))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        path = folder / f"class{index % classes}" / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=87)
        paths.append(path)
    return paths


def of_parts(files: list[Path], size: int) -> dict[str, float]:
    """Return the seconds that one thread takes for all files, for each part."""
    encoded = [path.read_bytes() for path in files]
    decoded = [Image.open(io.BytesIO(content)).convert("RGB") for content in encoded]

    def scale(image: Image.Image, place: int) -> None:
        box = random_crop_box(image.width, image.height, draw((0, 0), place))
        np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))

    return {
        "read": _seconds(lambda: [path.read_bytes() for path in files]),
        "decode": _seconds(
            lambda: [Image.open(io.BytesIO(c)).convert("RGB") for c in encoded]
        ),
        "crop and scale": _seconds(
            lambda: [scale(image, place) for place, image in enumerate(decoded)]
        ),
    }


def of_workers(folder: Path, workers: int, config: Config) -> float:
    """Return the images per second that so many processes give to one that waits."""
    batches, data = Batches(), _data(folder, workers, config)
    first, number = 2 * workers, max(4, config.images // config.batch_size)
    for step in range(first):  # they start, and fill what is read ahead
        batches(jax.random.key(0), step, data, config.batch_size)
    start = time.perf_counter()
    for step in range(first, first + number):
        batches(jax.random.key(0), step, data, config.batch_size)
    seconds = time.perf_counter() - start
    batches.close()
    return number * config.batch_size / seconds


def train_steps(folder: Path, config: Config) -> None:
    """Print the seconds of a step on one batch, and on streamed ones."""
    workers = min(config.workers)
    data, key = _data(folder, workers, config), jax.random.key(0)
    layer, tx = imagenet_resnet(8, depth=config.depth), optax.sgd(0.1, momentum=0.9)
    loss_fn, _ = train.classification(layer, prepare)
    step = train.make_step(loss_fn, tx)
    inputs = jax.ShapeDtypeStruct((1, config.size, config.size, 3), "float32")
    state = train.create(layer, tx, key, inputs)
    batches = Timed()
    batch = batches(key, 0, data, config.batch_size)
    state, _ = jax.block_until_ready(step(state, batch))  # it is compiled
    times: dict[str, list[float]] = {"one batch again": [], "streamed": []}
    batches.waited.clear()
    for _ in range(config.steps):
        for name, its_times in times.items():
            start = time.perf_counter()
            if name == "streamed":
                batch = batches(key, len(its_times) + 1, data, config.batch_size)
            state, _ = jax.block_until_ready(step(state, batch))
            its_times.append(time.perf_counter() - start)
    batches.close()
    rows = [[name, _shown(its_times)] for name, its_times in times.items()]
    rows.append(
        [f"waited for {workers} worker{'s' * (workers > 1)}", _shown(batches.waited)]
    )
    title = f"ResNet-{config.depth}, batch {config.batch_size}"
    print(table([title, "seconds, minimum / median / maximum"], rows))


def _data(folder: Path, workers: int, config: Config) -> dict[str, Any]:
    view = View(config.size, random=True)
    dataset = stream_folder(folder, view=view, workers=workers)
    return {"image": dataset.image, "label": dataset.label}


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _shown(times: list[float]) -> str:
    return f"{min(times):.3f} / {statistics.median(times):.3f} / {max(times):.3f}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
