"""What a train step of ResNet-50 computes and sends on several devices, per device.

By formula, from the table of the model, and as XLA counts in the compiled program. It
is not run: a step of a batch divided among CPU devices, with parameters on each.

- FLOPs: 2 for each product of the forward pass, as many again for the gradients of
  inputs (but for the first layer's) and of kernels.
- Sent: each gradient is summed over the devices, and for each channel of a batch norm
  two sums forward and two backward, in float32. The bytes are those of the arrays: a
  device sends 2 (N - 1) / N times as many in a ring.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jcnn import summarize
from jcnn.models import imagenet_resnet
from jcnn.train import (
    classification,
    create,
    data_parallel,
    make_step,
    state_sharding,
)

from .report import environment, table


@dataclass(frozen=True)
class Config:
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices."""
    batch: int = 32
    """Images per device."""
    size: int = 224
    """Rows and columns of an image."""
    depth: int = 50
    """Layers of the network."""


def main(config: Config) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(config.devices))
    print(environment(), end="\n\n")
    image = jax.ShapeDtypeStruct(
        (config.batch, config.size, config.size, 3), jnp.float32
    )
    layer = imagenet_resnet(depth=config.depth, impl="lax")  # XLA counts its FLOPs
    flops, sent = by_formula(layer, image)
    lines = []
    for devices in config.devices:
        program = compiled(layer, image, devices)
        counted = cost(program)["flops"]
        moved = [*summed(program.as_text() or "")]
        lines.append(
            [
                str(devices),
                f"{flops / 1e9:.1f}",
                f"{counted / 1e9:.1f}",
                f"{counted / flops:.3f}",
                f"{cost(program)['bytes accessed'] / 1e9:.2f}",
                f"{sent * (devices > 1) / 1e6:.2f}",
                f"{sum(moved) / 1e6:.2f}",
                str(len(moved)),
            ]
        )
    header = ["devices", "GFLOP by formula", "XLA's", "ratio", "GB in memory"]
    header += ["MB summed by formula", "in the program", "arrays"]
    print(table(header, lines))


def by_formula(layer: Any, image: jax.ShapeDtypeStruct) -> tuple[int, int]:
    """Return FLOPs of a step, and bytes that are summed over several devices."""
    rows = summarize(layer, image)
    products = [row.multiply_adds for row in rows if row.multiply_adds]
    parameters = sum(row.params for row in rows)
    channels = sum(row.params // 2 for row in rows if "norm" in row.name)
    flops = 2 * image.shape[0] * (3 * sum(products) - products[0])
    return flops, 4 * (parameters + 4 * channels)


def compiled(layer: Any, image: jax.ShapeDtypeStruct, devices: int) -> Any:
    """Return the program of a step on the first devices, `image` for each."""
    kind, number = (AxisType.Auto,), devices * image.shape[0]
    mesh = jax.make_mesh(
        (devices,), ("data",), devices=jax.devices()[:devices], axis_types=kind
    )
    loss_fn, _ = classification(layer, lambda images, key: images)
    tx: Any = optax.sgd(0.1, 0.9, nesterov=True)
    state = jax.eval_shape(lambda key: create(layer, tx, key, image), jax.random.key(0))
    batch = {
        "image": jax.ShapeDtypeStruct((number, *image.shape[1:]), "f4"),
        "label": jax.ShapeDtypeStruct((number,), "i4"),
    }
    step = make_step(data_parallel(loss_fn, mesh), tx)
    lies = state_sharding(state, mesh), NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(step, in_shardings=lies).lower(state, batch).compile()


def cost(program: Any) -> dict[str, float]:
    return program.cost_analysis() or {}


def summed(program: str) -> Iterator[int]:
    """Yield the bytes of each array that devices sum.

    >>> list(summed("%a = (f32[], f32[3,2]{1,0}) all-reduce(%x, %y), channel_id=1"))
    [4, 24]
    """
    for shapes in re.findall(r"= (\(.*?\)|\S+) all-reduce(?:-start)?\(", program):
        for width, shape in re.findall(r"\w(\d+)\[([\d,]*)\]", shapes):
            yield int(width) // 8 * prod(int(n) for n in shape.split(",") if n)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
