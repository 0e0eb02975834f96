"""`conv_general_dilated` in the place of lax's."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jcnn
from jcnn import conv_general_dilated

pytestmark = pytest.mark.cover(1)


def _normal(rng, shape, dtype="float32"):
    x = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return jnp.asarray(4 * x, dtype)


def _ramp(shape, dtype):
    return jnp.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype(dtype)


def _assert_lax(lhs, rhs, *args, **settings):
    """The values, the shape, the dtype, and both gradients where there are any."""
    results = []
    for function in (conv_general_dilated, lax.conv_general_dilated):

        def of(lhs, rhs, function=function):
            return function(lhs, rhs, *args, **settings)

        y = of(lhs, rhs)
        results.append([y])
        if jnp.issubdtype(y.dtype, jnp.inexact) and lhs.dtype == y.dtype:
            _, pull_back = jax.vjp(of, lhs, rhs)
            results[-1].extend(pull_back(_ramp(y.shape, y.dtype)))
    eps = jnp.finfo(lhs.dtype).eps if jnp.issubdtype(lhs.dtype, jnp.inexact) else 0
    for got, expected in zip(*results):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        wide = np.asarray(expected).astype(
            complex if jnp.iscomplexobj(expected) else float
        )
        difference = np.abs(np.asarray(got).astype(wide.dtype) - wide)
        assert difference.max(initial=0) <= 50 * eps * np.abs(wide).max(initial=0)


def test_the_signature_is_laxs():
    ours = inspect.signature(conv_general_dilated).parameters
    laxs = inspect.signature(lax.conv_general_dilated).parameters
    assert list(ours) == list(laxs)
    for name in laxs:
        assert ours[name].kind == laxs[name].kind
        assert ours[name].default == laxs[name].default


def test_every_argument_may_go_by_position(rng):
    x, w = _normal(rng, (4, 6, 9)), _normal(rng, (4, 3, 3))
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, ("NCH", "OIH", "NCH"))
    _assert_lax(
        x, w, (2,), [(1, 2)], (1,), (2,), numbers, 2, 1, lax.Precision.HIGHEST, None
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID", "SAME_LOWER", "same", [(2, -1)]])
@pytest.mark.parametrize("strides", [(1,), (2,)])
def test_paddings_are_laxs(padding, strides, rng):
    x, w = _normal(rng, (3, 8, 32)), _normal(rng, (4, 32, 40))
    _assert_lax(x, w, strides, padding, dimension_numbers=("NHC", "HIO", "NHC"))


@pytest.mark.parametrize("form", ["tuple", "list", "value", None])
def test_dimension_numbers_take_every_form(form, rng):
    layouts = ("NCHW", "OIHW", "NCHW") if form is None else ("NHWC", "HWIO", "NHWC")
    shapes = {"N": 2, "C": 32, "H": 9, "W": 8, "I": 32, "O": 40}
    x = _normal(rng, [shapes[axis] for axis in layouts[0]])
    w = _normal(rng, [{**shapes, "H": 3, "W": 3}[axis] for axis in layouts[1]])
    value = lax.conv_dimension_numbers(x.shape, w.shape, layouts)
    numbers = {
        "tuple": layouts,
        "list": list(layouts),
        "value": value,
        None: None,
    }[form]
    _assert_lax(x, w, (1, 1), "SAME", dimension_numbers=numbers)


@pytest.mark.parametrize("groups", [(1, 1), (4, 1), (1, 4)])
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "complex64", "int8", "int32"]
)
def test_dtypes_and_groups_are_laxs(dtype, groups, rng):
    features, batches = groups
    x, w = _normal(rng, (8, 8, 9), dtype), _normal(rng, (16, 8 // features, 3), dtype)
    _assert_lax(
        x,
        w,
        (1,),
        "SAME",
        feature_group_count=features,
        batch_group_count=batches,
    )


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [("int8", "int32"), ("bfloat16", "float32"), ("float16", "float32")],
)
def test_the_dtype_of_the_result_is_as_asked(dtype, wide, rng):
    x, w = _normal(rng, (2, 4, 9), dtype), _normal(rng, (8, 4, 3), dtype)
    _assert_lax(x, w, (1,), "SAME", preferred_element_type=wide)


def test_operands_may_be_numpys(rng):
    """In float64, which lax makes float32 of."""
    x, w = rng.standard_normal((2, 3, 9)), rng.standard_normal((4, 3, 3))
    got = conv_general_dilated(x, w, (1,), "SAME")
    expected = lax.conv_general_dilated(x, w, (1,), "SAME")
    assert got.dtype == expected.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": "FULL"}, "FULL|padding"),
        ({"padding": ((0, 0),)}, "pads"),
        ({"feature_group_count": 2}, "feature"),
        ({"batch_group_count": 3}, "batch"),
        ({"window_strides": (1,)}, "strides"),
        ({"rhs": jnp.ones((4, 3, 3, 3), jnp.bfloat16)}, "dtype"),
    ],
)
def test_errors_are_laxs(settings, message):
    arguments = {
        "lhs": jnp.ones((2, 3, 8, 8)),
        "rhs": jnp.ones((4, 3, 3, 3)),
        "window_strides": (1, 1),
        "padding": "SAME",
        **settings,
    }
    with pytest.raises((ValueError, TypeError, RuntimeError)) as expected:
        lax.conv_general_dilated(**arguments)
    with pytest.raises(type(expected.value), match=message) as got:
        conv_general_dilated(**arguments)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("how", ["argument", "configuration", "conv", "accelerate"])
def test_the_highest_precision_is_exact_where_floats_are(how, rng):
    """Sums of integers below 2**24, which Winograd's algorithm would round."""
    x, w = rng.integers(-9, 10, (6, 16, 16, 32)), rng.integers(-9, 10, (3, 3, 32, 32))
    y = rng.integers(-9, 10, (6, 14, 14, 32))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    expected = np.einsum("nhwcab,abco->nhwo", windows, w, optimize=True)
    to_w = np.einsum("nhwcab,nhwo->abco", windows, y, optimize=True)
    x, w, y = (np.float32(a) for a in (x, w, y))

    def run(function, precision=None):
        def conv(x, w):
            layouts = ("NHWC", "HWIO", "NHWC")
            return function(
                x, w, (1, 1), "VALID", dimension_numbers=layouts, precision=precision
            )

        def both(x, w, y):
            result, pull_back = jax.vjp(conv, x, w)
            return result, pull_back(y)[1]

        return jax.jit(both)(x, w, y)

    if how == "argument":
        got = run(conv_general_dilated, lax.Precision.HIGHEST)
    elif how == "configuration":
        with jax.default_matmul_precision("highest"):
            got = run(conv_general_dilated)
    elif how == "conv":
        with jax.default_matmul_precision("float32"):  # another name of the highest
            got = run(lambda x, w, *_, **__: jcnn.conv(x, w, padding="VALID"))
    else:
        with jcnn.accelerate(), jax.default_matmul_precision("highest"):
            got = run(lax.conv_general_dilated)
    assert np.array_equal(got[0], expected) and np.array_equal(got[1], to_w)


