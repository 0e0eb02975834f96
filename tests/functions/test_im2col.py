"""im2col and col2im against NumPy's sliding windows, loops, `conv` and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jcnn import col2im, conv, im2col
from tests.helpers import oracle

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.cover(1),
]

ANY_RANK = pytest.mark.parametrize("rank", (1, 2, 3))


@ANY_RANK
def test_im2col_is_numpys_sliding_windows(rank, rng):
    size, strides, dilation = (3, 2, 2)[:rank], (2, 1, 3)[:rank], (1, 3, 2)[:rank]
    x = rng.normal(size=(2, *(9, 7, 8)[:rank], 3)).astype(np.float32)
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation)]
    axes = tuple(range(1, rank + 1))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    windows = windows[:, *(np.s_[::s] for s in strides)]
    windows = windows[..., *(np.s_[::d] for d in dilation)]
    windows = np.moveaxis(windows, rank + 1, -1)  # the channels behind the taps
    patches = im2col(x, size, strides=strides, kernel_dilation=dilation)
    expected = windows.reshape(*windows.shape[: rank + 1], -1)
    np.testing.assert_array_equal(patches, expected)
    assert patches.dtype == x.dtype


@st.composite
def windows(draw):
    """Sizes of an image and a window over it, and how the window moves."""
    rank = draw(st.integers(1, 3))

    def one_per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    size, kernel_size = one_per_axis(1, 5), one_per_axis(1, 3)
    moves = dict(
        strides=one_per_axis(1, 3),
        kernel_dilation=one_per_axis(1, 2),
        padding=draw(
            st.sampled_from(("SAME", "SAME_LOWER", "VALID"))
            | st.integers(-1, 3)
            | st.tuples(*[st.tuples(st.integers(-2, 4), st.integers(-2, 4))] * rank)
        ),
    )
    outputs, _ = oracle.conv_links(size, kernel_size, **moves)
    assume(all(outputs))
    batch, channels = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    return (batch, *size, channels), kernel_size, moves


# What im2col does is to copy, and so is col2im but for sums of small integers: exact.
@given(window=windows(), seed=st.integers(0, 2**32 - 1))
def test_im2col_and_col2im_are_exact_adjoints(window, seed):
    shape, kernel_size, moves = window
    rng = np.random.default_rng(seed)
    x = rng.integers(-99, 99, shape).astype(np.float32)
    patches = im2col(x, kernel_size, **moves)
    np.testing.assert_array_equal(patches, oracle.patches(x, kernel_size, **moves))

    g = rng.integers(-99, 99, patches.shape).astype(np.float32)
    image = col2im(g, shape[1:-1], kernel_size, **moves)
    assert image.shape == shape and image.dtype == np.float32
    assert np.vdot(patches, g) == np.vdot(x, image)


@ANY_RANK
@pytest.mark.parametrize("padding", ("SAME", 2, -1))
def test_adjoint_in_float64(padding, rank, rng):
    shape, kernel_size = (2, *(7, 8, 6)[:rank], 3), (3, 2, 3)[:rank]
    moves = dict(padding=padding, strides=(2, 1, 3)[:rank])
    with jax.enable_x64(True):
        x = rng.normal(size=shape)
        patches = jax.jit(lambda x: im2col(x, kernel_size, **moves))(x)
        g = rng.normal(size=patches.shape)
        image = jax.jit(lambda g: col2im(g, shape[1:-1], kernel_size, **moves))(g)
        assert patches.dtype == image.dtype == np.float64
    scale = np.vdot(np.abs(patches), np.abs(g))
    assert abs(np.vdot(patches, g) - np.vdot(x, image)) <= 1e-14 * scale


@ANY_RANK
def test_each_is_the_others_gradient(rank, rng):
    kernel_size = (3, 2, 2)[:rank]
    moves = dict(padding="SAME", strides=(1, 2, 1)[:rank], kernel_dilation=2)
    x = rng.integers(-9, 9, (2, *(5, 6, 4)[:rank], 2)).astype(np.float32)
    unfold = partial(im2col, kernel_size=kernel_size, **moves)
    fold = partial(
        col2im, spatial_shape=x.shape[1:-1], kernel_size=kernel_size, **moves
    )
    shape = jax.eval_shape(unfold, x).shape
    g = rng.integers(-9, 9, shape).astype(np.float32)

    @jax.jit
    def values_and_gradients(x, g):
        patches, pull_unfold = jax.vjp(unfold, x)
        image, pull_fold = jax.vjp(fold, g)
        return patches, pull_fold(x)[0], image, pull_unfold(g)[0]

    patches, pulled_patches, image, pulled_image = values_and_gradients(x, g)
    np.testing.assert_array_equal(patches, oracle.patches(x, kernel_size, **moves))
    np.testing.assert_array_equal(pulled_patches, patches)
    np.testing.assert_array_equal(pulled_image, image)
    # and under the other transformations
    np.testing.assert_array_equal(jax.jit(jax.vmap(fold))(g[None])[0], image)
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(unfold, 2, 1))(np.stack([x, 2 * x], 2))[:, 1], 2 * patches
    )


@ANY_RANK
@pytest.mark.parametrize("padding", ("SAME", ((2, 1), (-1, 1), (0, 3))))
def test_conv_is_patches_times_kernel(padding, rank, rng):
    padding = padding[:rank] if isinstance(padding, tuple) else padding
    moves = dict(
        padding=padding, strides=(2, 1, 1)[:rank], kernel_dilation=(1, 2, 1)[:rank]
    )
    x = rng.normal(size=(2, *(6, 7, 5)[:rank], 3)).astype(np.float32)
    kernel = rng.normal(size=(*(3, 2, 2)[:rank], 3, 4)).astype(np.float32)
    y = im2col(x, kernel.shape[:-2], **moves) @ kernel.reshape(-1, 4)
    oracle.assert_close(conv(x, kernel, **moves), y, "float32")


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
def test_dtype_is_kept(dtype, rng):
    x = rng.integers(-9, 9, (1, 5, 2)).astype(jnp.dtype(dtype))
    patches = im2col(x, 3)
    np.testing.assert_array_equal(patches, oracle.patches(x, (3,)))
    assert str(patches.dtype) == str(col2im(patches, (5,), 3).dtype) == dtype


def test_unbatched_sizes_are_those_of_every_axis(rng):
    x = rng.normal(size=(1, 6, 7, 1)).astype(np.float32)
    np.testing.assert_array_equal(
        im2col(x, 2, strides=2, padding=1, kernel_dilation=2),
        im2col(x, (2, 2), strides=[2, 2], padding=((1, 1), 1), kernel_dilation=(2, 2)),
    )
    np.testing.assert_array_equal(
        im2col(x, np.int64(2), strides=np.int32(2)), im2col(x, 2, strides=2)
    )


# --- bad input ---

X = np.ones((2, 6, 5, 3), np.float32)


@pytest.mark.parametrize(
    "arguments, error, message",
    (
        (dict(x=X[0, 0]), ValueError, r"x must be \[N, \*spatial, C\].*\(5, 3\)"),
        (
            dict(x=X[None, None]),
            ValueError,
            r"x must be .*1 to 3.*\(1, 1, 2, 6, 5, 3\)",
        ),
        (dict(x=X.astype(np.uint8)), TypeError, "x must be floating.*uint8"),
        (dict(kernel_size=0), ValueError, "kernel_size must be at least 1, got 0"),
        (
            dict(kernel_size=(2, 2, 2)),
            ValueError,
            r"kernel_size .* 2 ints.*\(2, 2, 2\)",
        ),
        (dict(kernel_size=2.0), TypeError, "kernel_size must be an integer, got 2.0"),
        (dict(kernel_size=7), ValueError, "window of 7 .* larger than the input of 6"),
        (dict(strides=0), ValueError, "strides must be at least 1, got 0"),
        (dict(strides=True), TypeError, "strides must be an integer, got True"),
        (dict(kernel_dilation=-1), ValueError, "kernel_dilation .* 1, got -1"),
        (dict(kernel_dilation=9), ValueError, r"window of 10 \(after dilation\)"),
        (dict(padding="FULL"), ValueError, "padding must be .*SAME_LOWER.*'FULL'"),
        (dict(padding=(1,)), ValueError, r"padding must be .*got \(1,\)"),
        (dict(padding=-3), ValueError, r"input of 6 padded by \(-3, -3\)"),
    ),
)
def test_bad_input_of_im2col(arguments, error, message):
    with pytest.raises(error, match=message):
        im2col(**{"x": X, "kernel_size": 2, **arguments})


PATCHES = np.ones((2, 5, 4, 12), np.float32)  # of X and a window of 2


@pytest.mark.parametrize(
    "arguments, error, message",
    (
        (dict(patches=PATCHES[0]), ValueError, r"patches must be .*\(5, 4, 12\)"),
        (dict(patches=PATCHES[..., :11]), ValueError, r"C \* 4.*\(2, 5, 4, 11\)"),
        (
            dict(patches=PATCHES[:, :4]),
            ValueError,
            r"patches must be \(2, 5, 4, 12\), got \(2, 4, 4, 12\)",
        ),
        (dict(spatial_shape=(6, 6)), ValueError, r"patches must be \(2, 5, 5, 12\)"),
        (dict(spatial_shape=(6,)), ValueError, r"patches must be .* 1 spatial"),
        (dict(spatial_shape=(6, -5)), ValueError, "spatial_shape .* got -5"),
        (dict(spatial_shape=(6, 5.0)), TypeError, "spatial_shape .* got 5.0"),
        (dict(spatial_shape=6), (TypeError, ValueError), "spatial_shape .*6"),
        (dict(kernel_size=(2, 0)), ValueError, "kernel_size .* got 0"),
        (dict(kernel_size=3), ValueError, r"C \* 9.*\(2, 5, 4, 12\)"),
        (dict(strides=2), ValueError, r"patches must be \(2, 3, 2, 12\)"),
        (dict(padding="SAME"), ValueError, r"patches must be \(2, 6, 5, 12\)"),
        (dict(kernel_dilation=9), ValueError, r"window of 10 \(after dilation\)"),
        (dict(patches=PATCHES.astype(int)), TypeError, "patches must be floating"),
    ),
)
def test_bad_input_of_col2im(arguments, error, message):
    good = {"patches": PATCHES, "spatial_shape": (6, 5), "kernel_size": 2}
    col2im(**good)
    with pytest.raises(error, match=message):
        col2im(**{**good, **arguments})
