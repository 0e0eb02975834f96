"""Any convolution that lax takes, through the engine, against lax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jcnn import accelerate
from jcnn.engine.canonical import canonicalize
from jcnn.engine.general import conv_general_dilated, convolve_general
from jcnn.engine.lax_arguments import Convolution
from jcnn.inspect.explanation import operations
from tests.helpers.stress import few_of

TOLERANCE = 1e-5  # of the largest value, which covers Winograd's errors too


def _drawn(rng: np.random.Generator):
    """A convolution in any layout, with both dilations, groups and odd padding."""
    rank = int(rng.integers(1, 4))
    groups = int(rng.choice([1, 1, 2, 3]))
    features, batches = rng.permutation([groups, 1])

    def sizes(low, high, plain):
        values = rng.integers(low, high, rank)
        return tuple(map(int, values)) if rng.random() > plain else (1,) * rank

    taps = sizes(3, 7, 0) if rng.random() < 0.3 else sizes(1, 4, 0)
    orders = [tuple(map(int, rng.permutation(rank + 2))) for _ in range(3)]
    lhs_shape, rhs_shape = np.zeros((2, rank + 2), int)
    channels = int(rng.integers(1, 4))
    batch = batches * int(rng.integers(1, 4))
    lhs_shape[list(orders[0])] = (batch, features * channels, *sizes(4, 9, 0))
    outputs = features * batches * int(rng.integers(1, 4))
    rhs_shape[list(orders[1])] = (outputs, channels, *taps)
    convolution = Convolution(
        window_strides=sizes(1, 4, 0.5),
        padding=tuple((int(a), int(b)) for a, b in rng.integers(-2, 5, (rank, 2))),
        lhs_dilation=sizes(1, 4, 0.6),
        rhs_dilation=sizes(1, 4, 0.6),
        dimension_numbers=lax.ConvDimensionNumbers(*orders),
        feature_group_count=int(features),
        batch_group_count=int(batches),
    )
    return convolution, rng.standard_normal(lhs_shape), rng.standard_normal(rhs_shape)


def _with_gradients(function, lhs, rhs, cotangent):
    result, pull_back = jax.vjp(function, lhs, rhs)
    return result, *pull_back(cotangent)


@pytest.mark.parametrize("seed", few_of(range(32), 8))
def test_engine_is_lax_in_float64(seed):
    impl = "im2col" if seed % 4 == 3 else "auto"
    rng = np.random.default_rng(seed)
    convolution, lhs, rhs = _drawn(rng)
    with jax.enable_x64(True):
        by_lax = jax.eval_shape(convolution.by_lax, lhs, rhs)
        cotangent = rng.standard_normal(by_lax.shape)
        expected = _with_gradients(convolution.by_lax, lhs, rhs, cotangent)
        expected = [np.asarray(b) for b in expected]
    got = _with_gradients(
        lambda lhs, rhs: convolve_general(lhs, rhs, convolution, impl),
        *(jnp.asarray(a, jnp.float32) for a in (lhs, rhs, cotangent)),
    )
    for a, b in zip(got, expected):
        assert a.shape == b.shape
        scale = np.abs(b).max(initial=1e-6)
        assert np.abs(np.asarray(a, np.float64) - b).max(initial=0) <= TOLERANCE * scale


def test_gradients_that_lax_writes_are_recognised(rng):
    """Gradients of a strided convolution are not taken for forward convolutions."""
    x = rng.standard_normal((4, 9, 11, 3)).astype(np.float32)
    w = rng.standard_normal((3, 3, 3, 5)).astype(np.float32)

    def loss(x, w):
        layouts = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=layouts)
        return jnp.sum(jnp.sin(y))

    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, w)
    ops = []
    for eqn in program.eqns:
        if eqn.primitive is lax.conv_general_dilated_p:
            canonical = canonicalize(
                *(v.aval for v in eqn.invars), Convolution.of(eqn.params)
            )
            assert canonical is not None
            ops.append(canonical.problem.op)
            if canonical.problem.op != "forward":
                assert canonical.problem.strides == (2, 2)
                assert canonical.problem.kernel_size == (3, 3)
    assert sorted(ops) == ["forward", "input_gradient", "kernel_gradient"]


@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
@pytest.mark.parametrize(
    "settings",
    [
        dict(window_strides=(1, 1), padding="SAME"),
        dict(window_strides=(2, 1), padding="VALID", rhs_dilation=(1, 2)),
        dict(window_strides=(1, 2), padding=((2, 0), (-1, 3))),
    ],
)
def test_kernel_gradients_of_each_example_are_models(settings, layout, rng):
    x = rng.standard_normal((5, 9, 8, 3))
    kernel = rng.standard_normal((3, 2, 3, 4))
    if layout[0] == "NCHW":
        x, kernel = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)

    def loss(kernel, image):
        convolve = lax.conv_general_dilated
        y = convolve(image[None], kernel, dimension_numbers=layout, **settings)
        return jnp.sin(y).sum()

    def gradients(kernel, x):
        return jax.vmap(jax.grad(loss), (None, 0))(kernel, x)

    whats = [row.what for row in operations(gradients, kernel, x)]
    assert "kernel gradient, 5 models" in whats
    with jax.enable_x64(True):
        expected = jnp.stack([jax.grad(loss)(kernel, image) for image in x])
        with accelerate():
            actual = jax.jit(lambda *ab: gradients(*ab))(kernel, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layouts", [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC"), None]
)
@pytest.mark.parametrize("padding", ["SAME", "valid", ((1, 2), (0, 3))])
def test_drop_in_is_lax(layouts, padding, rng):
    last = layouts is not None and layouts[0] == "NHWC"
    x = rng.standard_normal((2, 9, 7, 4) if last else (2, 4, 9, 7)).astype(np.float32)
    w = rng.standard_normal((3, 2, 2, 6) if last else (6, 2, 3, 2)).astype(np.float32)
    settings = {"dimension_numbers": layouts, "feature_group_count": 2}
    settings["rhs_dilation"] = (1, 2)
    got = conv_general_dilated(x, w, (2, 1), padding, out_sharding=None, **settings)
    expected = lax.conv_general_dilated(x, w, (2, 1), padding, **settings)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["TF32_TF32_F32", lax.DotAlgorithmPreset.DEFAULT])
def test_drop_in_takes_no_notice_of_algorithms_of_dots(precision, rng):
    """As lax's convolution, which accepts those that a CPU does not have."""
    x = rng.standard_normal((2, 40, 9, 7)).astype(np.float32)
    w = rng.standard_normal((36, 40, 3, 2)).astype(np.float32)
    expected = lax.conv_general_dilated(x, w, (1, 1), "SAME", precision=precision)
    got = conv_general_dilated(x, w, (1, 1), "SAME", precision=precision)
    np.testing.assert_allclose(got, expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        ({"lhs_dilation": (2,)}, ((2, 3, 9), (4, 3, 3))),
        ({"batch_group_count": 2}, ((2, 3, 9), (4, 3, 3))),
        ({}, ((2, 3, 9), (4, 3, 7))),  # more taps than outputs: a kernel's gradient
    ],
)
@pytest.mark.parametrize(
    ("dtype", "wider"), [("float32", "float64"), ("complex64", "complex128")]
)
def test_sums_are_as_wide_as_the_result_that_is_asked_for(
    settings, shapes, dtype, wider, rng
):
    operands = [rng.standard_normal(shape) for shape in shapes]
    if wider == "complex128":
        operands = [a + 1j * rng.standard_normal(a.shape) for a in operands]
    with jax.enable_x64(True):
        lhs, rhs = (jnp.asarray(a.astype(dtype)) for a in operands)
        got = conv_general_dilated(
            lhs, rhs, (1,), [(0, 0)], **settings, preferred_element_type=wider
        )
        widened = (jnp.asarray(a.astype(dtype), wider) for a in operands)
        expected = lax.conv_general_dilated(*widened, (1,), [(0, 0)], **settings)
        assert got.dtype == wider
        off = np.abs(np.asarray(got) - np.asarray(expected)).max()
        assert off <= 1e-14 * np.abs(np.asarray(expected)).max()


