"""What convolutions refuse: each error names the argument, its value, what is allowed.

It comes before anything is computed or compiled.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jcnn import conv, conv_transpose, depthwise_conv
from tests.helpers.oracle import IMPLS

pytestmark = pytest.mark.usefixtures("strict_promotion")

X = np.ones((2, 7, 6, 4), np.float32)
KERNEL = np.ones((3, 2, 4, 6), np.float32)


@pytest.fixture
def compiled():
    """The programs that are compiled while a test runs."""
    events = []

    def listen(event, seconds, **details):
        if event.endswith("backend_compile_duration"):
            events.append(details)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def refuses(compiled, function, arguments, error, message):
    """Raises at once, and as well where there are only shapes."""
    arguments = {
        name: jnp.asarray(value) if name in ("x", "kernel", "bias") else value
        for name, value in arguments.items()
        if value is not None or name != "bias"
    }
    compiled.clear()
    with pytest.raises(error, match=message):
        function(**arguments)
    assert not compiled
    operands = {name: arguments.pop(name) for name in ("x", "kernel")}
    with pytest.raises(error, match=message):
        jax.eval_shape(partial(function, **arguments), **operands)


def test_compilations_are_noticed(compiled):
    jax.jit(lambda x: 3 * x)(np.ones(17))
    assert compiled


SHAPES = {
    "x of rank 2": (dict(x=X[0, 0]), ValueError, r"x must be .*1 to 3.*\(6, 4\)"),
    "x of rank 6": (
        dict(x=X[None, None]),
        ValueError,
        r"x must be .*1 to 3 spatial.*got shape \(1, 1, 2, 7, 6, 4\)",
    ),
    "kernel of rank 3": (
        dict(kernel=KERNEL[0]),
        ValueError,
        r"kernel must be .*2 spatial dimensions.*got shape \(2, 4, 6\)",
    ),
    "kernel of rank 5": (
        dict(kernel=KERNEL[None]),
        ValueError,
        r"kernel must be .*2 spatial dimensions.*got shape \(1, 3, 2, 4, 6\)",
    ),
    "channels": (
        dict(kernel=KERNEL[:, :, :3]),
        ValueError,
        r"kernel must have 4 input channels.*got kernel \(3, 2, 3, 6\)",
    ),
    "channels of a group": (
        dict(feature_group_count=2),
        ValueError,
        r"kernel must have 2 input channels.*got kernel \(3, 2, 4, 6\)",
    ),
    "groups and channels": (
        dict(feature_group_count=3),
        ValueError,
        "feature_group_count=3 must divide the 4 channels",
    ),
    "groups and features": (
        dict(feature_group_count=2, kernel=KERNEL[:, :, :2, :5]),
        ValueError,
        "feature_group_count=2 must divide .* the 5 features",
    ),
    "kernel without taps": (
        dict(kernel=KERNEL[:, :0]),
        ValueError,
        r"kernel must not be empty.*\(3, 0, 4, 6\)",
    ),
    "bias of other length": (
        dict(bias=np.ones(5, np.float32)),
        ValueError,
        r"bias must be of shape \(6,\), got \(5,\)",
    ),
    "bias of rank 2": (
        dict(bias=np.ones((1, 6), np.float32)),
        ValueError,
        r"bias must be of shape \(6,\), got \(1, 6\)",
    ),
    "scalar bias": (
        dict(bias=np.float32(1)),
        ValueError,
        r"bias must be of shape \(6,\), got \(\)",
    ),
    "window too high": (
        dict(x=X[:, :2], padding="VALID"),
        ValueError,
        r"window of 3 .*larger than the input of 2 padded by \(0, 0\).*dimension 0",
    ),
    "dilated window too wide": (
        dict(kernel_dilation=(1, 6), padding="VALID"),
        ValueError,
        r"window of 7 \(after dilation\).*input of 6.*dimension 1",
    ),
    "image cropped away": (
        dict(padding=-3),
        ValueError,
        r"window of 3 .*input of 7 padded by \(-3, -3\)",
    ),
    "empty image": (
        dict(x=X[:, :0], padding="VALID"),
        ValueError,
        "window of 3 .*larger than the input of 0",
    ),
    "empty image to wrap": (
        dict(x=X[:, :0], padding=2, padding_mode="CIRCULAR"),
        ValueError,
        r"padding_mode='CIRCULAR' .*non-empty.*\(2, 0, 6, 4\)",
    ),
}
DTYPES = {
    "integer image": (dict(x=X.astype(np.uint8)), TypeError, "x must be .*uint8"),
    "boolean image": (dict(x=X > 0), TypeError, "x must be floating point, got bool"),
    "integer kernel": (
        dict(kernel=KERNEL.astype(np.int32)),
        TypeError,
        "kernel must be of x's dtype float32, got int32",
    ),
    "short kernel": (
        dict(kernel=KERNEL.astype(jnp.bfloat16)),
        TypeError,
        "kernel must be of x's dtype float32, got bfloat16",
    ),
    "short image": (
        dict(x=X.astype(np.float16)),
        TypeError,
        "kernel must be of x's dtype float16, got float32",
    ),
    "shorter result": (
        dict(preferred_element_type=jnp.bfloat16),
        (TypeError, ValueError),
        "preferred_element_type.*narrower",
    ),
    "integer result": (
        dict(preferred_element_type=jnp.int32),
        (TypeError, ValueError),
        "preferred_element_type",
    ),
    "result wider than there is": (
        dict(preferred_element_type=jnp.float64),
        ValueError,
        "preferred_element_type may be float64 only where jax_enable_x64 is set",
    ),
    "result that is no dtype": (
        dict(preferred_element_type="half?"),
        TypeError,
        r"preferred_element_type must be None or a dtype, got 'half\?'",
    ),
}
SIZES = {
    f"{name}={value!r}": ({name: value}, error, f"{name} must be {message}")
    for name in ("strides", "kernel_dilation", "input_dilation")
    for value, error, message in (
        (0, ValueError, "at least 1, got 0"),
        (-2, ValueError, "at least 1, got -2"),
        ((1, 0), ValueError, "at least 1, got 0"),
        (1.0, TypeError, "an integer, got 1.0"),
        ((2, 1.5), TypeError, "an integer, got 1.5"),
        (True, TypeError, "an integer, got True"),
        ((1, False), TypeError, "an integer, got False"),
        (None, TypeError, "an integer, got None"),
        ("2", (TypeError, ValueError), ".*got '2'"),
        ((2,), ValueError, r".* 2 ints, got \(2,\)"),
        (np.array([2]), ValueError, r".* 2 ints, got array\(\[2\]\)"),
        (np.array([2.0, 1.0]), TypeError, r"an integer, got np.float64\(2.0\)"),
        (np.array([[2, 1]]), ValueError, r".* 2 ints, got array\(\[\[2, 1\]\]\)"),
        ([1, 1, 1], ValueError, r".* 2 ints, got \[1, 1, 1\]"),
    )
}
GROUPS = {
    f"groups={value!r}": (
        dict(feature_group_count=value),
        error,
        f"feature_group_count must be {message}",
    )
    for value, error, message in (
        (0, ValueError, "at least 1, got 0"),
        (-1, ValueError, "at least 1, got -1"),
        (2.0, TypeError, "an integer, got 2.0"),
        (True, TypeError, "an integer, got True"),
        ((1,), TypeError, r"an integer, got \(1,\)"),
    )
}
PADDINGS = {
    f"padding={value!r}": (dict(padding=value), error, f"padding must be {message}")
    for value, error, message in (
        ("FULL", ValueError, ".*SAME.*SAME_LOWER.*VALID.*got 'FULL'"),
        ("", ValueError, ".*SAME.*got ''"),
        ((1,), ValueError, r".*2 spatial dimensions, got \(1,\)"),
        ((1, 1, 1), ValueError, r".*2 spatial dimensions, got \(1, 1, 1\)"),
        (((1, 2),), ValueError, r".*2 spatial dimensions, got \(\(1, 2\),\)"),
        (((1, 2), (1,)), ValueError, r".*pair.*got \(\(1, 2\), \(1,\)\)"),
        (((1, 2), (1, 2, 3)), ValueError, r".*pair.*\(1, 2, 3\)"),
        (((1, 2), ()), ValueError, r".*pair.*\(\)"),
        (("SAME", "SAME"), ValueError, r".*pair.*\('SAME', 'SAME'\)"),
        ((((1, 2), (1, 2)), (1, 2)), (TypeError, ValueError), r".*got .*\(1, 2\)"),
        (1.0, TypeError, ".*SAME.*VALID.*got 1.0"),
        ((1, 2.5), TypeError, r".*SAME.*VALID.*got 2.5 in \(1, 2.5\)"),
        (((0, 1), (1, True)), TypeError, ".*got True"),
        (True, TypeError, ".*got True"),
        (None, TypeError, ".*SAME.*SAME_LOWER.*VALID.*got None"),
        (np.array([1.0, 2.0]), TypeError, ".*got np.float64"),
        (np.array([1, 2, 3]), ValueError, r".*2 spatial dimensions, got array"),
        (np.array([[1, 2, 3]] * 2), ValueError, r".*pair.*got array"),
    )
}
NAMES = {
    "impl=fft": (dict(impl="fft"), ValueError, "impl must be .*lax, im2col.*'fft'"),
    "impl=None": (dict(impl=None), ValueError, "impl must be .*got None"),
    "impl=LAX": (dict(impl="LAX"), ValueError, "impl must be .*got 'LAX'"),
    "mode=WRAP": (
        dict(padding_mode="WRAP"),
        ValueError,
        "padding_mode must be .*ZEROS, CIRCULAR, REFLECT, EDGE, got 'WRAP'",
    ),
    "mode=0": (dict(padding_mode=0), ValueError, "padding_mode must be .*got 0"),
    "mode=list": (
        dict(padding_mode=["EDGE"]),
        ValueError,
        r"padding_mode must be .*EDGE, got \['EDGE'\]",
    ),
    "wrapped and dilated": (
        dict(padding_mode="CIRCULAR", input_dilation=(1, 2)),
        ValueError,
        r"padding_mode='CIRCULAR' needs input_dilation 1, got \(1, 2\)",
    ),
    **{
        f"impl={name}": (
            dict(impl=name, strides=2),
            ValueError,
            f"impl='{name}' does not support this convolution: it .*{why}",
        )
        for name, why in (
            ("matmul", "windows that do not overlap"),
            ("winograd", r"strides 1, not \(2, 2\)"),
            ("depthwise", "not 1 for 4 channels"),
            ("grouped", "more than 1 group"),
            ("polyphase", "only the input gradient"),
        )
    },
    # An error that is found late must not find padding done already.
    "impl=fft with a mode": (
        dict(impl="fft", padding_mode="EDGE", padding=3),
        ValueError,
        "impl must be",
    ),
}
PRECISIONS = {
    f"precision={value}": (
        dict(precision=value),
        ValueError,
        f"precision must be None, a jax.lax.Precision .*got {re.escape(repr(value))}",
    )
    for value in (
        *("exact", 1.5, 0, True, (), ("high",), ("high", None), ("high",) * 3),
        *(("high", "exact"), lax.DotAlgorithmPreset.F32_F32_F32, "F32_F32_F32"),
        (lax.DotAlgorithmPreset.DEFAULT,) * 2,
    )
}
BAD = {**SHAPES, **DTYPES, **SIZES, **GROUPS, **PADDINGS, **NAMES, **PRECISIONS}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", BAD)
def test_conv_refuses(name, impl, compiled):
    bad, error, message = BAD[name]
    arguments = {"x": X, "kernel": KERNEL, "impl": impl, **bad}
    refuses(compiled, conv, arguments, error, message)


def test_what_is_refused_is_refused_for_one_reason():
    y = conv(X, KERNEL, np.ones(6, np.float32), feature_group_count=1)
    assert y.shape == (2, 7, 6, 6)
    grouped = conv(X, KERNEL[:, :, :2], feature_group_count=2)
    assert grouped.shape == y.shape


TRANSPOSE = {
    **{
        name: BAD[name]
        for name in (
            *("x of rank 2", "kernel of rank 3", "channels", "kernel without taps"),
            *("groups and channels", "bias of other length", "integer image"),
            *("short kernel", "groups=0", "groups=2.0", "impl=fft"),
            *(name for name in SIZES if not name.startswith("input")),
            *PADDINGS,
        )
    },
    "groups of the transposed kernel": (
        dict(transpose_kernel=True, feature_group_count=4),
        ValueError,
        r"feature_group_count=4 must divide.*kernel \(3, 2, 4, 6\)",
    ),
    "channels of the transposed kernel": (
        dict(transpose_kernel=True),  # x would need 6 channels
        ValueError,
        r"kernel .*\(3, 2, 4, 6\)",
    ),
    "groups=0 of the transposed kernel": (
        dict(transpose_kernel=True, feature_group_count=0),
        ValueError,
        "feature_group_count must be at least 1, got 0",
    ),
    "cropped away": (dict(padding=-3), ValueError, r"padded by \(-3, -3\)"),
}


@pytest.mark.parametrize("name", TRANSPOSE)
def test_conv_transpose_refuses(name, compiled):
    bad, error, message = TRANSPOSE[name]
    arguments = {"x": X, "kernel": KERNEL, **bad}
    refuses(compiled, conv_transpose, arguments, error, message)


DEPTHWISE = {
    "two inputs": (
        dict(kernel=KERNEL[:, :, :2, :4]),
        ValueError,
        r"kernel must have 1 input channels.*\(3, 2, 2, 4\)",
    ),
    "features": (
        dict(kernel=KERNEL[:, :, :1]),
        ValueError,
        r"must divide the 4 channels of x and the 6 features",
    ),
    "x of rank 2": (dict(x=X[0, 0]), ValueError, r"x must be .*\(6, 4\)"),
    "integer image": DTYPES["integer image"],
    "strides": (dict(strides=0), ValueError, "strides must be at least 1, got 0"),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_conv_refuses(name, compiled):
    bad, error, message = DEPTHWISE[name]
    arguments = {"x": X, "kernel": KERNEL[:, :, :1, :4], **bad}
    refuses(compiled, depthwise_conv, arguments, error, message)
