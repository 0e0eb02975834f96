"""Layers made of layers: names, keys and state are threaded here and nowhere else.

Parameters and state of a part are found under its name, unless it has none. Its key is
`fold_in(key, crc32(name))`, at init and at apply: adding a part re-seeds no other.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
from jax import lax

from ._layer import Function, Layer, child_key, stateless

Part = Layer | Callable[[Any], Any]


def serial(**parts: Part) -> Layer:
    """Return a layer of parts in sequence; functions of one array are parts too.

    Errors in a part start with its path, at `init` already: "stage2/conv1: …; x is
    float32[8, 7, 7, 64]".

    Raises:
        TypeError: If a part is neither a layer nor a function, or makes layers.
        ValueError: If a part's name contains "/".

    >>> from jcnn.layers import Dense
    >>> import jax.numpy as jnp
    >>> mlp = serial(fc1=Dense(4), relu=jax.nn.relu, fc2=Dense(2))
    >>> params, _ = mlp.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> jax.tree.map(jnp.shape, params)
    {'fc1': {'bias': (4,), 'kernel': (3, 4)}, 'fc2': {'bias': (2,), 'kernel': (4, 2)}}
    """
    layers = as_layers(parts)
    return Layer(partial(_init_serial, layers), partial(_apply_serial, layers))


def parallel(join: Callable[..., Any], /, **parts: Part) -> Layer:
    """Return a layer of `join(y1, y2, …)`, the outputs of all parts for one input.

    >>> import jax.numpy as jnp
    >>> both = parallel(lambda *ys: jnp.concatenate(ys, -1), a=jnp.sin, b=jnp.cos)
    >>> y, _ = both.apply({}, {}, jnp.zeros((1, 2)))
    >>> y
    Array([[0., 0., 1., 1.]], dtype=float32)
    """
    both = Function(join), as_layers(parts)
    return Layer(partial(_init_parallel, *both), partial(_apply_parallel, *both))


def _identity(x):
    return x


def residual(body: Part, shortcut: Part = _identity) -> Layer:
    """Return a layer of body(x) + shortcut(x), with parts "body" and "shortcut".

    He et al., "Deep Residual Learning" (2015), section 3.2.

    Raises:
        ValueError: At `init` and `apply`, if the two are not of one shape.

    >>> import jax.numpy as jnp
    >>> y, _ = residual(jnp.square).apply({}, {}, jnp.array([3.0]))
    >>> y
    Array([12.], dtype=float32)
    """
    return parallel(_add, body=body, shortcut=shortcut)


def remat(layer: Part) -> Layer:
    """Return the layer with what is inside it computed again in the backward pass.

    Of the forward pass only its input is kept, by `jax.checkpoint`: Chen et al.,
    "Training Deep Nets with Sublinear Memory Cost" (2016), section 3. On GPUs and TPUs
    that saves memory. On CPUs XLA merges most of the second computation with the first:
    there, `accumulate` of `jcnn.train.make_step` bounds the memory of a step.

    >>> net = remat(serial(sin=jax.numpy.sin, exp=jax.numpy.exp))
    >>> jax.grad(lambda x: net.apply({}, {}, x)[0])(jax.numpy.float32(0))
    Array(1., dtype=float32)
    """
    layer = as_layers({"layer": layer})["layer"]
    return Layer(layer.init, partial(_apply_again, layer.apply))


def _apply_again(apply, params, state, x, *, train=False, key=None):
    return jax.checkpoint(partial(apply, train=train))(params, state, x, key=key)


def frozen(layer: Layer, *names: str) -> Layer:
    """Return the layer with parameters that get no gradient, nor computation for it.

    What an optimizer does without gradients, such as weight decay, it still does.

    Args:
        layer: Any layer.
        names: Keys of its parameters, such as "kernel"; by default all of them.

    Raises:
        ValueError: If the layer has no parameter of such a name.

    >>> from jcnn.layers import Dense
    >>> import jax.numpy as jnp
    >>> layer = frozen(Dense(1), "kernel")
    >>> params = {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}
    >>> gradients = jax.grad(lambda p: layer.apply(p, {}, jnp.ones((1, 2)))[0].sum())
    >>> jax.tree.map(lambda a: float(a.sum()), gradients(params))
    {'bias': 1.0, 'kernel': 0.0}
    """
    return Layer(layer.init, partial(_apply_frozen, layer.apply, names))


def _apply_frozen(apply, names, params, state, x, *, train=False, key=None):
    if unknown := set(names) - set(params):
        raise ValueError(
            f"names must be of {list(params)}, the parameters, got {sorted(unknown)}"
        )
    constant = {name: lax.stop_gradient(params[name]) for name in names or params}
    return apply({**params, **constant}, state, x, train=train, key=key)


def as_layers(parts: Mapping[str, Part]) -> dict[str, Layer]:
    """Return the parts, functions of one array too, as layers."""
    layers = {}
    for name, part in parts.items():
        if "/" in name:
            raise ValueError(f"the name of a part must not contain '/', got {name!r}")
        if isinstance(part, Layer):
            layers[name] = part
        elif not callable(part):
            raise TypeError(
                f"{name} must be a Layer or a function of one array, got {part!r}"
            )
        elif _makes_layers(part):
            made = getattr(part, "__name__", repr(part))
            raise TypeError(
                f"{name} must be a Layer or a function of one array, got {made}, "
                f"which makes layers: write {made}(…)"
            )
        else:
            layers[name] = stateless(part)
    return layers


def _makes_layers(function: Callable[..., Any]) -> bool:
    try:
        return inspect.signature(function).return_annotation is Layer
    except (TypeError, ValueError):  # it has no signature
        return False


def _init_serial(layers, key, x):
    params, state = {}, {}
    for name, layer in layers.items():
        params[name], state[name], x = _init(layer, name, key, x)
    return _not_empty(params), _not_empty(state)


def _apply_serial(layers, params, state, x, *, train=False, key=None):
    new = {}
    for name, layer in layers.items():
        x, new[name] = _apply(layer, name, params, state, x, train, key)
    return x, _not_empty(new)


def _init_parallel(join, layers, key, x):
    params, state, outputs = {}, {}, []
    for name, layer in layers.items():
        params[name], state[name], y = _init(layer, name, key, x)
        outputs.append(y)
    jax.eval_shape(join, *outputs)
    return _not_empty(params), _not_empty(state)


def _apply_parallel(join, layers, params, state, x, *, train=False, key=None):
    outputs, new = [], {}
    for name, layer in layers.items():
        y, new[name] = _apply(layer, name, params, state, x, train, key)
        outputs.append(y)
    return join(*outputs), _not_empty(new)


def _add(body, shortcut):
    if not (hasattr(body, "shape") and hasattr(shortcut, "shape")):
        raise TypeError(
            "body and shortcut of a residual must give arrays, got "
            f"{type(body)} and {type(shortcut)}"
        )
    if body.shape != shortcut.shape:
        raise ValueError(
            "body and shortcut of a residual must give the same shape, got "
            f"{body.shape} and {shortcut.shape}"
        )
    return body + shortcut


def _init(layer, name, key, x):
    """Return the part's parameters and state, and the shape of its output."""
    with _errors_of(name, x):
        params, state = layer.init(child_key(key, name), x)
        y, _ = jax.eval_shape(layer.apply, params, state, x)
    return params, state, y


def _apply(layer, name, params, state, x, train, key):
    key = None if key is None else child_key(key, name)
    with jax.named_scope(name), _errors_of(name, x):
        return layer.apply(
            _entry("params", params, name),
            _entry("state", state, name),
            x,
            train=train,
            key=key,
        )


def _entry(what: str, tree: Any, name: str) -> Any:
    if not isinstance(tree, Mapping):
        raise TypeError(f"{what} must be a dict from init, got {type(tree)}")
    return tree.get(name, {})


@contextmanager
def _errors_of(name: str, x: Any) -> Iterator[None]:
    """Errors begin with the path of the part that they come from."""
    try:
        yield
    except Exception as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            message, inside = error.args[0], hasattr(error, "part_of_network")
            if not inside and hasattr(x, "dtype"):
                message = f"{message}; x is {x.dtype}{list(x.shape)}"
            error.args = (f"{name}{'/' if inside else ': '}{message}",)
            error.part_of_network = True  # pyright: ignore
        raise


def _not_empty(entries: dict[str, dict]) -> dict[str, dict]:
    return {name: entry for name, entry in entries.items() if entry}
