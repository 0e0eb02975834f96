"""Layers made of layers: names, keys and state are threaded here and nowhere else.

Each part has a name, under which its parameters and state are found. Its key is
`fold_in(key, crc32(name))`, at init and at apply: adding a part re-seeds no other.
Parts without parameters or state leave no empty entry.
"""

from collections.abc import Callable
from operator import add
from typing import Any

import jax

from .layers import Layer, child_key, stateless

Part = Layer | Callable[[Any], Any]


def serial(**parts: Part) -> Layer:
    """One part after the other. A function of one array counts as a part too.

    >>> from jcnn.layers import Dense
    >>> import jax.numpy as jnp
    >>> mlp = serial(fc1=Dense(4), relu=jax.nn.relu, fc2=Dense(2))
    >>> params, _ = mlp.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> jax.tree.map(jnp.shape, params)
    {'fc1': {'bias': (4,), 'kernel': (3, 4)}, 'fc2': {'bias': (2,), 'kernel': (4, 2)}}
    """
    layers = _layers(parts)

    def init(key, x):
        params, state = {}, {}
        for name, layer in layers.items():
            params[name], state[name] = layer.init(child_key(key, name), x)
            x, _ = jax.eval_shape(layer.apply, params[name], state[name], x)
        return _not_empty(params), _not_empty(state)

    def apply(params, state, x, *, train=False, key=None):
        new = {}
        for name, layer in layers.items():
            x, new[name] = _apply(layer, name, params, state, x, train, key)
        return x, _not_empty(new)

    return Layer(init, apply)


def parallel(join: Callable[..., Any], /, **parts: Part) -> Layer:
    """`join(y1, y2, …)` of what the parts give for the same input.

    >>> import jax.numpy as jnp
    >>> both = parallel(lambda *ys: jnp.concatenate(ys, -1), a=jnp.sin, b=jnp.cos)
    >>> y, _ = both.apply({}, {}, jnp.zeros((1, 2)))
    >>> y
    Array([[0., 0., 1., 1.]], dtype=float32)
    """
    layers = _layers(parts)

    def init(key, x):
        params, state = {}, {}
        for name, layer in layers.items():
            params[name], state[name] = layer.init(child_key(key, name), x)
        return _not_empty(params), _not_empty(state)

    def apply(params, state, x, *, train=False, key=None):
        outputs, new = [], {}
        for name, layer in layers.items():
            y, new[name] = _apply(layer, name, params, state, x, train, key)
            outputs.append(y)
        return join(*outputs), _not_empty(new)

    return Layer(init, apply)


def residual(body: Part, shortcut: Part = lambda x: x) -> Layer:
    """body(x) + shortcut(x), by default x itself; named "body" and "shortcut".

    He et al., "Deep Residual Learning" (2015), section 3.2.

    >>> import jax.numpy as jnp
    >>> y, _ = residual(jnp.square).apply({}, {}, jnp.array([3.0]))
    >>> y
    Array([12.], dtype=float32)
    """
    return parallel(add, body=body, shortcut=shortcut)


def _layers(parts: dict[str, Part]) -> dict[str, Layer]:
    layers = {}
    for name, part in parts.items():
        if isinstance(part, Layer):
            layers[name] = part
        elif callable(part):
            layers[name] = stateless(part)
        else:
            raise TypeError(
                f"{name} must be a Layer or a function of one array, got {part!r}"
            )
    return layers


def _apply(layer, name, params, state, x, train, key):
    key = None if key is None else child_key(key, name)
    with jax.named_scope(name):
        return layer.apply(
            params.get(name, {}), state.get(name, {}), x, train=train, key=key
        )


def _not_empty(entries: dict[str, dict]) -> dict[str, dict]:
    return {name: entry for name, entry in entries.items() if entry}
