"""Winograd's F(4, k) along the first spatial axis, the other axes unrolled, in blocks.

Four rows of output take k + 3 products instead of 4 k: half for k = 3. In two axes it
would be fewer, but the transformed image would be nine times as large as the image
instead of four and a half; on a CPU moving it costs more than it saves. Errors are a
few times those of a plain product, 1e-5 of the largest output in float32. They, as well
as NaN and infinities, reach all four rows of a tile.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from ..._im2col import window_patches
from ..algorithm import Algorithm
from ..blocks import Blocks, blocks_of
from ..padding import pad
from ..problem import Problem
from ..toom import Matrix, transforms
from ..transposed import transposed, transposed_kernel

OUTPUTS = 4
TILE_BYTES = 10 << 20  # of a block's transformed and unrolled tiles
LEAST_POSITIONS = 2048  # shorter products do not reach full speed


def unsupported_reason(problem: Problem) -> str | None:
    if any(s != 1 for s in problem.strides):
        return f"it needs strides 1, not {problem.strides}"
    if problem.groups != 1:
        return f"it needs 1 group, not {problem.groups}"
    if not 2 <= problem.kernel_size[0] <= 5:
        return f"it needs 2 to 5 taps in the first axis, not {problem.kernel_size[0]}"
    for dtype in (problem.dtype, problem.output_dtype):
        if jnp.finfo(dtype).bits > 32 or jnp.issubdtype(dtype, jnp.complexfloating):
            return f"it is exact enough for float32 and shorter only, not {dtype}"
    return None


def forward(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    maps = transforms(OUTPUTS, problem.kernel_size[0])
    matrix, kernel = jnp.array(maps.kernel, jnp.float32), kernel.astype(jnp.float32)
    kernels = jnp.einsum("ak,k...o->a...o", matrix, kernel)
    kernels = kernels.reshape(len(matrix), -1, kernel.shape[-1])
    dtype = problem.output_dtype

    def block(x):
        rows = x.shape[1] - problem.window[0] + 1
        patches = _patches(problem, x, rows, maps.input)
        products = _dot(problem, patches, kernels, (2, 1), batch=(0,))
        outputs = jnp.stack(_combined(maps.output, list(products)))
        return _rows_of(problem, outputs, x.shape[0], rows).astype(dtype)

    return _blocks(problem).map(block, x)


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    return forward(transposed(problem), y, transposed_kernel(kernel, 1))


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    maps = transforms(OUTPUTS, problem.kernel_size[0])

    def block(x, y):
        patches = _patches(problem, x, y.shape[1], maps.input)
        outputs = _tiles_of(problem, y.astype(jnp.float32))
        outputs = jnp.stack(_combined(tuple(zip(*maps.output)), outputs))
        # y first: the narrow matrix as the one that is walked along.
        return _dot(problem, outputs, patches, (1, 1), batch=(0,))

    total = _blocks(problem).sum(block, x, y)
    kernel = jnp.einsum("ak,aop->kpo", jnp.array(maps.kernel, jnp.float32), total)
    return kernel.reshape(problem.shape("kernel"))


def _patches(problem: Problem, x, rows: int, matrix: Matrix) -> jax.Array:
    """Return for each point the unrolled tiles: [points, positions, other taps * C].

    As one array, since one product of all points compiles in half the time.
    """
    tiles = lax.optimization_barrier(
        jnp.stack(_transformed(problem, x.astype(jnp.float32), rows, matrix))
    )
    patches = _unrolled(problem, tiles.reshape(-1, *tiles.shape[2:]))
    return patches.reshape(len(tiles), -1, patches.shape[-1])


def _transformed(problem: Problem, x, rows: int, matrix: Matrix) -> list[jax.Array]:
    """Return for each point the transformed tiles: [images, tiles, phases, *others, C].

    A tile holds rows of one phase of the kernel's dilation.
    """
    taps, dilation = problem.kernel_size[0], problem.dilation[0]
    tiles = _tiles(problem, rows)
    more = (tiles * OUTPUTS + taps - 1) * dilation - x.shape[1]
    x = lax.optimization_barrier(pad(x, ((0, more),)))
    x = x.reshape(x.shape[0], -1, dilation, *x.shape[2:])
    step = (tiles - 1) * OUTPUTS + 1
    rows_of_tile = [
        lax.slice_in_dim(x, i, i + step, OUTPUTS, axis=1) for i in range(len(matrix))
    ]
    return _combined(matrix, rows_of_tile)


def _unrolled(problem: Problem, tiles):
    """Return [positions of images, tiles, phases and others; other taps * C]."""
    lines = tiles.reshape(-1, *tiles.shape[3:])
    others = problem.kernel_size[1:]
    ones = (1,) * len(others)
    patches = window_patches(lines, others, ones, problem.dilation[1:])
    return patches.reshape(-1, patches.shape[-1])


def _tiles_of(problem: Problem, y) -> list[jax.Array]:
    """Return outputs 0 to 3 of all tiles of a block of y, each [positions, O]."""
    dilation, tiles = problem.dilation[0], _tiles(problem, y.shape[1])
    y = pad(y, ((0, tiles * OUTPUTS * dilation - y.shape[1]),))
    y = y.reshape(y.shape[0], tiles, OUTPUTS, dilation, *y.shape[2:])
    return [y[:, :, i].reshape(-1, y.shape[-1]) for i in range(OUTPUTS)]


def _rows_of(problem: Problem, outputs, images: int, rows: int):
    """Return a block of y, the inverse of `_tiles_of`."""
    dilation, others = problem.dilation[0], problem.output_size[1:]
    tiles, features = _tiles(problem, rows), outputs.shape[-1]
    shape = (OUTPUTS, images, tiles, dilation, *others, features)
    y = jnp.moveaxis(outputs.reshape(shape), 0, 2)
    return y.reshape(images, -1, *others, features)[:, :rows]


def _tiles(problem: Problem, rows: int) -> int:
    return -(-rows // (OUTPUTS * problem.dilation[0]))


def _combined(matrix: Matrix, arrays: list[jax.Array]) -> list[jax.Array]:
    """Multiply the matrix by a list of arrays; 0 and 1 take no product."""
    sums = []
    for row in matrix:
        total = None
        for c, array in zip(row, arrays):
            if c:
                term = array if c == 1 else c * array
                total = term if total is None else total + term
        sums.append(total)
    return sums


def _dot(problem: Problem, a, b, contracted: tuple[int, int], batch=()):
    axes = (contracted[:1], contracted[1:]), (batch, batch)
    return lax.dot_general(a, b, axes, problem.precision)


def _operations(problem: Problem) -> int:
    """Return the other taps of all rows of a transformed tile."""
    return (OUTPUTS + problem.kernel_size[0]) * prod(problem.kernel_size[1:])


def _temporary_bytes(problem: Problem) -> int:
    """Tiles of a block, and the transformed kernel, of whose gradient there are two."""
    taps = problem.kernel_size[0]
    kernel = 4 * prod(problem.shape("kernel")[-problem.rank - 2 :])
    transformed = kernel * (taps + OUTPUTS - 1) // taps
    copies = 2 if problem.op == "kernel_gradient" else 1
    return 3 * _blocks(problem).bytes + copies * transformed


def _blocks(problem: Problem) -> Blocks:
    taps = problem.kernel_size[0]
    unrolled = prod(problem.kernel_size[1:]) * problem.in_channels
    tile = 4 * unrolled * (taps + OUTPUTS - 1) // OUTPUTS
    return blocks_of(problem, max(TILE_BYTES // max(tile, 1), LEAST_POSITIONS))


WINOGRAD = Algorithm(
    "winograd",
    unsupported_reason,
    forward,
    input_gradient,
    kernel_gradient,
    operations=_operations,
    temporary_bytes=_temporary_bytes,
    exact=False,
)
