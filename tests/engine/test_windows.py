"""Maps between arrays and their windows, against loops and as JAX sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jcnn import avg_pool, max_pool, min_pool
from jcnn.engine.pools.sums import window_sums
from jcnn.engine.pools.windows import Windows, scatter, taps

pytestmark = [pytest.mark.usefixtures("full_compilation"), pytest.mark.cover(1)]

_AXIS = st.tuples(
    st.integers(1, 7),  # pixels
    st.integers(1, 4),  # window
    st.integers(1, 5),  # stride
    st.integers(0, 5),  # padding
    st.integers(0, 5),
)


def _pixels(windows):
    """For every window and tap: their places, and that of the pixel, in or out."""
    for place in np.ndindex(*windows.outputs):
        for number, tap in enumerate(np.ndindex(*windows.shape)):
            pixel = tuple(
                p * s + t - low
                for p, s, t, (low, _) in zip(
                    place, windows.strides, tap, windows.padding
                )
            )
            inside = all(0 <= p < n for p, n in zip(pixel, windows.size))
            yield place, number, pixel, inside


@given(st.lists(_AXIS, min_size=1, max_size=3), st.integers(0, 99))
def test_taps_see_and_windows_hand_back_what_loops_say(axes, seed):
    size, shape, strides, lows, highs = zip(*axes)
    for n, k, _, low, high in axes:
        assume(n + low + high >= k)
    windows = Windows(size, shape, strides, tuple(zip(lows, highs)))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size).astype(np.float32)
    a = rng.standard_normal(windows.outputs).astype(np.float32)
    winner = rng.integers(0, np.prod(shape), windows.outputs).astype(np.int8)
    seen = np.full((np.prod(shape), *windows.outputs), 9, np.float32)
    to_all, to_one = np.zeros((2, *size))
    for place, number, pixel, inside in _pixels(windows):
        if inside:
            seen[(number, *place)] = x[pixel]
            to_all[pixel] += a[place]
            to_one[pixel] += a[place] * (winner[place] == number)

    @jax.jit
    def ours(x, a, winner):
        return (
            jnp.stack(taps(x, windows, 9)),
            scatter(a, windows=windows),
            scatter(a, winner, windows=windows),
        )

    got = ours(x, a, winner)
    assert np.array_equal(got[0], seen)
    for result, expected in zip(got[1:], (to_all, to_one)):
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@given(_AXIS)
def test_cut_windows_see_what_they_saw(axis):
    n, k, s, low, high = axis
    assume(n + low + high >= k)
    whole = Windows((n,), (k,), (s,), ((low, high),))
    x = np.arange(1, n + 1)

    def seen(windows, x):
        (low, high) = windows.padding[0]
        padded = [*[0] * low, *x, *[0] * high]
        padded = padded[max(-low, 0) : len(padded) + min(high, 0)]
        return [padded[i * s : i * s + k] for i in range(windows.outputs[0])]

    parts = whole.cut(0)
    assert sum((seen(part, x[a:b]) for a, b, part in parts), []) == seen(whole, x)
    inside = [part for *_, part in parts if part.padding == ((0, 0),)]
    reach = [0 <= i * s - low <= n - k for i in range(whole.outputs[0])]
    assert sum(part.outputs[0] for part in inside) == sum(reach)


SIZE = (2, 9, 8, 3)
SAME = ((0, 0), (1, 1), (0, 1), (0, 0))


def test_the_gradient_of_sums_is_their_adjoint(rng):
    windows = Windows(SIZE, (1, 3, 2, 1), (1, 2, 1, 1), SAME)
    with jax.enable_x64(True):
        x, y = rng.standard_normal(SIZE), rng.standard_normal(windows.outputs)
        sums, pull_back = jax.vjp(lambda x: window_sums(x, windows), jnp.asarray(x))
        (back,) = pull_back(jnp.asarray(y))
        np.testing.assert_allclose(np.vdot(sums, y), np.vdot(x, back), rtol=1e-12)


@pytest.mark.parametrize("pool", [max_pool, min_pool, avg_pool])
def test_windows_of_many_taps_are_served_too(pool, rng):
    """By lax: 9x9 windows have more taps than programs should grow by."""
    x = rng.standard_normal((1, 11, 10, 2)).astype(np.float32)
    y, pull_back = jax.vjp(lambda x: pool(x, 9, strides=1), x)
    (got,) = pull_back(jnp.ones_like(y))
    expected = np.zeros(x.shape)
    for i, j, c in np.ndindex(3, 2, 2):
        window = x[0, i : i + 9, j : j + 9, c].astype(np.float64)
        if pool is avg_pool:
            expected[0, i : i + 9, j : j + 9, c] += 1 / 81
            np.testing.assert_allclose(y[0, i, j, c], window.mean(), atol=1e-6)
        else:
            place = (np.argmax if pool is max_pool else np.argmin)(window)
            expected[0, i + place // 9, j + place % 9, c] += 1
            assert y[0, i, j, c] == window.ravel()[place]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def _gradient(pool):
    def gradient(x, a):
        return jax.vjp(lambda x: pool(x, 3, strides=2, padding=1), x)[1](a)[0]

    return gradient


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize("mapped", [(0, 0), (0, None), (None, 0), (1, 2)])
def test_either_operand_may_be_mapped(pool, mapped, rng):
    x, a = rng.standard_normal((3, 2, 7, 2)), rng.standard_normal((3, 2, 4, 2))
    x, a = (
        jnp.asarray(v[0] if axis is None else np.moveaxis(v, 0, axis), jnp.float32)
        for v, axis in zip((x, a), mapped)
    )
    gradient = _gradient(pool)
    expected = [
        gradient(
            *(
                v if axis is None else jnp.take(v, i, axis)
                for v, axis in zip((x, a), mapped)
            )
        )
        for i in range(3)
    ]
    got = jax.vmap(gradient, mapped)(x, a)
    np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize("kind", ["shard_map", "checked shard_map", "explicit"])
def test_meshes_of_devices_change_nothing(pool, kind, rng):
    x = rng.standard_normal((4, 9, 8, 3)).astype(np.float32)
    a = rng.standard_normal((4, 5, 4, 3)).astype(np.float32)
    gradient, over = _gradient(pool), PartitionSpec("two")
    expected = gradient(x, a)
    types = (AxisType.Explicit if kind == "explicit" else AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("two",), axis_types=types)
    if kind == "explicit":
        with jax.set_mesh(mesh):
            x, a = jax.device_put((x, a), NamedSharding(mesh, over))
            got = jax.jit(gradient)(x, a)
    else:
        got = jax.jit(
            jax.shard_map(
                gradient,
                mesh=mesh,
                in_specs=(over, over),
                out_specs=over,
                check_vma=kind == "checked shard_map",
            )
        )(x, a)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_other_platforms_keep_laxs_sums():
    from jax import export

    def pair(x, a):
        return avg_pool(x, 3, strides=2, padding=1), _gradient(avg_pool)(x, a)

    x = jax.ShapeDtypeStruct((4, 9, 8, 3), jnp.float32)
    a = jax.ShapeDtypeStruct((4, 5, 4, 3), jnp.float32)
    programs = {
        platform: export.export(jax.jit(pair), platforms=[platform])(x, a)
        for platform in ("cpu", "tpu")
    }
    counts = {
        platform: program.mlir_module().count("stablehlo.reduce_window")
        for platform, program in programs.items()
    }
    assert counts == {"cpu": 0, "tpu": 2}


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_gradients_operation_by_operation(pool, rng):
    x = rng.standard_normal((2, 7, 7, 3)).astype(np.float32)
    gradient = jax.grad(lambda x: (pool(x, 3, strides=2) ** 2).sum())
    expected = gradient(x)
    with jax.disable_jit():
        np.testing.assert_allclose(gradient(x), expected, rtol=1e-6, atol=1e-6)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        gradient(x * np.nan)
