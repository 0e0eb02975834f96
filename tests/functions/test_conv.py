"""Convolutions against NumPy loops, PyTorch, `jax.lax` and one another."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax import lax

from jcnn import conv, conv_transpose, depthwise_conv
from tests.helpers import oracle
from tests.helpers.oracle import IMPLS, assert_close

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.cover(2),
]

ANY_IMPL = pytest.mark.parametrize("impl", IMPLS)
ANY_RANK = pytest.mark.parametrize("rank", (1, 2, 3))
MODES = ("ZEROS", "CIRCULAR", "REFLECT", "EDGE")


def value_and_gradients(function, x, kernel, g):
    """function(x, kernel), and the gradients of its product with g, in one program."""

    @jax.jit
    def run(x, kernel, g):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(g)

    return run(x, kernel, g)


def expected(x, kernel, g, of="conv", **settings):
    """The same three from the oracle, and the sums of absolute products in each."""
    value = partial(getattr(oracle, of), **settings)
    gradients = partial(getattr(oracle, f"{of}_gradients"), **settings)
    absolute = [np.abs(a) for a in (x, kernel, g)]
    return (
        (value(x, kernel), *gradients(x, kernel, g)),
        (value(*absolute[:2]), *gradients(*absolute)),
    )


def assert_all_close(actual, expected, dtype):
    for a, value, scale in zip(actual, *expected, strict=True):
        assert_close(a, value, dtype, scale)


def normal(rng, *shape, dtype="float32"):
    return rng.normal(size=shape).astype(jnp.dtype(dtype))


def output_like(rng, function, x, kernel):
    """Random numbers of the output's shape and dtype."""
    y = jax.eval_shape(function, x, kernel)
    return normal(rng, *y.shape, dtype=y.dtype)


def all_pairs(factors, allowed=lambda case: True):
    """Few cases, of one value per factor, with every allowed pair of values in one."""
    rng = np.random.default_rng(0)

    def draw():
        case = {name: values[rng.integers(len(values))] for name, values in factors}
        return case if allowed(case) else draw()

    def pairs(case):
        return set(combinations(case.items(), 2))

    factors = list(factors.items())
    missing = set().union(*(pairs(draw()) for _ in range(5000)))
    cases = []
    while missing:
        case = max((draw() for _ in range(50)), key=lambda c: len(pairs(c) & missing))
        if pairs(case) & missing:
            cases.append(pytest.param(case, id="-".join(map(str, case.values()))))
            missing -= pairs(case)
    return cases


# --- against NumPy loops ---

PAIRS = ((1, 0), (0, 2), (2, 1))
PADDINGS = {
    "SAME": lambda rank: "SAME",
    "SAME_LOWER": lambda rank: "SAME_LOWER",
    "VALID": lambda rank: "VALID",
    "int": lambda rank: 2,
    "mixed": lambda rank: [2, (1, 0), [0, 1]][:rank],
    "negative": lambda rank: ((-2, 1), (-1, -1), (2, -2))[:rank],
    "large": lambda rank: ((6, 2), (3, 7), (5, 5))[:rank],
}

CONV_CASES = all_pairs(
    {
        "rank": (1, 2, 3),
        "padding": tuple(PADDINGS),
        "mode": MODES,
        "strides": (1, 3, (2, 1, 2)),
        "kernel_dilation": (1, (1, 2, 3)),
        "input_dilation": (1, (2, 1, 3)),
        "groups": (1, 2),
        "dtype": ("float32", "bfloat16", "float64"),
        "batch": (0, 1, 3),
    },
    lambda case: case["mode"] == "ZEROS" or case["input_dilation"] == 1,
)


