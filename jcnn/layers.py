"""Layers: pairs of pure functions, each a thin wrapper of an array function.

`init(key, x)` creates parameters for inputs like x, an array or a
`jax.ShapeDtypeStruct`. `apply(params, state, x, train=…, key=…)` checks their names and
shapes, and returns the output and the new state. Parameters are kept in `param_dtype`
and used in the dtype of x.
"""

from collections.abc import Sequence
from functools import partial

import jax  # noqa: F401  # for the examples
import jax.numpy as jnp
from jax.nn.initializers import ones, zeros
from jax.typing import ArrayLike, DTypeLike

from . import _dtypes
from ._conv import conv, conv_transpose, depthwise_conv
from ._dense import dense
from ._dropout import check_rate, dropout
from ._layer import Initializer as Initializer
from ._layer import Layer as Layer
from ._layer import Params as Params
from ._layer import State as State
from ._layer import (
    check_names_and_shapes,
    conv_kernel,
    dense_kernel,
    depthwise_kernel,
    init_nothing,
    init_parameters,
    uncast_parametric,
    with_kernel,
)
from ._layer import child_key as child_key
from ._layer import parametric as parametric
from ._layer import stateless as stateless
from ._shapes import Padding, flag, integer, number
from .initializers import he_normal as he_normal
from .norm import batch_norm, check_epsilon, group_norm, layer_norm
from .pool import avg_pool, max_pool


def Conv(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str = "ZEROS",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
    param_dtype: DTypeLike = jnp.float32,
    impl: str = "auto",
) -> Layer:
    """Return a layer of `jcnn.conv`.

    The kernel is [*size, C // feature_group_count, features], the bias [features].

    An int as kernel_size applies to every spatial dimension of x.

    >>> params, _ = Conv(8, 3).init(jax.random.key(0), jnp.zeros((1, 5, 5, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (8,), 'kernel': (3, 3, 2, 8)}
    """
    features = integer("features", features, minimum=1)
    groups = integer("feature_group_count", feature_group_count, minimum=1)
    if features % groups:
        raise ValueError(
            f"feature_group_count={groups} must divide the {features} features"
        )
    function = partial(
        conv,
        strides=strides,
        padding=padding,
        padding_mode=padding_mode,
        kernel_dilation=kernel_dilation,
        feature_group_count=groups,
        impl=impl,
    )
    shape = partial(
        conv_kernel, kernel_size=kernel_size, groups=groups, features=features
    )
    inits = kernel_init, bias_init if use_bias else None
    return with_kernel(function, shape, inits, param_dtype)


def ConvTranspose(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    use_bias: bool = True,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
    param_dtype: DTypeLike = jnp.float32,
    impl: str = "auto",
) -> Layer:
    """Return a layer of `jcnn.conv_transpose`, with kernel [*size, C, features].

    >>> up = ConvTranspose(3, 4, strides=2)
    >>> params, _ = up.init(jax.random.key(0), jnp.zeros((1, 5, 5, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (3,), 'kernel': (4, 4, 2, 3)}
    """
    features = integer("features", features, minimum=1)
    function = partial(
        conv_transpose,
        strides=strides,
        padding=padding,
        kernel_dilation=kernel_dilation,
        impl=impl,
    )
    shape = partial(conv_kernel, kernel_size=kernel_size, groups=1, features=features)
    inits = kernel_init, bias_init if use_bias else None
    return with_kernel(function, shape, inits, param_dtype)


def DepthwiseConv(
    multiplier: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str = "ZEROS",
    kernel_dilation: int | Sequence[int] = 1,
    use_bias: bool = True,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
    param_dtype: DTypeLike = jnp.float32,
    impl: str = "auto",
) -> Layer:
    """Return a layer of `jcnn.depthwise_conv`.

    The kernel is [*size, 1, C * multiplier], the bias [C * multiplier].

    >>> params, _ = DepthwiseConv(2, 3).init(jax.random.key(0), jnp.zeros((1, 5, 5, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (8,), 'kernel': (3, 3, 1, 8)}
    """
    multiplier = integer("multiplier", multiplier, minimum=1)
    function = partial(
        depthwise_conv,
        strides=strides,
        padding=padding,
        padding_mode=padding_mode,
        kernel_dilation=kernel_dilation,
        impl=impl,
    )
    shape = partial(depthwise_kernel, kernel_size=kernel_size, multiplier=multiplier)
    inits = kernel_init, bias_init if use_bias else None
    return with_kernel(function, shape, inits, param_dtype)


def Dense(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
    param_dtype: DTypeLike = jnp.float32,
    impl: str = "auto",
) -> Layer:
    """Return a layer of `jcnn.dense` with kernel [C, features] and bias [features].

    It takes [N, C], or sequences [N, T, C]. Images are rejected, since usually a
    `jcnn.flatten` was forgotten; a dense layer at every pixel is `Conv(features, 1)`.

    >>> params, _ = Dense(3).init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (3,), 'kernel': (2, 3)}
    """
    features = integer("features", features, minimum=1)
    shape = partial(dense_kernel, features=features)
    inits = kernel_init, bias_init if use_bias else None
    return with_kernel(partial(dense, impl=impl), shape, inits, param_dtype)


