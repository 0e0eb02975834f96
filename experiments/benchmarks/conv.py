"""Time convolutions and their gradients: jcnn, lax, lax with options, PyTorch.

Each row is one forward convolution (f), input gradient (gx) or kernel gradient (gw), in
milliseconds: minimum / median, and in brackets the ratio of the median to jcnn's. The
candidates of a row are called in turn, so that noise affects all alike. "lax+" and
"jcnn+" use the compiler options of `jcnn.compilation`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jcnn.compilation import default_options
from jcnn.runs import keep_memory

from .operations import OPERATIONS, operands, operation
from .report import table
from .shapes import CHECKED_ON, CHOSEN_ON, Shape
from .timing import Times, interleaved

NAMES = ("jcnn", "jcnn+", "lax", "lax+", "torch")
SETS = {"chosen": CHOSEN_ON, "checked": CHECKED_ON}


# Ratios of medians to jcnn's: {(kind of shape, operation): {candidate: ratios}}.
Ratios = dict[tuple[str, str], dict[str, list[float]]]


@dataclass(frozen=True)
class Config:
    shapes: tuple[Literal["chosen", "checked"], ...] = ("chosen", "checked")
    """Shapes that the planner's constants were fitted to, or validated on."""
    seconds: float = 2.0
    """Seconds per row."""
    only: str = ""
    """Only rows whose shape, operation or kind contains this text, such as "g4"."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of inputs and kernels."""
    keep_memory: bool = False
    """Keep large buffers between calls, as experiments do by default."""


def main(config: Config) -> None:
    if config.keep_memory:
        keep_memory()
    peak = matmul_peak()
    print(f"A 2048x2048 matrix product runs at {peak:.0f} GFLOP/s.\n")
    for name in config.shapes:
        print(f"| {name} | {' | '.join(NAMES)} | of peak |")
        print("|---|" + "---|" * (len(NAMES) + 1))
        ratios: Ratios = {}
        for shape, part in product(SETS[name], OPERATIONS):
            if config.only in f"{shape} {part} {shape.kind}":
                functions = candidates(shape, part, config.dtype)
                times = interleaved(functions, seconds=config.seconds)
                print(row(shape, part, times, peak), flush=True)
                for other in times:
                    ratio = times[other].median / times["jcnn"].median
                    ratios.setdefault((shape.kind, part), {}).setdefault(
                        other, []
                    ).append(ratio)
        print(f"\n{means(ratios)}\n")


def means(ratios: Ratios) -> str:
    """Return the geometric means of the ratios over the shapes of a kind."""
    rows = [
        [kind, operation, *(geometric_mean(by_name.get(n, [])) for n in NAMES[1:])]
        for (kind, operation), by_name in sorted(ratios.items())
    ]
    return table(
        ["geometric means", "operation", *(f"{n} / jcnn" for n in NAMES[1:])], rows
    )


def row(shape: Shape, operation: str, times: dict[str, Times], peak: float) -> str:
    cells = []
    for name in NAMES:
        if name not in times:
            cells.append("")
            continue
        ratio = times[name].median / times["jcnn"].median
        cells.append(f"{times[name].minimum:.2f} / {times[name].median:.2f}")
        if name != "jcnn":
            cells[-1] += f" ({ratio:.2f})"
    share = work(shape) / times["jcnn"].minimum / 1e6 / peak
    return f"| {shape} {operation} | {' | '.join(cells)} | {share:.0%} |"


def geometric_mean(values: list[float]) -> str:
    return f"{math.exp(np.mean(np.log(values))):.2f}" if values else ""


def candidates(shape: Shape, name: str, dtype: str) -> dict[str, Callable[[], object]]:
    """Return compiled functions without arguments, by name of the candidate."""
    random = np.random.default_rng(0)
    x, w, y = (
        jnp.asarray(random.standard_normal(a.shape), dtype) for a in operands(shape)
    )
    functions = {}
    for whose, impl, options in (
        ("jcnn", "auto", None),
        ("jcnn+", "auto", default_options()),
        ("lax", "lax", None),
        ("lax+", "lax", default_options()),
    ):
        function = jax.jit(operation(shape, name, impl), compiler_options=options)
        functions[whose] = _blocking(function.lower(x, w, y).compile(), x, w, y)
    if dtype == "float32":
        arrays = np.asarray(x), np.asarray(w), np.asarray(y)
        if torch_function := _torch(shape, name, *arrays):
            functions["torch"] = torch_function
    return functions


def _blocking(function: Callable[..., object], *args: jax.Array):
    return lambda: jax.block_until_ready(function(*args))


def _torch(shape: Shape, operation: str, x, w, y) -> Callable[[], object] | None:
    """Return PyTorch's channels_last convolution; None if it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    rank = len(shape.size)
    if shape.transposed or rank == 1:
        return None
    to_torch = (0, rank + 1, *range(1, rank + 1))
    layout = torch.channels_last if rank == 2 else torch.channels_last_3d
    tx = torch.tensor(np.ascontiguousarray(x.transpose(to_torch)))
    tw = torch.tensor(np.ascontiguousarray(w.transpose(rank + 1, rank, *range(rank))))
    ty = torch.tensor(np.ascontiguousarray(y.transpose(to_torch)))
    tx, ty = tx.contiguous(memory_format=layout), ty.contiguous(memory_format=layout)
    tw = tw.contiguous(memory_format=layout)
    window = (shape.kernel - 1) * shape.dilation + 1
    # PyTorch pads both sides equally: sizes agree, windows may be one pixel off.
    pads = [
        max((-(-n // shape.strides) - 1) * shape.strides + window - n + 1, 0) // 2
        for n in shape.size
    ]
    strides, dilation = [shape.strides] * rank, [shape.dilation] * rank
    if operation == "f":
        functions = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}

        def forward():
            with torch.no_grad():
                return functions[rank](
                    tx, tw, None, strides, pads, dilation, shape.groups
                )

        return forward
    mask = [operation == "gx", operation == "gw", False]
    zeros = [0] * rank
    return lambda: torch.ops.aten.convolution_backward(
        ty, tx, tw, None, strides, pads, dilation, False, zeros, shape.groups, mask
    )


def matmul_peak() -> float:
    """Return the GFLOP/s of a large matrix product on this machine."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((2048, 2048)), "float32")
    product = jax.jit(jnp.dot).lower(a, a).compile()
    times = interleaved({"dot": _blocking(product, a, a)}, seconds=2.0)
    return 2 * 2048**3 / times["dot"].minimum / 1e6


def work(shape: Shape) -> int:
    """Return the number of floating-point operations of the direct algorithm."""
    taps = shape.kernel ** len(shape.size) * shape.in_channels // shape.groups
    steps = 1 if shape.transposed else shape.strides
    positions = math.prod(-(-n // steps) for n in shape.size)
    return 2 * shape.batch * positions * shape.out_channels * taps


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
