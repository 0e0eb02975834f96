"""Layers, pairs of pure functions, and how they are made.

Both functions are module-level functions with settings bound by `functools.partial`, so
layers and networks can be pickled, unless they contain a lambda.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from . import _dtypes
from ._shapes import sizes, spatial_rank

Params = dict[str, Any]
State = dict[str, Any]
Initializer = Callable[[jax.Array, tuple[int, ...], DTypeLike], jax.Array]
Parameters = Mapping[str, tuple[Initializer, tuple[int, ...]]]


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

    `init(key, x) -> (params, state)` and
    `apply(params, state, x, *, train=False, key=None) -> (y, state)`.
    """

    init: Init
    apply: Apply


def stateless(function: Callable[[Any], Any]) -> Layer:
    """Return the layer without parameters of a function, as `serial` does itself.

    >>> stateless(jnp.tanh).init(jax.random.key(0), jnp.zeros(1))
    ({}, {})
    """
    return Layer(init_nothing, partial(_apply_function, Function(function)))


def parametric(
    parameters: Callable[[Any], Parameters],
    function: Callable[..., jax.Array],
    param_dtype: DTypeLike = jnp.float32,
) -> Layer:
    """Return the layer `function(x, **params)`, with parameters cast to x's dtype.

    `parameters(x)` gives for each name an initialiser and a shape; keys depend on names
    only. Where x is narrow, so are the sums of the function's gradients, unless it
    computes in float32 itself.

    >>> from jax.nn.initializers import ones
    >>> scale = parametric(
    ...     lambda x: {"scale": (ones, (1, x.shape[-1]))}, lambda x, scale: x * scale
    ... )
    >>> params, _ = scale.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> scale.apply(params, {}, jnp.array([[2.0, 3.0]]))
    (Array([[2., 3.]], dtype=float32), {})
    """
    return uncast_parametric(parameters, partial(_cast_all, function), param_dtype)


def child_key(key: jax.Array, name: str) -> jax.Array:
    """Return the key of the part `name`, independent of all other parts."""
    return jax.random.fold_in(key, crc32(name.encode()))


def leaf_name(path: Any) -> str:
    """Return the name of a leaf, such as "conv1/kernel", from its path in a pytree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def init_nothing(key, x):
    return {}, {}


def _apply_function(function, params, state, x, *, train=False, key=None):
    y = function(x)
    if isinstance(y, Layer):
        raise TypeError(f"{function.name} makes a layer: it must be called, not passed")
    return y, state


class Function:
    """A function that is pickled by its name, which jitted functions are not."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        name = getattr(function, "__name__", repr(function))
        self.name = getattr(function, "__qualname__", None) or name

    def __call__(self, *args):
        return self.function(*args)

    def __reduce__(self):
        module = sys.modules.get(getattr(self.function, "__module__", None) or "")
        try:
            if attrgetter(self.name)(module) is self.function:
                return _named_function, (module.__name__, self.name)  # pyright: ignore
        except AttributeError:
            pass
        return Function, (self.function,)


def _named_function(module: str, name: str) -> Function:
    return Function(attrgetter(name)(import_module(module)))


def uncast_parametric(
    parameters: Callable[[Any], Parameters],
    function: Callable[..., jax.Array],
    param_dtype: DTypeLike,
) -> Layer:
    return Layer(
        partial(init_parameters, parameters, _dtypes.param_dtype(param_dtype)),
        partial(_apply_parametric, parameters, function),
    )


def with_kernel(
    function: Callable[..., jax.Array],
    kernel_shape: Callable[[Any], tuple[int, ...]],
    inits: tuple[Initializer, Initializer | None],
    param_dtype: DTypeLike,
) -> Layer:
    """Return the layer `function(x, kernel, bias)`; without an init, bias is None.

    The bias is not cast: its gradient is a sum, which may be more than x's dtype holds.
    """
    parameters = partial(_kernel_and_bias, kernel_shape, inits)
    return uncast_parametric(parameters, partial(_cast_kernel, function), param_dtype)


def _kernel_and_bias(kernel_shape, inits, x):
    shape, (kernel_init, bias_init) = kernel_shape(x), inits
    kernel = {"kernel": (kernel_init, shape)}
    return kernel | ({"bias": (bias_init, shape[-1:])} if bias_init else {})


def _cast_kernel(function, x, *, kernel, bias=None):
    kernel = _dtypes.beside("kernel", kernel, x).astype(x.dtype)
    return function(x, kernel, bias)


def conv_kernel(x, *, kernel_size, groups, features):
    size = sizes("kernel_size", kernel_size, spatial_rank(x))
    channels = x.shape[-1]
    if channels % groups:
        raise ValueError(
            f"feature_group_count={groups} must divide the {channels} channels of x"
        )
    return *size, channels // groups, features


def depthwise_kernel(x, *, kernel_size, multiplier):
    size = sizes("kernel_size", kernel_size, spatial_rank(x))
    return *size, 1, x.shape[-1] * multiplier


def dense_kernel(x, *, features):
    if len(x.shape) not in (2, 3):
        raise ValueError(
            f"x must be [N, C] or [N, T, C], got shape {x.shape}: is a flatten "
            "missing? (Conv(features, 1) is a dense layer at every pixel)"
        )
    return x.shape[-1], features


def init_parameters(parameters, param_dtype, key, x):
    params = {
        name: initializer(child_key(key, name), tuple(shape), param_dtype)
        for name, (initializer, shape) in parameters(x).items()
    }
    return params, {}


def _apply_parametric(parameters, function, params, state, x, *, train=False, key=None):
    check_names_and_shapes("params", params, parameters(x))
    return function(x, **params), state


def check_names_and_shapes(
    what: str, given: Any, expected: Mapping[str, tuple[Any, tuple[int, ...]]]
) -> None:
    """Raise unless `given` has the names and shapes that `init` creates for x."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict from init, got {type(given)}")
    needed = {name: tuple(shape) for name, (_, shape) in expected.items()}
    shapes = {name: getattr(value, "shape", value) for name, value in given.items()}
    if shapes != needed:
        raise ValueError(
            f"{what} must be arrays of the names and shapes {needed}, got {shapes}"
        )


def _cast_all(function, x, **params):
    given = {name: _dtypes.beside(name, p, x) for name, p in params.items()}
    return function(x, **{name: p.astype(x.dtype) for name, p in given.items()})
