"""Blocks of a batch, by themselves, against NumPy loops over the whole batch."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jcnn.engine.blocks import Blocks, even
from jcnn.engine.problem import Problem
from tests.helpers import oracle

# images, rows of the input, window, stride, padding
SIZES = {
    "padded": (7, 9, 3, 1, (1, 1)),
    "strided": (5, 10, 3, 2, (2, 1)),
    "before only": (4, 8, 4, 1, (3, 0)),
    "behind only": (5, 8, 4, 3, (0, 3)),
    "a small image": (7, 5, 4, 1, (3, 3)),
}


@pytest.mark.parametrize("images, rows", ((3, None), (2, None), (1, 3), (1, 2), (1, 1)))
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_blocks_give_what_the_whole_batch_gives(dtype, size, images, rows, rng):
    batch, length, window, stride, padding = size
    settings = dict(strides=stride, padding=(padding,), groups=2)
    x = rng.integers(1, 9, (batch, length, 2)).astype("float32")
    kernel = rng.integers(1, 9, (window, 1, 2)).astype("float32")
    y = oracle.conv(x, kernel, **settings)
    g = rng.integers(1, 9, y.shape).astype("float32")
    problem = Problem(
        op="forward",
        batch=batch,
        input_size=(length,),
        output_size=y.shape[1:2],
        kernel_size=(window,),
        in_channels=2,
        out_channels=2,
        strides=(stride,),
        padding=(padding,),
        dilation=(1,),
        groups=2,
        dtype=jnp.dtype(dtype),
        output_dtype=jnp.dtype(dtype),
    )
    blocks = Blocks(problem, images, rows or y.shape[1])
    assert images < batch

    def taps(x, number):
        """What each tap of the window sees of a padded block."""
        assert x.dtype == dtype
        ends = [tap + (number - 1) * stride + 1 for tap in range(window)]
        return [x[:, tap:end:stride] for tap, end in enumerate(ends)]

    def convolved(x):
        return sum(a * k for a, k in zip(taps(x, blocks.rows), kernel[:, None]))

    def gradient(x, g):
        products = [(a * g).astype("float32") for a in taps(x, blocks.rows)]
        return jnp.stack([a.sum((0, 1)) for a in products])

    operands = jnp.asarray(x, dtype), jnp.asarray(g, dtype)
    np.testing.assert_array_equal(blocks.map(convolved, operands[0]), y)
    _, expected = oracle.conv_gradients(x, kernel, g, **settings)
    actual = blocks.sum(gradient, *operands)
    np.testing.assert_array_equal(actual, expected[:, 0])


@given(*[st.integers(1, n) for n in (300, 90, 4)])
def test_even_parts(total, most, multiple):
    size = even(total, most, multiple)
    assert size == total or size % multiple == 0
    assert size <= max(most, multiple)
    # No more parts than of the greatest size.
    greatest = max(most // multiple, 1) * multiple
    assert total % size == 0 or -(-total // size) == -(-total // greatest)