def of_rank(value, rank):
    return value[:rank] if isinstance(value, tuple) else value


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize("case", CONV_CASES)
def test_conv_is_what_the_loops_give(case, impl, rng):
    rank, dtype, groups = case["rank"], case["dtype"], case["groups"]
    windows = dict(
        strides=of_rank(case["strides"], rank),
        padding=PADDINGS[case["padding"]](rank),
        kernel_dilation=of_rank(case["kernel_dilation"], rank),
        input_dilation=of_rank(case["input_dilation"], rank),
    )
    mode, size = case["mode"], (6, 7, 8)[:rank]
    with jax.enable_x64(dtype == "float64"):
        x = normal(rng, case["batch"], *size, 2 * groups, dtype=dtype)
        kernel = normal(rng, *(3, 2, 1)[:rank], 2, 3 * groups, dtype=dtype)
        function = partial(
            conv, impl=impl, padding_mode=mode, feature_group_count=groups, **windows
        )
        g = output_like(rng, function, x, kernel)
        actual = value_and_gradients(function, x, kernel, g)
        loops = expected(x, kernel, g, groups=groups, mode=mode, **windows)
        assert_all_close(actual, loops, dtype)


@st.composite
def problems(draw):
    """A small convolution: shapes of x and the kernel, its settings, and a seed."""
    rank = draw(st.integers(1, 3))

    def one_per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, strides, dilation = (one_per_axis(1, high) for high in (3, 3, 2))
    mode = draw(st.sampled_from(MODES))
    spreading = one_per_axis(1, 2 if mode == "ZEROS" else 1)
    padding = draw(
        st.sampled_from(("SAME", "SAME_LOWER", "VALID"))
        | st.integers(-1, 4)
        | st.tuples(*[st.tuples(st.integers(-2, 4), st.integers(-2, 4))] * rank)
    )
    size = one_per_axis(1, 5)
    groups = draw(st.integers(1, 3))
    windows = dict(
        strides=strides,
        padding=padding,
        kernel_dilation=dilation,
        input_dilation=spreading,
    )
    outputs, _ = oracle.conv_links(size, kernel, mode=mode, **windows)
    assume(all(outputs))
    x = (draw(st.integers(0, 2)), *size, groups * draw(st.integers(1, 2)))
    kernel = (*kernel, x[-1] // groups, groups * draw(st.integers(1, 2)))
    return x, kernel, groups, mode, windows, draw(st.integers(0, 2**32 - 1))


@ANY_IMPL
@given(problem=problems())
def test_any_conv_and_its_adjoints(problem, impl):
    x, kernel, groups, mode, windows, seed = problem
    rng = np.random.default_rng(seed)
    function = partial(
        conv, impl=impl, padding_mode=mode, feature_group_count=groups, **windows
    )
    with jax.enable_x64(True):
        x, kernel = (normal(rng, *shape, dtype="float64") for shape in (x, kernel))
        g = output_like(rng, function, x, kernel)
        y, gx, gw = value_and_gradients(function, x, kernel, g)
    loops = expected(x, kernel, g, groups=groups, mode=mode, **windows)
    assert_all_close((y, gx, gw), loops, "float64")
    # <conv(x, w), g> = <x, gx> = <w, gw>
    products = [np.vdot(*pair) for pair in ((y, g), (x, gx), (kernel, gw))]
    scale = np.vdot(loops[1][0], np.abs(g))
    np.testing.assert_allclose(products[1:], products[0], rtol=0, atol=1e-13 * scale)


@ANY_RANK
def test_algorithms_agree(rank, rng):
    x = normal(rng, 3, *(9, 8, 7)[:rank], 4)
    kernel = normal(rng, *(3, 2, 4)[:rank], 2, 6)
    windows = dict(strides=(2, 1, 3)[:rank], padding=PAIRS[:rank])

    def run(impl):
        function = partial(conv, impl=impl, feature_group_count=2, **windows)
        g = output_like(np.random.default_rng(0), function, x, kernel)
        return value_and_gradients(function, x, kernel, g)

    first = run(IMPLS[0])
    for impl in IMPLS[1:]:
        for a, b in zip(run(impl), first, strict=True):
            assert_close(a, b, "float32")


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize("groups", (1, 2))
def test_eager_is_jit(groups, impl, rng):
    x, kernel = normal(rng, 2, 7, 6, 4), normal(rng, 3, 2, 4 // groups, 6)
    function = partial(
        conv,
        impl=impl,
        strides=2,
        padding=((4, -1), (0, 1)),
        feature_group_count=groups,
    )
    g = output_like(rng, function, x, kernel)
    y, pull = jax.vjp(function, x, kernel)
    for a, b in zip((y, *pull(g)), value_and_gradients(function, x, kernel, g)):
        assert_close(a, b, "float32")


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("size, groups", (((9,), 1), ((6, 7), 2), ((5, 4, 3), 1)))
def test_many_channels(size, groups, dtype, impl, rng):
    """Enough of them for what "auto" does with large problems."""
    x = normal(rng, 2, *size, 36 * groups, dtype=dtype)
    kernel = normal(rng, *(3, 2, 2)[: len(size)], 36, 32 * groups, dtype=dtype)
    windows = dict(kernel_dilation=(2, 1, 1)[: len(size)], padding="SAME")
    function = partial(conv, impl=impl, feature_group_count=groups, **windows)
    g = output_like(rng, function, x, kernel)
    loops = expected(x, kernel, g, groups=groups, **windows)
    assert_all_close(value_and_gradients(function, x, kernel, g), loops, dtype)


# float32 convolutions that XLA gets wrong on CPUs (openxla/xla issue 48713, jaxlib
# 0.10.2): the first four their values or the gradient to the kernel, where low padding
# is negative; the last two the gradient to x, where padding is larger than the kernel.
UPSTREAM = (
    ((1, 15, 6, 8), (1, 1, 8, 8), 1, ((0, 0), (-5, 1))),
    ((2, 6, 4, 8), (3, 2, 8, 8), 1, ((0, 0), (-1, 1))),
    ((1, 5, 8, 2), (3, 2, 2, 1), (2, 1), ((0, 0), (-4, 1))),
    ((2, 8, 4, 1), (2, 2, 1, 1), 1, ((-1, -1), (-2, 1))),
    ((1, 8, 1, 1), (1, 3, 1, 8), 1, ((2, 3), (4, 0))),
    ((2, 5, 8, 1), (2, 2, 1, 2), 1, ((4, -2), (3, 2))),
)


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize("x, kernel, strides, padding", UPSTREAM)
def test_padding_that_xla_gets_wrong(x, kernel, strides, padding, impl, rng):
    x, kernel = normal(rng, *x), normal(rng, *kernel)
    windows = dict(strides=strides, padding=padding)
    function = partial(conv, impl=impl, **windows)
    g = output_like(rng, function, x, kernel)
    loops = expected(x, kernel, g, **windows)
    assert_all_close(value_and_gradients(function, x, kernel, g), loops, "float32")
    assert_close(function(x, kernel), loops[0][0], "float32", loops[1][0])


# Convolutions of which a derivative ends the process when lax's primitive is left to
# JAX: XLA takes an axis for groups (jcnn/engine/xla_faults.py).
MISREAD = {
    "issue": ((4, 5, 8, 3), (3, 2, 3, 5), dict(strides=2, padding=((0, 0), (1, 1)))),
    "cropped": ((1, 5, 6, 1), (3, 2, 1, 1), dict(strides=2, padding=((0, 0), (3, 1)))),
    "forward": (
        (2, 2, 3, 2),
        (3, 2, 2, 3),
        dict(padding=((2, 2), (0, 0)), input_dilation=(1, 2)),
    ),
    "both strides": (
        (2, 2, 4, 2),
        (3, 3, 2, 3),
        dict(padding=((2, 2), (0, 0)), strides=(1, 2), input_dilation=(1, 3)),
    ),
    "cube": (
        (1, 3, 4, 2, 1),
        (3, 2, 2, 1, 2),
        dict(strides=(1, 2, 1), padding=((0, 0), (1, 1), (1, 1))),
    ),
    "groups": (
        (2, 3, 4, 4),
        (3, 2, 2, 2),
        dict(strides=(1, 2), padding=((0, 0), (1, 1)), feature_group_count=2),
    ),
}


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("x, kernel, windows", MISREAD.values(), ids=MISREAD)
def test_axes_that_xla_takes_for_groups(x, kernel, windows, dtype, impl, rng):
    x, kernel = (normal(rng, *shape, dtype=dtype) for shape in (x, kernel))
    function = partial(conv, impl=impl, **windows)
    windows = windows.copy()
    groups = windows.pop("feature_group_count", 1)
    with jax.enable_x64(dtype == "float64"):
        g = output_like(rng, function, x, kernel)
        actual = value_and_gradients(function, x, kernel, g)
    loops = expected(x, kernel, g, groups=groups, **windows)
    assert_all_close(actual, loops, dtype)


# --- the other arguments ---


@pytest.mark.cover(1)
@ANY_IMPL
@ANY_RANK
def test_bias_is_added_to_every_position(rank, impl, rng):
    x, kernel = normal(rng, 2, *(4, 5, 3)[:rank], 2), normal(rng, *[2] * rank, 2, 3)
    bias = normal(rng, 3)
    y, pull = jax.vjp(lambda bias: conv(x, kernel, bias, impl=impl), bias)
    plain = np.asarray(conv(x, kernel, impl=impl))
    np.testing.assert_array_equal(y, plain + bias)
    g = normal(rng, *y.shape)
    (gradient,) = pull(g)
    sums = g.reshape(-1, 3).astype(np.float64)
    assert_close(gradient, sums.sum(0), "float32", np.abs(sums).sum(0))


@ANY_IMPL
def test_bias_takes_the_dtype_of_the_result(impl, rng):
    x, kernel = (normal(rng, *s, dtype="bfloat16") for s in ((1, 5, 2), (3, 2, 2)))
    bias = normal(rng, 2)
    assert conv(x, kernel, bias, impl=impl).dtype == jnp.bfloat16
    y = conv(x, kernel, bias, impl=impl, preferred_element_type=jnp.float32)
    assert_close(y, oracle.conv(x, kernel, padding="SAME") + bias, "float32")


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize(
    "dtype, preferred",
    (("bfloat16", "float32"), ("float32", "float64")),
)
def test_preferred_element_type(dtype, preferred, impl, rng):
    with jax.enable_x64("float64" in (dtype, preferred)):
        x = normal(rng, 2, 6, 5, 4, dtype=dtype)
        kernel = normal(rng, 3, 3, 2, 6, dtype=dtype)
        windows = dict(strides=2, padding="SAME")
        function = partial(
            conv,
            impl=impl,
            feature_group_count=2,
            preferred_element_type=jnp.dtype(preferred),
            **windows,
        )
        g = output_like(rng, function, x, kernel)
        actual = value_and_gradients(function, x, kernel, g)
        values, scales = expected(x, kernel, g, groups=2, **windows)
        # Products of short floats must be summed in the preferred type.
        assert_close(actual[0], values[0], preferred, scales[0])
        for a, value, scale in zip(actual[1:], values[1:], scales[1:]):
            assert_close(a, value, dtype, scale)


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize(
    "precision",
    (
        "highest",
        "float32",
        lax.Precision.HIGH,
        ("default", "highest"),
    ),
)
def test_precision(precision, impl, rng):
    x, kernel = normal(rng, 2, 6, 3), normal(rng, 3, 3, 2)
    function = partial(conv, impl=impl, precision=precision)
    g = output_like(rng, function, x, kernel)
    loops = expected(x, kernel, g, padding="SAME")
    assert_all_close(value_and_gradients(function, x, kernel, g), loops, "float32")


@ANY_IMPL
def test_ways_to_write_an_argument(impl, rng):
    x, kernel = normal(rng, 1, 7, 6, 2), normal(rng, 3, 2, 1, 2)

    def run(**arguments):
        return np.asarray(conv(x, kernel, impl=impl, **arguments))

    groups, two = dict(feature_group_count=2), dict(feature_group_count=np.int64(2))
    for written, plain in (
        (dict(strides=np.int32(2)), dict(strides=(2, 2))),
        (dict(strides=[2, np.int64(1)]), dict(strides=(2, 1))),
        (dict(padding=np.int64(1)), dict(padding=((1, 1), (1, 1)))),
        (dict(padding=(2, 0)), dict(padding=((2, 2), (0, 0)))),
        (dict(padding=[[np.int8(1), 0], 1]), dict(padding=((1, 0), (1, 1)))),
        (dict(strides=np.array([2, 1])), dict(strides=(2, 1))),
        (dict(strides=jnp.array(2)), dict(strides=(2, 2))),
        (dict(padding=np.array([2, 0])), dict(padding=((2, 2), (0, 0)))),
        (dict(padding=np.array([[1, 0], [0, 2]])), dict(padding=((1, 0), (0, 2)))),
        (dict(padding=[1, np.array([0, 2])]), dict(padding=((1, 1), (0, 2)))),
        (dict(kernel_dilation=np.array([2, 1])), dict(kernel_dilation=(2, 1))),
        (dict(input_dilation=jnp.array([1, 2])), dict(input_dilation=(1, 2))),
        (dict(padding="same"), dict(padding="SAME")),
        (dict(padding_mode="circular"), dict(padding_mode="CIRCULAR")),
        (dict(kernel_dilation=np.uint8(2)), dict(kernel_dilation=[2, 2])),
        (dict(input_dilation=np.int64(2)), dict(input_dilation=(2, 2))),
    ):
        np.testing.assert_array_equal(run(**written, **two), run(**plain, **groups))


@ANY_IMPL
def test_python_lists_are_arrays(impl):
    y = conv([[[1.0], [2.0]]], [[[10.0]]], [0.5], impl=impl)
    np.testing.assert_array_equal(y, [[[10.5], [20.5]]])


# --- depthwise ---


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize("rank, multiplier", ((1, 1), (1, 2), (2, 1), (2, 2), (3, 2)))
def test_depthwise_conv_sees_each_channel_alone(rank, multiplier, impl, rng):
    channels = 3
    x = normal(rng, 2, *(6, 5, 4)[:rank], channels)
    kernel = normal(rng, *(3, 2, 2)[:rank], 1, channels * multiplier)
    bias = normal(rng, channels * multiplier)
    windows = dict(padding="SAME", strides=(1, 3, 1)[:rank])
    function = partial(depthwise_conv, impl=impl, **windows)
    g = output_like(rng, function, x, kernel)
    y, gx, gw = value_and_gradients(function, x, kernel, g)
    for c in range(channels):
        one = np.s_[..., c : c + 1]
        own = np.s_[..., c * multiplier : (c + 1) * multiplier]
        loops = expected(x[one], kernel[own], g[own], **windows)
        assert_all_close((y[own], gx[one], gw[own]), loops, "float32")
    assert_close(function(x, kernel, bias), np.asarray(y) + bias, "float32")


# --- transposed ---

TRANSPOSE_PADDINGS = {
    **{name: PADDINGS[name] for name in ("SAME", "SAME_LOWER", "VALID", "mixed")},
    "int": lambda rank: 1,
    "negative": lambda rank: ((-1, 2), (1, -1), (-1, 1))[:rank],
    "large": lambda rank: ((5, 1), (2, 6), (4, 4))[:rank],
}

TRANSPOSE_CASES = all_pairs(
    {
        "rank": (1, 2, 3),
        "padding": tuple(TRANSPOSE_PADDINGS),
        "strides": (1, 2, (3, 4, 1)),
        "size": ((3, 4, 1), (4, 1, 2)),
        "kernel_dilation": (1, (2, 1, 1)),
        "groups": (1, 2),
        "dtype": ("float32", "bfloat16", "float64"),
        "batch": (0, 1, 2),
    }
)


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize("case", TRANSPOSE_CASES)
def test_conv_transpose_is_what_the_loops_give(case, impl, rng):
    rank, dtype, groups = case["rank"], case["dtype"], case["groups"]
    windows = dict(
        strides=of_rank(case["strides"], rank),
        padding=TRANSPOSE_PADDINGS[case["padding"]](rank),
        kernel_dilation=of_rank(case["kernel_dilation"], rank),
    )
    with jax.enable_x64(dtype == "float64"):
        x = normal(rng, case["batch"], *(7, 4, 4)[:rank], 2 * groups, dtype=dtype)
        kernel = normal(rng, *case["size"][:rank], 2, 3 * groups, dtype=dtype)
        function = partial(
            conv_transpose, impl=impl, feature_group_count=groups, **windows
        )
        g = output_like(rng, function, x, kernel)
        actual = value_and_gradients(function, x, kernel, g)
        loops = expected(x, kernel, g, of="conv_transpose", groups=groups, **windows)
        assert_all_close(actual, loops, dtype)


@ANY_IMPL
@pytest.mark.parametrize("transpose_kernel", (False, True))
@pytest.mark.parametrize("padding", ("SAME", "VALID"))
@ANY_RANK
def test_conv_transpose_is_laxs(rank, padding, transpose_kernel, impl, rng):
    strides, dilation = (2, 3, 1)[:rank], (1, 1, 2)[:rank]
    features = (4, 2) if transpose_kernel else (2, 4)
    x = normal(rng, 2, *(3, 4, 5)[:rank], 2)
    for size in ((3, 2, 4), (1, 4, 3)):  # smaller and larger than the strides
        kernel = normal(rng, *size[:rank], *features)
        spatial = "DHW"[-rank:]
        reference = lax.conv_transpose(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
            transpose_kernel=transpose_kernel,
        )
        y = conv_transpose(
            x,
            kernel,
            strides=strides,
            padding=padding,
            kernel_dilation=dilation,
            transpose_kernel=transpose_kernel,
            impl=impl,
        )
        assert_close(y, reference, "float32")


@ANY_IMPL
@pytest.mark.parametrize("groups", (1, 2))
@pytest.mark.parametrize("padding", ("SAME", "SAME_LOWER", "VALID"))
@pytest.mark.parametrize("strides", (1, 3, (2, 1)))
def test_transpose_kernel_is_the_adjoint(strides, padding, groups, impl, rng):
    windows = dict(strides=strides, padding=padding, kernel_dilation=(1, 2))
    kernel, g = normal(rng, 3, 2, 2, 2 * groups), normal(rng, 2, 3, 4, 2 * groups)
    back = conv_transpose(
        g,
        kernel,
        transpose_kernel=True,
        feature_group_count=groups,
        impl=impl,
        **windows,
    )
    x = normal(rng, 2, *back.shape[1:-1], 2 * groups)
    gx, _ = oracle.conv_gradients(x, kernel, g, groups=groups, **windows)
    absolute = oracle.conv_gradients(x, *map(np.abs, (kernel, g)), groups, **windows)
    assert_close(back, gx, "float32", absolute[0])
    forward = partial(conv, feature_group_count=groups, impl=impl, **windows)
    (adjoint,) = jax.linear_transpose(lambda x: forward(x, kernel), x)(g)
    assert_close(back, adjoint, "float32")


@ANY_IMPL
def test_conv_transpose_adds_bias(impl, rng):
    x, kernel, bias = normal(rng, 2, 4, 3), normal(rng, 3, 3, 2), normal(rng, 2)
    plain = conv_transpose(x, kernel, strides=2, impl=impl)
    y = conv_transpose(x, kernel, bias, strides=2, impl=impl)
    assert_close(y, np.asarray(plain) + bias, "float32")


# --- against PyTorch ---


def to_torch(a, axes):
    """A leaf tensor of the array with its axes `axes[0]` moved to `axes[1]`."""
    torch = pytest.importorskip("torch")
    return torch.tensor(np.ascontiguousarray(np.moveaxis(a, *axes)), requires_grad=True)


def from_torch(tensor, axes):
    return np.moveaxis(tensor.detach().numpy(), *reversed(axes))


IMAGE = (-1, 1)  # [N, *spatial, C] to [N, C, *spatial]
WEIGHT = ((-1, -2), (0, 1))  # [*size, I, O] to [O, I, *size]

SIDES = ((1, 2), (0, 1), (2, 0))
CROPS = ((-1, 1), (0, -2), (1, 1))


@pytest.mark.cover(1)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@ANY_IMPL
@pytest.mark.parametrize(
    "rank, padding, mode, torch_mode",
    (
        (1, "SAME", "ZEROS", "constant"),
        (1, SIDES, "CIRCULAR", "circular"),
        (2, "SAME", "ZEROS", "constant"),
        (2, 1, "ZEROS", "constant"),
        (2, CROPS, "ZEROS", "constant"),
        (2, SIDES, "CIRCULAR", "circular"),
        (2, SIDES, "REFLECT", "reflect"),
        (2, SIDES, "EDGE", "replicate"),
        (3, CROPS, "ZEROS", "constant"),
        (3, SIDES, "REFLECT", "reflect"),
    ),
)
def test_conv_is_pytorchs(rank, padding, mode, torch_mode, impl, rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    padding = of_rank(padding, rank)
    strides = 1 if padding == "SAME" else (2, 1, 3)[:rank]
    dilation, groups = (1, 2, 1)[:rank], 2
    x = rng.normal(size=(2, *(6, 7, 8)[:rank], 2 * groups))
    kernel = rng.normal(size=(*(3, 2, 2)[:rank], 2, 3 * groups))
    bias = rng.normal(size=3 * groups)

    x_t, weight = to_torch(x, IMAGE), to_torch(kernel, WEIGHT)
    seen, amount = x_t, "same"
    if padding != "SAME":
        pairs = [(1, 1)] * rank if padding == 1 else padding
        sides = [side for pair in reversed(pairs) for side in pair]
        seen, amount = functional.pad(x_t, sides, mode=torch_mode), 0
    y_t = getattr(functional, f"conv{rank}d")(
        seen,
        weight,
        torch.tensor(bias),
        stride=strides,
        padding=amount,
        dilation=dilation,
        groups=groups,
    )
    g = rng.normal(size=from_torch(y_t, IMAGE).shape)
    y_t.backward(to_torch(g, IMAGE))

    def function(x, kernel):
        return conv(
            x,
            kernel,
            bias,
            strides=strides,
            padding=padding,
            padding_mode=mode,
            kernel_dilation=dilation,
            feature_group_count=groups,
            impl=impl,
        )

    with jax.enable_x64(True):
        y, gx, gw = value_and_gradients(function, x, kernel, g)
    assert_close(y, from_torch(y_t, IMAGE), "float64")
    assert_close(gx, from_torch(x_t.grad, IMAGE), "float64")
    assert_close(gw, from_torch(weight.grad, WEIGHT), "float64")


@pytest.mark.cover(1)
@ANY_IMPL
@pytest.mark.parametrize(
    "rank, stride, padding, output_padding, dilation, groups",
    (
        (1, 2, 1, 1, 1, 2),
        (1, 3, 2, 1, 2, 1),
        (2, 1, 0, 0, 1, 1),
        (2, 2, 1, 1, 1, 2),
        (2, 3, 2, 1, 2, 1),
        (3, 2, 1, 1, 1, 2),
    ),
)
def test_conv_transpose_is_pytorchs(
    rank, stride, padding, output_padding, dilation, groups, impl, rng
):
    torch = pytest.importorskip("torch")
    size = (3, 4, 1)[:rank]
    x = rng.normal(size=(2, *(4, 3, 3)[:rank], 2 * groups))
    kernel = rng.normal(size=(*size, 3, 2 * groups))  # of the conv that is transposed
    bias = rng.normal(size=3 * groups)

    x_t, weight = to_torch(x, IMAGE), to_torch(kernel, WEIGHT)
    y_t = getattr(torch.nn.functional, f"conv_transpose{rank}d")(
        x_t,
        weight,
        torch.tensor(bias),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=groups,
    )
    g = rng.normal(size=from_torch(y_t, IMAGE).shape)
    y_t.backward(to_torch(g, IMAGE))

    # The mapping that the docstring of conv_transpose gives.
    lows = [((k - 1) * dilation + 1) - 1 - padding for k in size]
    pads = [(low, low + output_padding) for low in lows]

    def function(x, kernel):
        return conv_transpose(
            x,
            kernel,
            bias,
            strides=stride,
            padding=pads,
            kernel_dilation=dilation,
            feature_group_count=groups,
            transpose_kernel=True,
            impl=impl,
        )

    with jax.enable_x64(True):
        y, gx, gw = value_and_gradients(function, x, kernel, g)
    assert_close(y, from_torch(y_t, IMAGE), "float64")
    assert_close(gx, from_torch(x_t.grad, IMAGE), "float64")
    assert_close(gw, from_torch(weight.grad, WEIGHT), "float64")