def test_a_window_that_is_large_may_have_a_wider_result():
    """As a kernel's gradient it could not, and no algorithm named would compute it."""
    lhs, rhs = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((3, 9, 3), (7, 3, 4))
    )

    def canonical(image: str, preferred):
        layouts = (image, "HIO", "NHC")
        numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, layouts)
        convolution = Convolution((1,), ((0, 0),), (1,), (1,), numbers)
        convolution = convolution._replace(preferred_element_type=preferred)
        found = canonicalize(lhs, rhs, convolution)
        assert found is not None
        return found.problem.op, found.problem.output_dtype

    # JAX exchanges batch and channels in the gradients that it makes.
    assert canonical("CHN", None) == ("kernel_gradient", jnp.bfloat16)
    assert canonical("CHN", jnp.float32) == ("forward", jnp.float32)
    assert canonical("NHC", None) == (
        "forward",
        jnp.bfloat16,
    )  # patches, or a whole image


def test_drop_in_has_laxs_errors():
    x, w = jnp.ones((1, 3, 5)), jnp.ones((2, 4, 3))
    with pytest.raises(Exception) as expected:
        lax.conv_general_dilated(x, w, (1,), "SAME")
    with pytest.raises(type(expected.value), match="feature"):
        conv_general_dilated(x, w, (1,), "SAME")


def test_what_is_not_tested_goes_to_lax(rng):
    x = rng.integers(0, 9, (1, 2, 8)).astype(np.int32)
    w = rng.integers(0, 9, (3, 2, 3)).astype(np.int32)
    expected = lax.conv_general_dilated(x, w, (1,), "SAME")
    assert np.array_equal(conv_general_dilated(x, w, (1,), "SAME"), expected)
    z = (rng.standard_normal((1, 2, 8)) + 1j * rng.standard_normal((1, 2, 8))).astype(
        np.complex64
    )
    expected = lax.conv_general_dilated(z, z[:, :, :3], (1,), "SAME")
    assert np.array_equal(conv_general_dilated(z, z[:, :, :3], (1,), "SAME"), expected)
