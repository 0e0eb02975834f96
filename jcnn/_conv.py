"""Convolution, transposed and depthwise convolution of arrays, channels last."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ._dense import add_bias, check_bias
from ._dtypes import precisions, result_dtype, same, wide
from ._shapes import (
    Padding,
    dilated,
    flag,
    image,
    integer,
    output_size,
    pad_pairs,
    sizes,
)
from .engine.eager import at_once
from .engine.general import convolve_general
from .engine.lax_arguments import Convolution, channels_last
from .engine.planner import check_impl
from .engine.transposed import transposed_kernel

_MODES = {"ZEROS": None, "CIRCULAR": "wrap", "REFLECT": "reflect", "EDGE": "edge"}


def conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str = "ZEROS",
    kernel_dilation: int | Sequence[int] = 1,
    input_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    impl: str = "auto",
) -> jax.Array:
    """Compute a convolution (cross-correlation) in 1 to 3 spatial dimensions.

    y[n, o, f] = bias[f] + sum over k, c of x[n, o*s + k*d - low, c] kernel[k, c, f]

    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016),
    sections 2 to 5, has pictures of every argument.

    `jax.checkpoint` policies that save products (`dots_saveable`) treat it like
    `lax.conv_general_dilated`.

    Args:
        x: [N, *spatial, C], floating point.
        kernel: [*size, C // feature_group_count, O], of x's dtype.
        bias: [O] or None.
        strides: Window strides; one int or one per spatial dimension.
        padding: "SAME" (ceil(n / stride) outputs, an odd pixel behind), "SAME_LOWER"
            (an odd pixel before), "VALID" (none), an int for every side, or for each
            spatial dimension an int or a (low, high) pair; a negative one crops.
        padding_mode: Values outside x: "ZEROS", "CIRCULAR" (the other side),
            "REFLECT" (mirrored, without the edge) or "EDGE" (the edge repeated).
        kernel_dilation: Dilation of the kernel ("atrous").
        input_dilation: Dilation of x, with zeros between pixels.
        feature_group_count: Groups of channels and features; a group of features sees
            its own group of channels only.
        precision: Of the products: a `jax.lax.Precision` or its name, or a pair for x
            and kernel; None is JAX's `default_matmul_precision`.
        preferred_element_type: Dtype of the result; None is x's.
        impl: "auto" for the fastest algorithm on a CPU and lax's on other platforms;
            "lax" for `lax.conv_general_dilated` everywhere; or another algorithm by
            name ("im2col", "winograd", …: `jcnn/engine/algorithms/`).

    Returns:
        [N, *out, O], out = floor((n + low + high - window) / stride) + 1.

    Raises:
        ValueError: If shapes do not fit one another, the window is larger than the
            padded input, an argument is not listed above, or the algorithm named by
            impl does not support this convolution.
        TypeError: If x is not floating point, or the dtypes differ.

    >>> edge = jnp.array([1.0, -1.0]).reshape(2, 1, 1)
    >>> conv(jnp.array([0.0, 0, 5, 5]).reshape(1, 4, 1), edge, padding="VALID").ravel()
    Array([ 0., -5.,  0.], dtype=float32)
    """
    x, kernel, rank = _operands(x, kernel)
    strides = sizes("strides", strides, rank)
    kernel_dilation = sizes("kernel_dilation", kernel_dilation, rank)
    input_dilation = sizes("input_dilation", input_dilation, rank)
    _check_groups(x, kernel, feature_group_count)
    bias = check_bias(bias, kernel, x)
    check_impl(impl)
    precision = precisions(precision)
    dtype = result_dtype(preferred_element_type, x)
    window = dilated(kernel.shape[:-2], kernel_dilation)
    size = dilated(x.shape[1:-1], input_dilation)
    pads = pad_pairs(padding, size, window, strides)
    output_size(size, window, strides, pads)
    mode = _mode(padding_mode)
    convolution = Convolution(
        strides,
        pads,
        input_dilation,
        kernel_dilation,
        channels_last(rank),
        feature_group_count=feature_group_count,
        precision=precision,
        preferred_element_type=dtype,
    )
    return _biased(x, kernel, bias, convolution=convolution, mode=mode, impl=impl)


@at_once
def _biased(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    *,
    convolution: Convolution,
    mode: str,
    impl: str,
) -> jax.Array:
    if mode != "ZEROS":
        x, convolution = _pad_by_mode(x, convolution, mode)
    return add_bias(convolve_general(x, kernel, convolution, impl), bias)


def depthwise_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str = "ZEROS",
    kernel_dilation: int | Sequence[int] = 1,
    input_dilation: int | Sequence[int] = 1,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    impl: str = "auto",
) -> jax.Array:
    """Convolve every channel with its own kernels: `conv` in C groups.

    Args:
        x: [N, *spatial, C].
        kernel: [*size, 1, C * M]: features c*M to c*M + M - 1 see channel c.
        bias: [C * M] or None.
        strides, padding, padding_mode, kernel_dilation, input_dilation: As for `conv`.
        precision, preferred_element_type, impl: As for `conv`.

    Returns:
        [N, *out, C * M].

    Raises:
        ValueError, TypeError: As `conv`.

    >>> x = jnp.array([[1.0, 10.0], [2.0, 20.0]])[None]
    >>> depthwise_conv(x, jnp.ones((2, 1, 2)), padding="VALID")
    Array([[[ 3., 30.]]], dtype=float32)
    """
    x, _ = image(x)
    return conv(
        x,
        kernel,
        bias,
        strides=strides,
        padding=padding,
        padding_mode=padding_mode,
        kernel_dilation=kernel_dilation,
        input_dilation=input_dilation,
        feature_group_count=x.shape[-1],
        precision=precision,
        preferred_element_type=preferred_element_type,
        impl=impl,
    )


def conv_transpose(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    impl: str = "auto",
) -> jax.Array:
    """Compute a transposed ("fractionally strided") convolution: upsample x.

    As `lax.conv_transpose`: the convolution of x with stride - 1 zeros put between
    neighbours. With `transpose_kernel` it is the input gradient of the `conv` that has
    this kernel, strides and "SAME" or "VALID" padding.

    Args:
        x: [N, *spatial, C].
        kernel: [*size, C // feature_group_count, O]; with `transpose_kernel`
            [*size, O // feature_group_count, C], spatially flipped.
        bias: [O] or None.
        strides: Upsampling factors.
        padding: "SAME" (n * stride outputs), "SAME_LOWER", "VALID", or the padding of
            the dilated x: an int, ints or pairs. PyTorch's `padding=p` is
            window - 1 - p here, its `output_padding` is added to the high side.
        kernel_dilation, feature_group_count, precision, preferred_element_type, impl:
            As for `conv`.

    Returns:
        [N, *out, O].

    Raises:
        ValueError, TypeError: As `conv`.

    >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
    >>> conv_transpose(x, jnp.ones((2, 1, 1)), strides=2).ravel()
    Array([1., 1., 2., 2.], dtype=float32)
    """
    x, kernel, rank = _operands(x, kernel)
    strides = sizes("strides", strides, rank)
    dilation = sizes("kernel_dilation", kernel_dilation, rank)
    if flag("transpose_kernel", transpose_kernel):
        groups = integer("feature_group_count", feature_group_count, minimum=1)
        if kernel.shape[-1] % groups:
            raise ValueError(
                f"feature_group_count={groups} must divide the kernel's last "
                f"axis, got kernel {kernel.shape}"
            )
        if kernel.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"kernel must have x's {x.shape[-1]} channels as its last axis with "
                f"transpose_kernel, got kernel {kernel.shape}"
            )
        kernel = transposed_kernel(kernel, groups)
    window = dilated(kernel.shape[:-2], dilation)
    return conv(
        x,
        kernel,
        bias,
        padding=_transposed_pads(padding, window, strides),
        kernel_dilation=dilation,
        input_dilation=strides,
        feature_group_count=feature_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        impl=impl,
    )


def _operands(x: ArrayLike, kernel: ArrayLike) -> tuple[jax.Array, jax.Array, int]:
    (x, rank), kernel = image(x), jnp.asarray(kernel)
    if kernel.ndim != x.ndim:
        raise ValueError(
            f"kernel must be [*size, C // feature_group_count, O] with {rank} spatial "
            f"dimensions as x {x.shape} has, got shape {kernel.shape}"
        )
    kernel = same("kernel", kernel, x)
    if 0 in kernel.shape[:-2]:
        raise ValueError(f"kernel must not be empty in space, got {kernel.shape}")
    return x, kernel, rank


def _check_groups(x: jax.Array, kernel: jax.Array, feature_group_count: int) -> None:
    groups = integer("feature_group_count", feature_group_count, minimum=1)
    channels, inputs, features = x.shape[-1], *kernel.shape[-2:]
    if channels % groups or features % groups:
        raise ValueError(
            f"feature_group_count={groups} must divide the {channels} channels of x "
            f"and the {features} features of kernel"
        )
    if inputs * groups != channels:
        raise ValueError(
            f"kernel must have {channels // groups} input channels (x has {channels} "
            f"in {groups} groups), got kernel {kernel.shape}"
        )


def _mode(padding_mode: Any) -> str:
    mode = padding_mode.upper() if isinstance(padding_mode, str) else None
    if mode not in _MODES:
        raise ValueError(
            f"padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}"
        )
    return mode


def _pad_by_mode(
    x: jax.Array, convolution: Convolution, mode: str
) -> tuple[jax.Array, Convolution]:
    """Return x padded by a mode other than zeros, and the convolution of that."""
    dilation, pads = convolution.lhs_dilation, convolution.padding
    if any(d > 1 for d in dilation):
        raise ValueError(
            f"padding_mode={mode!r} needs input_dilation 1, got {dilation}"
        )
    if 0 in x.shape[1:-1]:
        raise ValueError(
            f"padding_mode={mode!r} needs a non-empty image, got x {x.shape}"
        )
    around = [(max(low, 0), max(high, 0)) for low, high in pads]
    wider = x.astype(wide(x.dtype))  # edges are repeated: their gradients are sums
    padded = jnp.pad(wider, ((0, 0), *around, (0, 0)), mode=_MODES[mode])
    crop = tuple((min(low, 0), min(high, 0)) for low, high in pads)
    return padded.astype(x.dtype), convolution._replace(padding=crop)


def _transposed_pads(
    padding: Padding, window: tuple[int, ...], strides: tuple[int, ...]
) -> Padding:
    """Return the padding of the dilated input that inverts that of `conv`."""
    if not isinstance(padding, str):
        return padding
    # The convolution to be inverted sees n * stride pixels, a multiple of its stride.
    inverse = pad_pairs(padding, strides, window, strides)
    return tuple(
        (k - 1 - low, k - 1 - high + max(s - k, 0))  # and pixels that no window saw
        for k, s, (low, high) in zip(window, strides, inverse)
    )
