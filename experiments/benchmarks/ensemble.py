"""Time several models at once: `jax.vmap` over them, against a loop.

Each row is a convolution with both gradients, or a whole train step of a small network,
for models with separate parameters and inputs. It gives milliseconds, minimum / median,
and in brackets the ratio of the median to that of jcnn's vmap. "loop" is a Python loop
over lists of models in one jitted function. "lax vmap" is lax's grouped convolution.
Without `--keep-memory`, Linux reclaims arrays above 32 MiB after each call.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jcnn import flatten, serial, train
from jcnn.layers import Conv, Dense, Layer, MaxPool
from jcnn.runs import keep_memory

from .operations import convolution, operands
from .report import environment, ratio, table
from .shapes import Shape
from .timing import interleaved

SHAPES = [
    Shape(32, (28, 28), 1, 32, 3),
    Shape(32, (14, 14), 32, 64, 3),
    Shape(32, (16, 16), 64, 64, 3),
    Shape(32, (16, 16), 64, 128, 3, strides=2),
    Shape(32, (16, 16), 64, 128, 1),
    Shape(32, (16, 16), 64, 64, 3, groups=64),
]
IMPLS = {"jcnn": "auto", "lax": "lax"}
NAMES = [f"{impl} {way}" for impl in IMPLS for way in ("vmap", "loop")]


@dataclass(frozen=True)
class Config:
    models: int = 8
    """Number of models."""
    seconds: float = 4.0
    """Seconds per row."""
    only: str = ""
    """Only rows that contain this text, such as "g64" or "net"."""
    keep_memory: bool = False
    """Keep large buffers between calls, as experiments do by default."""


class Work(NamedTuple):
    """A computation for every model."""

    one_model: Callable[[str], Callable[..., Any]]  # of the implementation of conv
    arguments: Callable[[int], tuple[Any, ...]]  # of the model's number


def main(config: Config) -> None:
    if config.keep_memory:
        keep_memory()
    print(environment(), end="\n\n")
    works = {"small net's train step": train_step()}
    works |= {f"{shape} f, gx, gw": with_gradients(shape) for shape in SHAPES}
    rows = []
    for name, work in works.items():
        if config.only in name:
            functions = dict(candidates(work, config.models))
            times = interleaved(functions, seconds=config.seconds)
            base = times[NAMES[0]].median
            cells = [
                f"{t.minimum:.2f} / {t.median:.2f} ({ratio(t.median, base)})"
                for t in times.values()
            ]
            rows.append([name, *cells])
    print(table([f"{config.models} models", *NAMES], rows))


def train_step() -> Work:
    """Return the train step of a small network, with a batch of 32 per model."""
    tx = optax.adam(1e-3)

    def one_model(impl):
        loss_fn, _ = train.classification(_net(impl), lambda images, key: images)
        return train.make_step(loss_fn, tx)

    def arguments(model):
        key = jax.random.key(model)
        images = jax.random.normal(key, (32, 28, 28, 1))
        labels = jax.random.randint(key, (32,), 0, 10)
        state = train.create(_net("lax"), tx, key, images)
        return state, {"image": images, "label": labels}

    return Work(one_model, arguments)


def with_gradients(shape: Shape) -> Work:
    """Return a convolution with its input gradient and kernel gradient."""

    def one_model(impl):
        def compute(x, w, y):
            result, gradients = jax.vjp(convolution(shape, impl), x, w)
            return result, *gradients(y)

        return compute

    def arguments(model):
        random = np.random.default_rng(model)
        arrays = (random.standard_normal(a.shape) for a in operands(shape))
        return tuple(jnp.asarray(a, jnp.float32) for a in arrays)

    return Work(one_model, arguments)


def candidates(work: Work, models: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the NAMES and compiled functions without arguments."""
    separate = [work.arguments(model) for model in range(models)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *separate)
    for name, impl in IMPLS.items():
        one = work.one_model(impl)

        def loop(*models, one=one):
            return [one(*arguments) for arguments in models]

        yield f"{name} vmap", _compiled(jax.vmap(one), *stacked)
        yield f"{name} loop", _compiled(loop, *separate)


def _compiled(function: Callable[..., Any], *args: Any) -> Callable[[], object]:
    compiled = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(compiled(*args))


def _net(impl: str) -> Layer:
    return serial(
        conv1=Conv(32, 3, impl=impl),
        relu1=jax.nn.relu,
        pool1=MaxPool(2),
        conv2=Conv(64, 3, impl=impl),
        relu2=jax.nn.relu,
        pool2=MaxPool(2),
        conv3=Conv(64, 3, impl=impl),
        relu3=jax.nn.relu,
        flatten=flatten,
        head=Dense(10),
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