def test_a_sharding_asked_for_is_given(rng):
    mesh = jax.make_mesh((2,), ("two",), axis_types=(AxisType.Explicit,))
    x, w = _normal(rng, (4, 3, 8)), _normal(rng, (5, 3, 3))
    asked = NamedSharding(mesh, PartitionSpec("two"))
    with jax.set_mesh(mesh):
        got = conv_general_dilated(
            jax.device_put(x, asked), w, (1,), "SAME", out_sharding=asked
        )
    assert got.sharding.is_equivalent_to(asked, got.ndim)
    np.testing.assert_allclose(
        got, lax.conv_general_dilated(x, w, (1,), "SAME"), rtol=1e-5, atol=1e-5
    )


def test_flax_takes_it_in_place_of_laxs(rng):
    nnx = pytest.importorskip("flax.nnx")
    x = _normal(rng, (5, 15, 16, 32))
    layers = [
        nnx.Conv(32, 40, (3, 3), rngs=nnx.Rngs(0), conv_general_dilated=function)
        for function in (jcnn.conv_general_dilated, lax.conv_general_dilated)
    ]
    results = []
    for layer in layers:
        graph, weights = nnx.split(layer)

        def loss(weights, x, graph=graph):
            return jnp.mean(nnx.merge(graph, weights)(x) ** 2)

        program = jax.jit(jax.grad(loss, (0, 1)))
        calls = program.lower(weights, x).as_text().count("stablehlo.convolution")
        results.append((jax.tree.leaves(program(weights, x)), calls))
    assert [calls for _, calls in results] == [0, 3]
    for got, expected in zip(results[0][0], results[1][0]):
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_it_may_take_the_place_of_laxs(monkeypatch, rng):
    """For every program that calls `jax.lax.conv_general_dilated`, jcnn's own too."""
    x = jnp.asarray(rng.normal(size=(2, 3, 7, 6)), "float32")
    w = jnp.asarray(rng.normal(size=(4, 3, 3, 2)), "float32")

    def loss(w):
        return (lax.conv_general_dilated(x, w, (1, 2), "SAME") ** 2).sum()

    expected = jax.value_and_grad(loss)(w)
    monkeypatch.setattr(jax.lax, "conv_general_dilated", jcnn.conv_general_dilated)
    for function in (loss, jax.jit(loss)):
        for actual, value in zip(jax.value_and_grad(function)(w), expected):
            np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-4)
