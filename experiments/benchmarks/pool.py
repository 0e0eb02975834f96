"""Time pools and their gradients: jcnn, lax, and PyTorch with channels last.

Each row is one pool (f), its gradient (g) or both in one program (fg, as in a training
step), in milliseconds: minimum / median, and in brackets the ratio of the median to
jcnn's. The candidates of a row are called in turn, so that noise affects all alike.
PyTorch stores the index of the maximum in the forward pass, so its g does less work. fg
is the same work for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax

from jcnn import avg_pool, max_pool

from .conv import geometric_mean
from .timing import Times, interleaved

NAMES = ("jcnn", "lax", "torch")
OPERATIONS = ("f", "g", "fg")
POOLS = {"max": max_pool, "avg": avg_pool}


@dataclass(frozen=True)
class Config:
    pools: tuple[Literal["max", "avg"], ...] = ("max", "avg")
    """Pools to measure."""
    operations: tuple[Literal["f", "g", "fg"], ...] = OPERATIONS
    """Operations to measure: forward, gradient, both."""
    seconds: float = 1.0
    """Seconds per row."""
    only: str = ""
    """Only rows that contain this text, such as "k3 s2" or "1000"."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the inputs."""


class Shape(NamedTuple):
    """Sizes of a pool. Overlapping windows have "SAME" padding."""

    batch: int
    size: tuple[int, ...]
    channels: int
    window: int
    strides: int

    @property
    def padding(self) -> str:
        return "SAME" if self.window > self.strides else "VALID"

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        return f"{self.batch}x{size}x{self.channels} k{self.window} s{self.strides}"


SHAPES = [
    Shape(128, (28, 28), 32, 2, 2),
    Shape(64, (32, 32), 64, 2, 2),
    Shape(32, (56, 56), 64, 3, 2),
    Shape(16, (112, 112), 64, 3, 1),
    Shape(97, (27, 27), 24, 3, 2),
    Shape(7, (35, 35), 48, 7, 7),
    Shape(7, (35, 35), 48, 7, 2),
    Shape(16, (1000,), 64, 2, 2),
    Shape(16, (997,), 64, 5, 3),
    Shape(4, (24, 24, 24), 32, 2, 2),
    Shape(2, (24, 24, 24), 32, 3, 2),
]


def main(config: Config) -> None:
    for pool in config.pools:
        print(f"| {pool} | {' | '.join(NAMES)} |")
        print("|---|" + "---|" * len(NAMES))
        ratios: dict[tuple[str, str], list[float]] = {}
        for shape in SHAPES:
            for operation in config.operations:
                if config.only in f"{shape} {operation}":
                    functions = candidates(pool, shape, operation, config.dtype)
                    times = interleaved(functions, seconds=config.seconds)
                    print(row(shape, operation, times), flush=True)
                    for other in times:
                        ratio = times[other].median / times["jcnn"].median
                        ratios.setdefault((operation, other), []).append(ratio)
        for operation in config.operations:
            means = [
                geometric_mean(ratios.get((operation, name), [])) for name in NAMES
            ]
            print(f"| geometric mean of {operation} / jcnn | {' | '.join(means)} |")
        print()


def row(shape: Shape, operation: str, times: dict[str, Times]) -> str:
    cells = []
    for name in NAMES:
        cell = ""
        if name in times:
            cell = f"{times[name].minimum:.2f} / {times[name].median:.2f}"
            if name != "jcnn":
                cell += f" ({times[name].median / times['jcnn'].median:.2f})"
        cells.append(cell)
    return f"| {shape} {operation} | {' | '.join(cells)} |"


def candidates(
    pool: str, shape: Shape, operation: str, dtype: str
) -> dict[str, Callable[[], object]]:
    """Return compiled functions without arguments, by name."""
    random = np.random.default_rng(0)
    x = random.standard_normal((shape.batch, *shape.size, shape.channels))
    x = jnp.asarray(np.maximum(x, 0), dtype)  # as after a ReLU: many ties
    options = {"strides": shape.strides, "padding": shape.padding}
    of_jcnn = partial(POOLS[pool], window_shape=shape.window, **options)
    outputs = jax.eval_shape(of_jcnn, x)
    y = jnp.asarray(random.standard_normal(outputs.shape), dtype)
    functions = {}
    for name, function in (("jcnn", of_jcnn), ("lax", partial(_by_lax, pool, shape))):
        compiled = jax.jit(_operation(function, operation)).lower(x, y).compile()
        functions[name] = _blocking(compiled, x, y)
    if dtype == "float32":
        if by_torch := _torch(pool, shape, operation, np.asarray(x), np.asarray(y)):
            functions["torch"] = by_torch
    return functions


def _by_lax(pool: str, shape: Shape, x: jax.Array) -> jax.Array:
    """Return the pool written in lax, as Flax and others do."""
    rank = len(shape.size)
    window = (1, *[shape.window] * rank, 1)
    windows = (window, (1, *[shape.strides] * rank, 1), shape.padding)
    if pool == "max":
        return lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, *windows)

    def summed(x):
        return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, *windows)

    return summed(x) / summed(jnp.ones((1, *shape.size, 1), x.dtype))


def _operation(function: Callable[[jax.Array], jax.Array], operation: str):
    if operation == "f":
        return lambda x, y: function(x)
    if operation == "g":
        return lambda x, y: jax.vjp(function, x)[1](y)[0]

    def both(x, y):
        value, pull_back = jax.vjp(function, x)
        return value, pull_back(y)[0]

    return both


def _blocking(function: Callable[..., object], *args: jax.Array):
    return lambda: jax.block_until_ready(function(*args))


def _torch(
    pool: str, shape: Shape, operation: str, x, y
) -> Callable[[], object] | None:
    """Return PyTorch's pool with the same windows; None if there is none.

    PyTorch pads both sides equally: where "SAME" pads an odd number of pixels, its
    windows are one pixel off.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return None
    rank = len(shape.size)
    if rank == 1:
        return None
    to_torch = (0, rank + 1, *range(1, rank + 1))
    layout = torch.channels_last if rank == 2 else torch.channels_last_3d
    tx = torch.tensor(np.ascontiguousarray(x.transpose(to_torch)))
    ty = torch.tensor(np.ascontiguousarray(y.transpose(to_torch)))
    tx, ty = tx.contiguous(memory_format=layout), ty.contiguous(memory_format=layout)
    pad = 0 if shape.padding == "VALID" else shape.window // 2
    windows = [[shape.window] * rank, [shape.strides] * rank, [pad] * rank]
    aten = torch.ops.aten
    if pool == "max":
        windows += [[1] * rank, False]
        forward, backward = {
            2: (aten.max_pool2d_with_indices, aten.max_pool2d_with_indices_backward),
            3: (aten.max_pool3d_with_indices, aten.max_pool3d_with_indices_backward),
        }[rank]
        winners = forward(tx, *windows)[1]
        return {
            "f": lambda: forward(tx, *windows),
            "g": lambda: backward(ty, tx, *windows, winners),
            "fg": lambda: backward(ty, tx, *windows, forward(tx, *windows)[1]),
        }[operation]
    windows += [False, False, None]
    forward, backward = {
        2: (aten.avg_pool2d, aten.avg_pool2d_backward),
        3: (aten.avg_pool3d, aten.avg_pool3d_backward),
    }[rank]
    return {
        "f": lambda: forward(tx, *windows),
        "g": lambda: backward(ty, tx, *windows),
        "fg": lambda: (forward(tx, *windows), backward(ty, tx, *windows)),
    }[operation]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
