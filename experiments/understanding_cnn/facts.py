"""The claims of the article, made exact, beside the values that jcnn computes.

One function per point of the article, in its order. Exact values are numbers, formulas
or loops; computed values come from jcnn.
"""

from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jcnn import flatten, global_avg_pool, serial, summarize
from jcnn.layers import Conv, ConvTranspose, Dense, MaxPool

from .probes import (
    VERTICAL_EDGE,
    connections,
    edge_map,
    feature_map,
    output_size,
    pooled,
    slope,
    windows_entered,
)


class Fact(NamedTuple):
    """A claim, its exact value, and the computed value.

    Attributes:
        claim: The statement.
        exact: The value that is expected.
        computed: The value that jcnn gives.
        article: The article's own statement, where it is imprecise.
    """

    claim: str
    exact: Any
    computed: Any
    article: str = ""

    @property
    def holds(self) -> bool:
        """Whether the two values are exactly equal."""
        return self.exact == self.computed


def collect_facts(digit: np.ndarray) -> dict[str, list[Fact]]:
    """Return the facts of every point of the article, by its name.

    Args:
        digit: Image `[8, 8]` float32 with integer values.

    >>> facts = collect_facts(np.eye(8, dtype=np.float32))
    >>> facts["Parameter sharing"][1][:3]
    ('parameters: (3·3·3 + 1)·10', 280, 280)
    """
    return {
        "Symbols": symbols(),
        "Parameter sharing": parameter_sharing(),
        "Sparsity of connections": sparsity(),
        "Convolution": convolution(digit),
        "Valid and same": valid_and_same(),
        "Padding": padding(),
        "Stride": stride(),
        "ReLU": relu(),
        "Max pool": max_pooling(),
        "Flatten": flattening(),
        "A feature anywhere": shifting(digit),
        "Fields of use": fields_of_use(),
    }


def symbols() -> list[Fact]:
    f, n_filters, p, s = 3, 10, 1, 2
    layer, x = Conv(n_filters, f, padding=p, strides=s), _spec(32, 32, 3)
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    kernel, output = params["kernel"].shape, summarize(layer, x)[0].output_shape
    return [
        Fact("kernel for 3 channels, f = 3, n_filters = 10", (3, 3, 3, 10), kernel),
        Fact("its output for 32×32×3, p = 1, s = 2", (16, 16, 10), output),
    ]


def parameter_sharing() -> list[Fact]:
    shared = Conv(10, 3, padding="VALID")
    dense = serial(flatten=flatten, dense=Dense(30 * 30 * 10, use_bias=False))
    (colour,), (grey,) = (summarize(shared, _spec(32, 32, c)) for c in (3, 1))
    return [
        Fact(
            "output of 10 filters of 3×3 for 32×32×3", (30, 30, 10), colour.output_shape
        ),
        Fact(
            "parameters: (3·3·3 + 1)·10",
            280,
            colour.params,
            "100, which leaves out the 3 channels",
        ),
        Fact("parameters for one channel: (3·3 + 1)·10", 100, grey.params),
        Fact(
            "weights of a dense layer: (32·32·3)·(30·30·10)",
            27_648_000,
            summarize(dense, _spec(32, 32, 3))[-1].params,
            "about 27 million",
        ),
    ]


def sparsity() -> list[Fact]:
    jacobian = connections(np.arange(1, 10, dtype=np.float32).reshape(3, 3))
    rows, columns = np.nonzero(jacobian[2, 3])
    return [
        Fact(
            "inputs of each of 6×6 outputs, f = 3",
            [9] * 36,
            (jacobian != 0).sum((2, 3)).ravel().tolist(),
        ),
        Fact(
            "rows and columns in the window of output (2, 3)",
            ([2, 3, 4], [3, 4, 5]),
            (np.unique(rows).tolist(), np.unique(columns).tolist()),
        ),
        Fact(
            "different weights in the 36·9 connections",
            9,
            len(np.unique(jacobian[jacobian != 0])),
        ),
    ]


