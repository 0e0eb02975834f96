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
    ema: Params | None = None  # average of the parameters over the steps


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
        ema: Keep an average of the parameters in the state, for steps with an
            `ema_decay`. It is at least float32: in bfloat16 it would not move.

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
    average = jax.tree.map(_wide_copy, params) if ema else None
    # Copies everywhere, since steps donate the state.
    return TrainState(
        jnp.int32(0), jnp.copy(key), params, model_state, tx.init(params), average
    )


def averaged(state: TrainState) -> TrainState:
    """Return the state with its average as parameters, cast to their dtypes.

    `evaluate(averaged(state), data)` is often better than the last parameters: Polyak
    and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992). The
    model state is unchanged: batch norm keeps the statistics of the trained parameters
    (Izmailov et al., "Averaging Weights Leads to Wider Optima" (2018), section 3.2,
    recompute them).

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
    params = jax.tree.map(lambda e, p: e.astype(p.dtype), state.ema, state.params)
    return state._replace(params=params)


def _wide_copy(param: jax.Array) -> jax.Array:
    return jnp.array(param, wide(param.dtype))