def BatchNorm(
    *,
    momentum: ArrayLike = 0.9,
    epsilon: ArrayLike = 1e-5,
    axis_name: str | Sequence[str] | None = None,
    use_scale: bool = True,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    param_dtype: DTypeLike = jnp.float32,
) -> Layer:
    """Return a layer of `jcnn.batch_norm`, with float32 running statistics as state.

    >>> _, state = BatchNorm().init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> state
    {'mean': Array([0., 0.], dtype=float32), 'var': Array([1., 1.], dtype=float32)}
    """
    init = scale_init if flag("use_scale", use_scale) else None
    parameters = partial(_scale_and_bias, scale_init=init, bias_init=bias_init)
    function = partial(
        batch_norm,
        scale=None,
        momentum=number("momentum", momentum, 0, 1),
        epsilon=check_epsilon(epsilon),
        axis_name=axis_name,
    )
    return Layer(
        partial(_init_batch_norm, parameters, _dtypes.param_dtype(param_dtype)),
        partial(_apply_batch_norm, parameters, function),
    )


def LayerNorm(
    *, epsilon: ArrayLike = 1e-5, param_dtype: DTypeLike = jnp.float32
) -> Layer:
    """Return a layer of `jcnn.layer_norm` over the last axis, with scale and bias [C].

    >>> params, _ = LayerNorm().init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (2,), 'scale': (2,)}
    """
    function = partial(layer_norm, epsilon=check_epsilon(epsilon))
    return uncast_parametric(_scale_and_bias, function, param_dtype)


def GroupNorm(
    num_groups: int,
    *,
    epsilon: ArrayLike = 1e-5,
    param_dtype: DTypeLike = jnp.float32,
) -> Layer:
    """Return a layer of `jcnn.group_norm` with scale and bias [C].

    >>> params, _ = GroupNorm(2).init(jax.random.key(0), jnp.zeros((1, 3, 3, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (4,), 'scale': (4,)}
    """
    groups = integer("num_groups", num_groups, minimum=1)
    function = partial(group_norm, num_groups=groups, epsilon=check_epsilon(epsilon))
    return uncast_parametric(_scale_and_bias, function, param_dtype)


def Dropout(rate: ArrayLike) -> Layer:
    """Return a layer of `jcnn.dropout` in training, which needs a key.

    >>> y, _ = Dropout(0.5).apply({}, {}, jnp.ones(3))
    >>> y
    Array([1., 1., 1.], dtype=float32)
    """
    return Layer(init_nothing, partial(_apply_dropout, check_rate(rate)))


def MaxPool(
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
) -> Layer:
    """Return a layer of `jcnn.max_pool`.

    >>> y, _ = MaxPool(2).apply({}, {}, jnp.array([1.0, 2.0]).reshape(1, 2, 1))
    >>> y.ravel()
    Array([2.], dtype=float32)
    """
    function = partial(
        max_pool,
        window_shape=window_shape,
        strides=strides,
        padding=padding,
        ceil_mode=ceil_mode,
    )
    return stateless(function)


def AvgPool(
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Layer:
    """Return a layer of `jcnn.avg_pool`.

    >>> y, _ = AvgPool(2).apply({}, {}, jnp.array([1.0, 2.0]).reshape(1, 2, 1))
    >>> y.ravel()
    Array([1.5], dtype=float32)
    """
    function = partial(
        avg_pool,
        window_shape=window_shape,
        strides=strides,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )
    return stateless(function)


def _apply_dropout(rate, params, state, x, *, train=False, key=None):
    if not flag("train", train):
        return x, state
    if key is None:
        raise ValueError("key must be given to a dropout layer with train=True")
    return dropout(x, rate, key), state


def _init_batch_norm(parameters, param_dtype, key, x):
    params, _ = init_parameters(parameters, param_dtype, key, x)
    mean, var = (
        jnp.zeros(x.shape[-1:], jnp.float32),
        jnp.ones(x.shape[-1:], jnp.float32),
    )
    return params, {"mean": mean, "var": var}


def _apply_batch_norm(parameters, function, params, state, x, *, train=False, key=None):
    check_names_and_shapes("params", params, parameters(x))
    statistic = (None, x.shape[-1:])
    check_names_and_shapes("state", state, {"mean": statistic, "var": statistic})
    y, mean, var = function(x, **params, **state, train=train)
    return y, {"mean": mean, "var": var}


def _scale_and_bias(x, *, scale_init=ones, bias_init=zeros):
    made = {"scale": scale_init, "bias": bias_init}
    return {name: (init, x.shape[-1:]) for name, init in made.items() if init}
