"""Diagnosis of a step whose loss or gradients are not finite.

Such a step leaves the last good state (`jcnn.train.make_step`, `not_finite="stop"`), so
it can be repeated. To find the operation that first returned a NaN, repeat it under
JAX's own check: `with jax.debug_nans(True): jcnn.train.gradients(...)`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import train
from ._layer import leaf_name
from .data import Batches
from .train import Batch, BatchAt, LossFn, TrainState, batch_at, gradients

_NAMED = 6  # arrays that a message names, of each kind
_LISTED = 32  # examples of a batch that it lists


class Count(NamedTuple):
    """The number of NaNs and infinities in an array."""

    nan: int
    inf: int
    size: int


class Fault(NamedTuple):
    """A step that is not finite."""

    step: int  # from 0: as many came before it
    examples: list[int] | None  # of its batch, None if they are not known
    counts: dict[str, Count]  # "loss", "gradients/…", "params/…", "model_state/…", …


class NotFinite(FloatingPointError):
    """A step's loss or gradients have NaNs or infinities, listed in `fault`."""

    def __init__(self, fault: Fault):
        super().__init__(describe(fault))
        self.fault = fault


def require_finite(
    finite: Any,
    loss_fn: LossFn,
    state: TrainState,
    data: Batch,
    *,
    batch_size: int,
    accumulate: int = 1,
) -> None:
    """Raise `NotFinite` unless all of a call's steps were finite.

    Args:
        finite: The metric of `make_step` or `make_scan` with `not_finite="stop"`.
        loss_fn: The loss function of the training.
        state: The resulting state, which is the last good one.
        data: The whole set, as for `make_scan`.
        batch_size: Examples a step.
        accumulate: As for `make_step`.

    Raises:
        NotFinite: Naming the step, the arrays and the examples.

    >>> def loss_fn(params, model_state, batch, key):
    ...     return jnp.sum(params) / batch.min(), (model_state, {})
    >>> key, params = jax.random.key(0), jnp.ones(2)
    >>> state = TrainState(jnp.int32(1), key, params, {}, ())
    >>> data = jnp.array([2.0, 0.0, 1.0])
    >>> require_finite(False, loss_fn, state, data, batch_size=1)
    Traceback (most recent call last):
    jcnn.finite.NotFinite: step 1 is not finite: loss (inf); gradients (2 inf of 2);
        its batch is examples [1]
    """
    if not np.all(finite):
        fault = find_fault(
            loss_fn, state, data, batch_size=batch_size, accumulate=accumulate
        )
        raise NotFinite(fault)


def find_fault(
    loss_fn: LossFn,
    state: TrainState,
    data: Batch,
    *,
    batch_size: int | None = None,
    batch_at: BatchAt = batch_at,
    accumulate: int = 1,
) -> Fault:
    """Repeat the step after `state` and count NaNs and infinities.

    Args:
        loss_fn: The loss function of the training.
        state: The last good state. After `not_finite="skip"` that of a skipped step is
            `state._replace(step=state.step - 1)`.
        data: The whole set, as for `make_scan`.
        batch_size: Examples a step, or None if `data` is the step's batch itself.
        batch_at: As for `make_scan`, or `jcnn.data.Batches`; with another function the
            examples are not known.
        accumulate: As for `make_step`.

    Returns:
        The counts of every array of floats, which are the loss, its gradients, the
        parameters and model state before the step, the new model state, and the batch.

    >>> def loss_fn(params, model_state, batch, key):
    ...     return jnp.log(params["a"]).sum(), (model_state, {})
    >>> params = {"a": jnp.array([0.0, 1.0])}
    >>> state = TrainState(jnp.int32(7), jax.random.key(0), params, {}, ())
    >>> find_fault(loss_fn, state, jnp.zeros(1)).counts["gradients/a"]
    Count(nan=0, inf=1, size=2)
    """
    batch, examples = data, None
    if batch_size is not None:
        batch = batch_at(state.key, state.step, data, batch_size)
        if batch_at is train.batch_at or isinstance(batch_at, Batches):
            indices = train.indices_at(
                *(state.key, state.step),
                num_examples=train.num_examples(data),
                batch_size=batch_size,
            )
            examples = indices.tolist()

    again = partial(gradients, loss_fn, accumulate=accumulate)
    repeated = jax.jit(again)(state, batch)
    (loss, (model_state, _)), grads = repeated
    looked_at = {
        "loss": loss,
        "gradients": grads,
        "new_model_state": model_state,
        "params": state.params,
        "model_state": state.model_state,
        "batch": batch,
    }
    counts = {
        _name(kind, path): _count(leaf)
        for kind, tree in looked_at.items()
        for path, leaf in jax.tree.leaves_with_path(tree)
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)
    }
    return Fault(int(state.step), examples, counts)


def describe(fault: Fault) -> str:
    """Return a short description; of a large batch only the first examples."""
    bad = {name: c for name, c in fault.counts.items() if c.nan or c.inf}
    parts = []
    for kind in dict.fromkeys(name.split("/")[0] for name in bad):
        names = [name for name in bad if name.split("/")[0] == kind]
        parts += [f"{name} ({_amount(bad[name])})" for name in names[:_NAMED]]
        if len(names) > _NAMED:
            of = sum(name.split("/")[0] == kind for name in fault.counts)
            parts[-1] += f" and others, {len(names)} of {of} {kind}"
    if not parts:
        parts = ["not reproducible outside the compiled steps, which round differently"]
    if fault.examples is not None:
        parts.append(f"its batch is examples {_listed(fault.examples)}")
    return f"step {fault.step} is not finite: {'; '.join(parts)}"


def _name(kind: str, path: Any) -> str:
    return f"{kind}/{leaf_name(path)}" if path else kind


def _count(array: jax.Array) -> Count:
    nan, inf = jnp.isnan(array).sum(), jnp.isinf(array).sum()
    return Count(int(nan), int(inf), array.size)


def _amount(count: Count) -> str:
    kinds = {"NaN": count.nan, "inf": count.inf}
    if count.size == 1:
        return next(kind for kind, number in kinds.items() if number)
    text = " and ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return f"{text} of {count.size}"


def _listed(examples: list[int]) -> str:
    if len(examples) <= _LISTED:
        return str(examples)
    return f"{str(examples[:_LISTED])[:-1]}, ...], {len(examples)} in all"
