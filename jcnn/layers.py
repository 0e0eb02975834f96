"""Layers: pairs of pure functions, each a thin storey over an array function.

A layer has no parameters in it. `init(key, x)` makes them for inputs like x, an array
or a `jax.ShapeDtypeStruct`; `apply(params, state, x, train=…, key=…)` uses them and
returns the output and the new state. Parameters are kept in `param_dtype` and cast to
x's dtype when they are used, so the dtype of the images is the dtype of the arithmetic.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import jax
import jax.numpy as jnp
from jax.nn.initializers import he_normal as _he_normal
from jax.nn.initializers import ones, zeros
from jax.typing import DTypeLike

from ._shapes import Padding, fraction, integer, sizes, spatial_rank
from .conv import conv, conv_transpose, depthwise_conv
from .dense import dense
from .dropout import check_rate, dropout
from .engine.choices import Impl
from .norm import batch_norm, group_norm, layer_norm
from .pool import avg_pool, max_pool

Params = dict[str, Any]
State = dict[str, Any]
Initializer = Callable[[jax.Array, tuple[int, ...], DTypeLike], jax.Array]

he_normal: Initializer = _he_normal()


class Init(Protocol):
    def __call__(self, key: jax.Array, x: Any, /) -> tuple[Params, State]: ...


class Apply(Protocol):
    def __call__(
        self,
        params: Params,
        state: State,
        x: Any,
        /,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[Any, State]: ...


class Layer(NamedTuple):
    """Two pure functions.

    `init(key, x) -> (params, state)`
    `apply(params, state, x, *, train=False, key=None) -> (y, state)`
    """

    init: Init
    apply: Apply


def stateless(function: Callable[[Any], Any]) -> Layer:
    """The layer without parameters that applies a function of one array.

    `serial` and its kin take plain functions and do this themselves.

    >>> stateless(jnp.tanh).init(jax.random.key(0), jnp.zeros(1))
    ({}, {})
    """

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, train=False, key=None):
        return function(x), state

    return Layer(init, apply)


def parametric(
    parameters: Callable[[Any], Mapping[str, tuple[Initializer, tuple[int, ...]]]],
    function: Callable[..., jax.Array],
    param_dtype: DTypeLike = jnp.float32,
) -> Layer:
    """The layer `function(x, **params)`.

    `parameters(x)` gives for each name an initialiser and a shape. The key of each
    depends on its name only.

    >>> scale = parametric(lambda x: {"scale": (ones, x.shape[-1:])}, jnp.multiply)
    """

    def init(key, x):
        params = {
            name: initializer(child_key(key, name), shape, param_dtype)
            for name, (initializer, shape) in parameters(x).items()
        }
        return params, {}

    def apply(params, state, x, *, train=False, key=None):
        return function(x, **_cast(params, x.dtype)), state

    return Layer(init, apply)


def child_key(key: jax.Array, name: str) -> jax.Array:
    """The key of the part called `name`: no other part's name changes it."""
    return jax.random.fold_in(key, crc32(name.encode()))


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
    impl: Impl = "auto",
) -> Layer:
    """`jcnn.conv` with kernel [*size, C // feature_group_count, features] and bias.

    An int as kernel_size holds for every spatial dimension of x.

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

    def parameters(x):
        size = sizes("kernel_size", kernel_size, spatial_rank(x))
        channels = x.shape[-1]
        if channels % groups:
            raise ValueError(
                f"feature_group_count={groups} must divide the {channels} channels of x"
            )
        shape = (*size, channels // groups, features)
        return _kernel_and_bias(kernel_init, shape, bias_init if use_bias else None)

    function = partial(
        conv,
        strides=strides,
        padding=padding,
        padding_mode=padding_mode,
        kernel_dilation=kernel_dilation,
        feature_group_count=groups,
        impl=impl,
    )
    return parametric(parameters, function, param_dtype)


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
    impl: Impl = "auto",
) -> Layer:
    """`jcnn.conv_transpose` with kernel [*size, C, features] and bias.

    >>> up = ConvTranspose(3, 4, strides=2)
    >>> params, _ = up.init(jax.random.key(0), jnp.zeros((1, 5, 5, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (3,), 'kernel': (4, 4, 2, 3)}
    """

    features = integer("features", features, minimum=1)

    def parameters(x):
        size = sizes("kernel_size", kernel_size, spatial_rank(x))
        shape = (*size, x.shape[-1], features)
        return _kernel_and_bias(kernel_init, shape, bias_init if use_bias else None)

    function = partial(
        conv_transpose,
        strides=strides,
        padding=padding,
        kernel_dilation=kernel_dilation,
        impl=impl,
    )
    return parametric(parameters, function, param_dtype)


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
    impl: Impl = "auto",
) -> Layer:
    """`jcnn.depthwise_conv` with kernel [*size, 1, C * multiplier] and bias.

    >>> params, _ = DepthwiseConv(2, 3).init(jax.random.key(0), jnp.zeros((1, 5, 5, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (8,), 'kernel': (3, 3, 1, 8)}
    """

    multiplier = integer("multiplier", multiplier, minimum=1)

    def parameters(x):
        size = sizes("kernel_size", kernel_size, spatial_rank(x))
        shape = (*size, 1, x.shape[-1] * multiplier)
        return _kernel_and_bias(kernel_init, shape, bias_init if use_bias else None)

    function = partial(
        depthwise_conv,
        strides=strides,
        padding=padding,
        padding_mode=padding_mode,
        kernel_dilation=kernel_dilation,
        impl=impl,
    )
    return parametric(parameters, function, param_dtype)


def Dense(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
    param_dtype: DTypeLike = jnp.float32,
) -> Layer:
    """`jcnn.dense` with kernel [C, features] and bias [features].

    >>> params, _ = Dense(3).init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (3,), 'kernel': (2, 3)}
    """

    features = integer("features", features, minimum=1)

    def parameters(x):
        shape = (x.shape[-1], features)
        return _kernel_and_bias(kernel_init, shape, bias_init if use_bias else None)

    return parametric(parameters, dense, param_dtype)


def BatchNorm(
    *,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    axis_name: str | Sequence[str] | None = None,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    param_dtype: DTypeLike = jnp.float32,
) -> Layer:
    """`jcnn.batch_norm`; the running statistics are its state, always float32.

    >>> _, state = BatchNorm().init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> state
    {'mean': Array([0., 0.], dtype=float32), 'var': Array([1., 1.], dtype=float32)}
    """
    fraction("momentum", momentum)

    def init(key, x):
        channels = x.shape[-1:]
        params = {
            "scale": scale_init(child_key(key, "scale"), channels, param_dtype),
            "bias": bias_init(child_key(key, "bias"), channels, param_dtype),
        }
        return params, {
            "mean": jnp.zeros(channels, jnp.float32),
            "var": jnp.ones(channels, jnp.float32),
        }

    def apply(params, state, x, *, train=False, key=None):
        y, mean, var = batch_norm(
            x,
            **params,
            **state,
            train=train,
            momentum=momentum,
            epsilon=epsilon,
            axis_name=axis_name,
        )
        return y, {"mean": mean, "var": var}

    return Layer(init, apply)


def LayerNorm(*, epsilon: float = 1e-5, param_dtype: DTypeLike = jnp.float32) -> Layer:
    """`jcnn.layer_norm` over the last axis, with scale and bias [C].

    >>> params, _ = LayerNorm().init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (2,), 'scale': (2,)}
    """
    return parametric(
        _scale_and_bias, partial(layer_norm, epsilon=epsilon), param_dtype
    )


def GroupNorm(
    num_groups: int, *, epsilon: float = 1e-5, param_dtype: DTypeLike = jnp.float32
) -> Layer:
    """`jcnn.group_norm` with scale and bias [C].

    >>> params, _ = GroupNorm(2).init(jax.random.key(0), jnp.zeros((1, 3, 3, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (4,), 'scale': (4,)}
    """
    function = partial(group_norm, num_groups=num_groups, epsilon=epsilon)
    return parametric(_scale_and_bias, function, param_dtype)


def Dropout(rate: float) -> Layer:
    """`jcnn.dropout` in training, which then needs a key; nothing otherwise.

    >>> y, _ = Dropout(0.5).apply({}, {}, jnp.ones(3))
    >>> y
    Array([1., 1., 1.], dtype=float32)
    """
    check_rate(rate)

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, train=False, key=None):
        if not train:
            return x, state
        if key is None:
            raise ValueError("key must be given to a dropout layer with train=True")
        return dropout(x, rate, key), state

    return Layer(init, apply)


def MaxPool(
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
) -> Layer:
    """`jcnn.max_pool`.

    >>> y, _ = MaxPool(2).apply({}, {}, jnp.array([1.0, 2.0]).reshape(1, 2, 1))
    >>> y.ravel()
    Array([2.], dtype=float32)
    """
    return stateless(
        partial(
            max_pool,
            window_shape=window_shape,
            strides=strides,
            padding=padding,
            ceil_mode=ceil_mode,
        )
    )


def AvgPool(
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Layer:
    """`jcnn.avg_pool`.

    >>> y, _ = AvgPool(2).apply({}, {}, jnp.array([1.0, 2.0]).reshape(1, 2, 1))
    >>> y.ravel()
    Array([1.5], dtype=float32)
    """
    return stateless(
        partial(
            avg_pool,
            window_shape=window_shape,
            strides=strides,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )
    )


def _kernel_and_bias(kernel_init, shape, bias_init):
    parameters = {"kernel": (kernel_init, shape)}
    if bias_init is not None:
        parameters["bias"] = (bias_init, shape[-1:])
    return parameters


def _scale_and_bias(x):
    return {"scale": (ones, x.shape[-1:]), "bias": (zeros, x.shape[-1:])}


def _cast(params: Params, dtype: DTypeLike) -> Params:
    """Parameters in the dtype of the input that they meet."""
    return {name: value.astype(dtype) for name, value in params.items()}