def convolution(digit: np.ndarray) -> list[Fact]:
    sums = [
        float(np.sum(digit[r : r + 3, c : c + 3] * VERTICAL_EDGE))
        for r, c in np.ndindex(6, 6)
    ]
    x, kernel = np.array([[1, 2, 4]], np.float32), np.array([[1, 2, 3]], np.float32)
    return [
        Fact(
            "map of a digit: window times filter, summed",
            sums,
            feature_map(digit, VERTICAL_EDGE).ravel().tolist(),
        ),
        Fact(
            "(1 2 4) with filter (1 2 3): 1·1 + 2·2 + 4·3",
            17,
            feature_map(x, kernel).item(),
            "convolution; exactly, cross-correlation",
        ),
        Fact(
            "… with the filter flipped: 1·3 + 2·2 + 4·1",
            11,
            feature_map(x, kernel[:, ::-1]).item(),
        ),
    ]


def valid_and_same() -> list[Fact]:
    sizes = [*product((7, 8, 12, 28, 32), (1, 3, 5, 7), (1, 2, 3))]
    stepless = [(n, f) for n, f, s in sizes if s == 1]
    ramp, ones = np.arange(1, 9, dtype=np.float32)[None], np.ones((1, 3), np.float32)
    both = ((0, 0), (1, 1))
    return [
        Fact(
            "size, valid: ⌊(n − f)/s⌋ + 1",
            [(n - f) // s + 1 for n, f, s in sizes],
            [output_size(n, f, s, "VALID") for n, f, s in sizes],
        ),
        Fact(
            "size, padded by (f − 1)/2 at s = 1: n",
            [n for n, _ in stepless],
            [output_size(n, f, 1, (f - 1) // 2) for n, f in stepless],
        ),
        Fact(
            "size, SAME of JAX: ⌈n/s⌉",
            [-(-n // s) for n, _, s in sizes],
            [output_size(n, f, s, "SAME") for n, f, s in sizes],
            "n; only at s = 1",
        ),
        Fact(
            "sums of 3 of 1…8, s = 2, SAME: one zero, at the end",
            [6, 12, 18, 15],
            feature_map(ramp, ones, strides=(1, 2), padding="SAME").ravel().tolist(),
        ),
        Fact(
            "… p = 1, as PyTorch: a zero on both sides",
            [3, 9, 15, 21],
            feature_map(ramp, ones, strides=(1, 2), padding=both).ravel().tolist(),
        ),
    ]


def padding() -> list[Fact]:
    image = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    padded = feature_map(image, np.ones((1, 1), np.float32), padding=2)
    corner_edge_middle = (0, 0, 2), (0, 2, 2)
    return [
        Fact("size of 3×3 padded by 2", (7, 7), padded.shape),
        Fact(
            "its values: the image, zeros outside",
            np.pad(image, 2).ravel().tolist(),
            padded.ravel().tolist(),
        ),
        Fact(
            "windows at corner, edge, middle of 5×5, f = 3",
            [1, 3, 9],
            windows_entered(5, 3, 0)[corner_edge_middle].tolist(),
            "one for the border; only for corners",
        ),
        Fact(
            "… padded by 1",
            [4, 6, 9],
            windows_entered(5, 3, 1)[corner_edge_middle].tolist(),
        ),
    ]


def stride() -> list[Fact]:
    places = np.arange(49, dtype=np.float32).reshape(7, 7)
    first = np.zeros((3, 3), np.float32)
    first[0, 0] = 1  # so a window's output is the position where it starts
    sizes = [*product((7, 8, 28), (3, 5), (0, 1, 2), (1, 2, 3))]
    return [
        Fact(
            "starts of windows, f = 3, s = 2, at 7·row + column",
            [7 * r + c for r, c in product((0, 2, 4), (0, 2, 4))],
            feature_map(places, first, strides=2).ravel().tolist(),
        ),
        Fact(
            "size: ⌊(n + 2p − f)/s⌋ + 1",
            [(n + 2 * p - f) // s + 1 for n, f, p, s in sizes],
            [output_size(n, f, s, p) for n, f, p, s in sizes],
        ),
    ]


def relu() -> list[Fact]:
    z = jnp.array([-2.0, -1.0, 1.0, 2.0])
    derivatives = [slope(jax.nn.relu, 1, float(at)) for at in z]
    sigmoids = [slope(jax.nn.sigmoid, 10, at) for at in (-2.0, 0.0, 2.0)]
    return [
        Fact("max(z, 0) of −2, −1, 1, 2", [0, 0, 1, 2], jax.nn.relu(z).tolist()),
        Fact(
            "its derivative there",
            [0, 0, 1, 1],
            derivatives,
            "no vanishing gradients; for z > 0",
        ),
        Fact("derivative of 10 ReLUs in a row at 1", 1, slope(jax.nn.relu, 10, 1.0)),
        Fact(
            "… of 10 sigmoids at −2, 0, 2: below (1/4)¹⁰",
            [True] * 3,
            [derivative < 0.25**10 for derivative in sigmoids],
        ),
    ]


def max_pooling() -> list[Fact]:
    x = np.array([[1, 3, 2, 1], [4, 6, 5, 0], [3, 1, 9, 8], [0, 2, 4, 7]], np.float32)
    (row,) = summarize(MaxPool(2), _spec(28, 28, 32))
    return [
        Fact(
            "maximum of each 2×2 window of 4×4",
            [6, 5, 3, 9],
            pooled(x, 2).ravel().tolist(),
        ),
        Fact("size of 28×28×32 pooled by 2", (14, 14, 32), row.output_shape),
        Fact("parameters", 0, row.params),
    ]


def flattening() -> list[Fact]:
    (row,) = summarize(serial(flatten=flatten), _spec(7, 7, 64))
    x = np.zeros((1, 7, 7, 64), np.float32)
    x[0, 2, 3, 5] = 1
    place = int(flatten(x).argmax())
    return [
        Fact("size of 7×7×64 flattened", (3136,), row.output_shape),
        Fact("place of (2, 3, 5): (2·7 + 3)·64 + 5", 1093, place),
        Fact("parameters", 0, row.params),
    ]


def shifting(digit: np.ndarray) -> list[Fact]:
    maps = [edge_map(place) for place in range(3, 8)]
    here, there = (
        feature_map(np.pad(digit, ((0, 0), (2 + shift, 6 - shift))), VERTICAL_EDGE)
        for shift in (0, 3)
    )
    return [
        Fact(
            "map of a digit moved by 3: its map, moved by 3",
            here[:, :-3].ravel().tolist(),
            there[:, 3:].ravel().tolist(),
        ),
        Fact(
            "columns that respond to edges at 3, 4, 5, 6, 7",
            [2, 3, 4, 5, 6],
            [int(values[0].argmax()) for values in maps],
        ),
        Fact(
            "… pooled by 2",
            [1, 1, 2, 2, 3],
            [int(pooled(values, 2)[0].argmax()) for values in maps],
            "some invariance; to every second shift",
        ),
        Fact(
            "… global max pool: the largest response",
            [2] * 5,
            [pooled(values, 8).item() for values in maps],
        ),
    ]


def fields_of_use() -> list[Fact]:
    classes, features = 10, _spec(8, 8, 32)
    classify = serial(mean=global_avg_pool, head=Dense(classes))
    segment = ConvTranspose(classes, 2, strides=2)
    detect = Conv(4 + 1 + classes, 3)  # box, score, classes
    shapes = [
        summarize(head, features)[-1].output_shape
        for head in (classify, segment, detect)
    ]
    return [
        Fact("classification of 8×8×32: scores", (10,), shapes[0]),
        Fact("segmentation: scores of 16×16 pixels", (16, 16, 10), shapes[1]),
        Fact("detection: box, score, classes at 8×8", (8, 8, 15), shapes[2]),
    ]


def _spec(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)
