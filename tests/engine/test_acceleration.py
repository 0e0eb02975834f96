"""Unmodified JAX programs under `accelerate()`."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jcnn import conv
from jcnn._jax_internals import lowering_rules
from jcnn.engine.acceleration import accelerate, in_force
from jcnn.engine.lax_arguments import Convolution

pytestmark = [pytest.mark.usefixtures("full_compilation"), pytest.mark.cover(1)]


def _gradients():
    """Compiled anew at each call, so that it is lowered by the rules of the moment."""

    def loss(x, w):
        layouts = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layouts)
        y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jnp.sum(jnp.sin(y))

    return jax.jit(jax.grad(loss, (0, 1)))


@pytest.fixture
def operands(rng):
    x = rng.standard_normal((5, 15, 16, 32)).astype(np.float32)
    return x, rng.standard_normal((3, 3, 32, 40)).astype(np.float32)


def _by_lax(operands) -> tuple[int, int]:
    """How many convolutions and gradients of maxima are lax's own."""
    program = _gradients().lower(*operands).as_text()
    return tuple(
        program.count(f"stablehlo.{name}")
        for name in ("convolution", "select_and_scatter")
    )


# --- switching it on and off ---


def test_it_replaces_what_it_says_and_gives_the_same(operands):
    # Two float32 results may be further from each other than each from the truth.
    with jax.enable_x64(True):
        wide = [jnp.asarray(a.astype(np.float64)) for a in operands]
        expected = [np.asarray(a) for a in _gradients()(*wide)]
    assert _by_lax(operands) == (3, 1) and not in_force()
    with accelerate() as handle:
        assert handle.on and in_force()
        assert _by_lax(operands) == (0, 0)
        got = _gradients()(*operands)
    assert not handle.on and not in_force()
    assert _by_lax(operands) == (3, 1)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def _like_flax(x, kernel, **settings):
    """Keras' layers do the same."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **settings,
    )


def _wider(x, kernel):
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return _like_flax(x, kernel, preferred_element_type=dtype)


def _like_equinox(x, kernel):
    """One example after the other, channels first."""
    kernel = kernel.astype(x.dtype).transpose(3, 2, 0, 1)

    def one(image):
        return lax.conv_general_dilated(image[None], kernel, (2, 2), "SAME")[0]

    return jax.vmap(one)(x.transpose(0, 3, 1, 2))


MIXED = {
    "flax": _like_flax,
    "float32 results": _wider,
    "grouped": partial(_like_flax, feature_group_count=2),
    "equinox": _like_equinox,
}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", MIXED)
def test_mixed_precision_is_laxs(kind, size, rng):
    """bfloat16 images by kernels that are kept in float32."""
    inputs = 16 if kind == "grouped" else 32
    x = jnp.asarray(rng.normal(size=(4, 16, 15, 32)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(size, size, inputs, 24)), jnp.float32)

    def results(x, kernel, cotangent=None):
        y, pull = jax.vjp(MIXED[kind], x, kernel)
        given = rng.normal(size=y.shape) if cotangent is None else cotangent
        return y, jnp.asarray(given, y.dtype), *pull(jnp.asarray(given, y.dtype))

    laxs = results(x, kernel)
    with accelerate():
        got = results(x, kernel, laxs[1])
    with jax.enable_x64(True):
        wide = [np.asarray(a, "float64") for a in (x, kernel.astype(x.dtype), laxs[1])]
        expected = results(*map(jnp.asarray, wide))
    for own, by_lax, exact in zip(got, laxs, expected):
        assert own.dtype == by_lax.dtype and own.shape == by_lax.shape
        error = np.abs(np.asarray(own, "float64") - np.asarray(exact))
        assert error.max() <= 2**-8 * np.abs(np.asarray(exact)).max()


def _cpu_rules():
    tables = lowering_rules()
    return [
        tables.for_cpus.get(primitive)
        for primitive in (
            lax.conv_general_dilated_p,
            lax.reduce_window_sum_p,
            lax.select_and_scatter_add_p,
            lax.select_and_gather_add_p,
        )
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_handles_may_be_undone_in_any_order(operands, order):
    before = _cpu_rules()
    handles = [accelerate() for _ in order]
    for place in order:
        assert in_force() and _by_lax(operands) == (0, 0)
        handles[place].undo()
        handles[place].undo()
        assert not handles[place].on
    assert _by_lax(operands) == (3, 1) and not in_force()
    assert _cpu_rules() == before


def test_threads_may_open_and_undo_handles_at_once(operands):
    before = _cpu_rules()

    def use(_):
        for _ in range(50):
            with accelerate() as handle:
                assert handle.on
            assert not handle.on
        with accelerate():
            return _by_lax(operands)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(use, range(8))) == {(0, 0)}
    assert _cpu_rules() == before and _by_lax(operands) == (3, 1)


def test_an_error_undoes_it(operands):
    with pytest.raises(KeyError), accelerate():
        raise KeyError
    assert _by_lax(operands) == (3, 1)


def test_what_was_compiled_before_stays_as_it_is(operands):
    function = _gradients()
    expected = function(*operands)
    with accelerate():
        assert all(map(np.array_equal, function(*operands), expected))


def test_a_rule_that_others_put_on_top_stays_there(operands):
    """It goes on through ours, which steps aside when it is undone."""
    from jax.interpreters import mlir

    primitive, rules = lax.conv_general_dilated_p, lowering_rules().for_cpus
    before, calls = rules[primitive], []
    handle = accelerate()
    ours = rules[primitive].rule

    def theirs(context, *args, **params):
        calls.append(params)
        return ours(context, *args, **params)

    try:
        mlir.register_lowering(primitive, theirs, platform="cpu")
        assert _by_lax(operands) == (0, 0) and len(calls) == 3
        handle.undo()
        assert rules[primitive].rule is theirs
        assert _by_lax(operands) == (3, 1) and len(calls) == 6
    finally:
        rules[primitive] = before


@pytest.mark.parametrize("broken", ["parameters", "tables", "primitive"])
def test_an_unknown_release_of_jax_is_refused_and_left_alone(
    operands, monkeypatch, broken
):
    if broken == "parameters":
        monkeypatch.setattr(Convolution, "_fields", ("lhs",))
    if broken == "tables":
        monkeypatch.delattr("jax._src.interpreters.mlir._lowerings")
    if broken == "primitive":
        monkeypatch.delattr(lax, "select_and_gather_add_p")
    with pytest.raises(RuntimeError, match=f"{jax.__version__}.*nothing was changed"):
        accelerate()
    assert not in_force()
    monkeypatch.undo()
    assert _by_lax(operands) == (3, 1)


# --- what stays with lax ---


def test_lax_by_name_stays_lax(operands):
    """So do its gradients, where another convolution of the program is not."""

    def loss(x, w, convolve):
        return jnp.sum(jnp.sin(convolve(x, w)))

    def by_lax(*convolutions):
        def gradients(x, w):
            of = [jax.grad(loss, (0, 1))(x, w, convolve) for convolve in convolutions]
            return jax.tree.map(lambda *a: sum(a), *of)

        program = jax.jit(gradients).lower(*operands).as_text()
        return program.count("stablehlo.convolution")

    def unmodified(x, w):
        layouts = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layouts)

    named = partial(conv, impl="lax")
    assert (by_lax(named), by_lax(unmodified, named)) == (3, 6)
    with accelerate():
        assert (by_lax(named), by_lax(unmodified, named)) == (3, 3)


def test_what_no_fast_path_covers_is_laxs(rng):
    x = rng.integers(0, 9, (1, 2, 8)).astype(np.int32)
    expected = lax.conv_general_dilated(x, x[:, :, :3], (1,), "SAME")
    with accelerate():
        got = jax.jit(lambda x: lax.conv_general_dilated(x, x[:, :, :3], (1,), "SAME"))
        assert np.array_equal(got(x), expected)


def _maximum(x, shape, strides, padding):
    return lax.reduce_window(x, -jnp.inf, lax.max, shape, strides, padding)


def _scatters(function, *operands) -> int:
    program = jax.jit(function).lower(*operands).as_text()
    return program.count("stablehlo.select_and_scatter")


def test_other_platforms_keep_laxs_gradient():
    from jax import export

    def gradient(x):
        return jax.grad(lambda x: _maximum(x, (1, 2), (1, 2), "VALID").sum())(x)

    x = jax.ShapeDtypeStruct((2, 8), jnp.float32)
    with accelerate():
        programs = {
            platform: export.export(jax.jit(gradient), platforms=[platform])(x)
            for platform in ("cpu", "tpu")
        }
    name = "stablehlo.select_and_scatter"
    assert name in programs["tpu"].mlir_module()
    assert name not in programs["cpu"].mlir_module()


def test_windows_of_many_taps_and_sizes_not_known_yet_stay_with_lax(rng):
    from jax import export

    def gradient(x, k=2):
        return jax.grad(lambda x: _maximum(x, (1, k), (1, 1), "VALID").sum())(x)

    x = rng.standard_normal((2, 80)).astype(np.float32)
    unknown = jax.ShapeDtypeStruct(export.symbolic_shape("n, 80"), jnp.float32)
    with accelerate():
        assert _scatters(lambda x: gradient(x, 64), x) == 0
        assert _scatters(lambda x: gradient(x, 65), x) == 1
        program = export.export(jax.jit(gradient))(unknown)
    assert "select_and_scatter" in program.mlir_module()
    assert np.array_equal(program.call(x), gradient(x))


# --- gradients of maxima ---

_ODD = {"ties": 0.0, "NaN": np.nan, "-inf": -np.inf, "inf": np.inf}


def _image(rng, shape, odd):
    """Few different values, and some odd ones."""
    x = rng.integers(-2, 3, shape).astype(np.float32)
    x[rng.random(shape) < (0.7 if odd == "-inf" else 0.2)] = _ODD[odd]
    return x


def _assert_same(function, *operands, exact=True):
    """`function` gives what it gives without us, to the bit, and not by lax."""
    expected = jax.jit(lambda *operands: function(*operands))(*operands)
    with accelerate():
        lowered = jax.jit(lambda *operands: function(*operands)).lower(*operands)
    assert "stablehlo.select_and_scatter" not in lowered.as_text()
    got = lowered.compile()(*operands)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        if exact:
            assert np.array_equal(a, b, equal_nan=True)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


_AXIS = st.tuples(
    st.integers(1, 7),  # pixels
    st.integers(1, 4),  # window
    st.integers(1, 4),  # stride
    st.integers(0, 5),  # padding, which may be larger than the window
    st.integers(0, 5),
)


@given(
    st.lists(_AXIS, min_size=1, max_size=4),
    st.sampled_from([lax.max, lax.min]),
    st.sampled_from(sorted(_ODD)),
    st.integers(0, 99),
)
def test_any_windows_over_any_axes_are_laxs_to_the_bit(axes, extreme, odd, seed):
    size, shape, strides, lows, highs = zip(*axes)
    for n, k, _, low, high in axes:
        assume(n + low + high >= k)
    assume(np.prod(shape) <= 64)
    rng = np.random.default_rng(seed)
    x = _image(rng, size, odd)
    init = np.float32(-np.inf if extreme is lax.max else np.inf)
    settings = (shape, strides, tuple(zip(lows, highs)))

    def pool(x):
        return lax.reduce_window(x, init, extreme, *settings)

    def both(x, a, t):
        (gradient,) = jax.vjp(pool, x)[1](a)
        # lax skips padding in tangents only, which matters next to NaN.
        skips = odd == "NaN" and max(*lows, *highs) > 0
        return gradient if skips else (gradient, jax.jvp(pool, (x,), (t,))[1])

    outputs = jax.eval_shape(pool, x).shape
    a, t = (rng.standard_normal(n).astype(np.float32) for n in (outputs, size))
    _assert_same(both, x, a, t)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHCW"])
@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 2), (3, 1)])
def test_every_layout_is_laxs_to_the_bit(layout, k, s, rng):
    sizes, windows = {"N": 2, "H": 9, "W": 8, "C": 3}, {"H": k, "W": k}
    x = _image(rng, [sizes[axis] for axis in layout], "NaN")
    shape = tuple(windows.get(axis, 1) for axis in layout)
    strides = tuple(s if axis in "HW" else 1 for axis in layout)

    def pool(x):
        return _maximum(x, shape, strides, "SAME")

    a = rng.standard_normal(jax.eval_shape(pool, x).shape).astype(np.float32)
    _assert_same(lambda x, a: jax.vjp(pool, x)[1](a), x, a)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes_are_laxs(dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(_image(rng, (2, 6, 6, 3), "ties"), dtype)

        def gradient(x):
            pool = lambda x: _maximum(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")  # noqa: E731
            return jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)

        _assert_same(gradient, x)


def test_other_transformations_are_laxs(rng):
    x = rng.permutation(2 * 2 * 7 * 6).reshape(2, 2, 7, 6).astype(np.float32)
    t = rng.standard_normal(x.shape).astype(np.float32)

    def curved(x):
        y = _maximum(x, (1, 3, 2), (1, 2, 1), ((0, 0), (1, 1), (0, 1)))
        return jnp.sum(jnp.sin(y / 50))

    gradient = jax.grad(curved)
    for transformed in (
        jax.vmap(gradient),
        jax.vmap(gradient, in_axes=1),
        jax.vmap(lambda x: jax.jvp(gradient, (x,), (x / 100,))[1]),
        lambda x: jax.jvp(jax.vmap(gradient), (x,), (t,))[1],
        lambda x: jax.grad(lambda x: jnp.sum(jnp.sin(gradient(x))))(x[0]),
        lambda x: lax.map(gradient, x),
        lambda x: jax.grad(jax.checkpoint(curved))(x[0]),
    ):
        _assert_same(transformed, x, exact=False)


@pytest.mark.parametrize("check_vma", [False, True])
def test_in_shard_map_it_is_laxs(check_vma, rng):
    mesh = jax.make_mesh((2,), ("two",), axis_types=(AxisType.Auto,))
    x = _image(rng, (4, 6, 6), "ties")

    def gradient(x):
        return jax.grad(lambda x: _maximum(x, (1, 3, 2), (1, 2, 2), "SAME").sum())(x)

    over = PartitionSpec("two")
    _assert_same(
        jax.shard_map(
            gradient, mesh=mesh, in_specs=over, out_specs=over, check_vma=check_vma
        ),
        x,
    )


# --- sums ---


@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_sums_over_windows_and_their_gradients_are_laxs(k, s, padding, rng):
    x = rng.standard_normal((2, 9, 8, 3)).astype(np.float32)

    def pool(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, k, k, 1), (1, s, s, 1), padding)

    t = rng.standard_normal(jax.eval_shape(pool, x).shape).astype(np.float32)

    def both(x, t):
        return pool(x), jax.vjp(pool, x)[1](t)

    with accelerate():
        program = jax.jit(both).lower(x, t).as_text()
        # The gradient of 2x2 windows stays as it is.
        assert program.count("stablehlo.reduce_window") == (1 if k == 2 else 0)
    _assert_same(both, x, t, exact=False)


# --- the handle ---


def test_a_handle_that_has_ended_cannot_be_entered_again():
    handle = accelerate()
    with handle:
        assert handle.on
    with pytest.raises(RuntimeError, match="this handle has ended"):
        with handle:
            pass
    assert not handle.on


def test_it_is_no_decorator_and_leaves_nothing_behind():
    with pytest.raises(TypeError, match="no decorator: .* around the calls of 'f'"):

        @accelerate()
        def f(x):
            return x

    assert not in_force()
