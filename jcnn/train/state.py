"""The training state: what a run needs in order to continue."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from .._dtypes import wide
from ..layers import Layer, Params, State, child_key

if TYPE_CHECKING:  # optax takes longer to import than all of jcnn
    from optax import GradientTransformation

Batch = Any  # pytree of arrays [N, …], usually {"image": …, "label": …}
Metrics = dict[str, jax.Array]
LossFn = Callable[
    [Params, State, Batch, jax.Array], tuple[jax.Array, tuple[State, Metrics]]
]
ExampleMetrics = Callable[[Params, State, Batch], Metrics]


class TrainState(NamedTuple):
    """Everything that a run needs in order to continue."""

    step: jax.Array  # shape=(), dtype=int32: completed steps
    key: jax.Array  # the run's key, never changed
    params: Params
    model_state: State
    opt_state: Any
    ema: tuple[Params, State] | None = None  # averages of both over the steps


def create(
    layer: Layer,
    tx: "GradientTransformation",
    key: jax.Array,
    x: Any,
    *,
    weights: tuple[Params, State] | None = None,
    ema: bool = False,
) -> TrainState:
    """Return the state before the first step.

    Args:
        layer: The model.
        tx: The optimiser.
        key: The run's key, from `jax.random.key`.
        x: Example input, an array or `jax.ShapeDtypeStruct`.
        weights: Initial parameters and model state, for example of another training;
            by default `layer.init` draws them with `fold_in(key, crc32("init"))`.
        ema: Keep averages of parameters and model state, for steps with an `ema_decay`.
            They are at least float32: in bfloat16 they would not move.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> state = create(Dense(2), optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 3)))
    >>> state.step, state.params["kernel"].shape
    (Array(0, dtype=int32), (3, 2))
    """
    if weights is None:
        params, model_state = layer.init(child_key(key, "init"), x)
    else:
        params, model_state = jax.tree.map(jnp.array, weights)
    average = jax.tree.map(_wide_copy, (params, model_state)) if ema else None
    # Copies everywhere, since steps donate the state. Some optimizers keep parameters.
    opt_state = tx.init(jax.tree.map(jnp.copy, params))
    return TrainState(
        jnp.int32(0), jnp.copy(key), params, model_state, opt_state, average
    )


def averaged(state: TrainState) -> TrainState:
    """Return the state with its averages as parameters and model state.

    `evaluate(averaged(state), data)` is often better than the last parameters: Polyak
    and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992). Batch
    norm's statistics are averaged as the parameters are, which is close to those of the
    averaged parameters; those of the last ones are not.

    Raises:
        ValueError: If the state has no average.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> tx, x = optax.sgd(0.1), jnp.zeros((1, 3))
    >>> state = create(Dense(2), tx, jax.random.key(0), x, ema=True)
    >>> averaged(state).params["kernel"].shape
    (3, 2)
    """
    if state.ema is None:
        raise ValueError("state.ema must not be None: use create(..., ema=True)")
    last = state.params, state.model_state
    params, model_state = jax.tree.map(lambda e, p: e.astype(p.dtype), state.ema, last)
    return state._replace(params=params, model_state=model_state)


def _wide_copy(x: jax.Array) -> jax.Array:
    return jnp.array(x, wide(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else None)
