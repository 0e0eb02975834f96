"""Training steps: one per call, or many in one compiled loop."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from .. import compilation
from .._dtypes import wide
from .._shapes import integer
from ..layers import child_key
from .batches import BatchAt, batch_at, num_examples
from .state import Batch, LossFn, Metrics, TrainState

if TYPE_CHECKING:  # optax takes longer to import than all of jcnn
    from optax import GradientTransformation

NotFinitePolicy = Literal["stop", "skip", "ignore"]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    loss_fn: LossFn,
    tx: "GradientTransformation",
    *,
    not_finite: NotFinitePolicy = "stop",
    ema_decay: float | None = None,
    accumulate: int = 1,
    compiler_options: compilation.Options | None = None,
) -> Step:
    """Return the jitted `step(state, batch) -> (state, metrics)`; it donates `state`.

    Args:
        loss_fn: (params, model_state, batch, key) -> (loss, (model_state, metrics)).
        tx: The optimiser.
        not_finite: What to do if the loss or a gradient has a NaN or an infinity; the
            bool metric "finite" reports it.
            "stop": leave the state unchanged, its step too. Further steps of
            `make_scan` repeat this one, so the last good state comes out.
            "skip": only count the step. "ignore": check nothing, without the metric.
            The model state is never checked.
        ema_decay: The decay d, between 0 and 1, of the averages in `state.ema`:
            those n steps back have weights in proportion to d^n, as in Adam and
            `optax.ema` with debiasing. With "skip", the averages decay in skipped
            steps too.
        accumulate: In how many equal parts to compute a batch, one after the other, to
            save memory. Gradients and metrics are the parts' means (of integers in
            float32), so those of the whole batch if the loss is a mean over examples.
            What is random is drawn for each part anew. Batch norm takes the statistics
            of each part: ghost batch norm of Hoffer et al., "Train longer, generalize
            better" (2017), section 4.
        compiler_options: XLA's options, by default those of `jcnn.compilation`, which
            make lax's own convolutions faster on a CPU.

    Raises:
        TypeError: If `accumulate` is not an integer.
        ValueError: If an option is not allowed; when called, if `state.ema` exists
            without an `ema_decay` or the other way round, if `accumulate` does not
            divide the batch, or if `loss_fn` itself returns a metric "finite".

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> from jcnn.train import classification, create
    >>> loss_fn, _ = classification(Dense(2), lambda images, key: images)
    >>> tx = optax.sgd(0.1)
    >>> state = create(Dense(2), tx, jax.random.key(0), jnp.zeros((1, 3)))
    >>> batch = {"image": jnp.ones((4, 3)), "label": jnp.zeros(4, jnp.int32)}
    >>> state, metrics = make_step(loss_fn, tx)(state, batch)
    >>> state.step, sorted(metrics)
    (Array(1, dtype=int32), ['accuracy', 'finite', 'loss'])
    """
    step = _step(loss_fn, tx, not_finite, ema_decay, accumulate)
    return compilation.jit(step, donate_argnums=0, compiler_options=compiler_options)


def make_scan(
    loss_fn: LossFn,
    tx: "GradientTransformation",
    *,
    batch_size: int,
    num_steps: int,
    not_finite: NotFinitePolicy = "stop",
    ema_decay: float | None = None,
    accumulate: int = 1,
    batch_at: BatchAt = batch_at,
    compiler_options: compilation.Options | None = None,
) -> Step:
    """Return the jitted `steps(state, data) -> (state, metrics)` of `num_steps` steps.

    `data` is the whole data set, a pytree of arrays [N, …] on the device; each step
    takes the batch that `batch_at(key, step, data, batch_size)` returns, by default
    examples in an order of its own for each epoch. Metrics are [num_steps]. The old
    state is donated. The other arguments are those of `make_step`. How steps are
    divided into calls does not change a bit.

    On a CPU this is faster than `make_step` where steps need much memory, which is
    allocated once per call. It is slower with lax's own convolutions, whose gradients
    XLA computes many times slower inside a loop than outside.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> from jcnn.train import classification, create
    >>> loss_fn, _ = classification(Dense(2), lambda images, key: images)
    >>> tx = optax.sgd(0.1)
    >>> state = create(Dense(2), tx, jax.random.key(0), jnp.zeros((1, 3)))
    >>> data = {"image": jnp.ones((9, 3)), "label": jnp.zeros(9, jnp.int32)}
    >>> state, metrics = make_scan(loss_fn, tx, batch_size=4, num_steps=5)(state, data)
    >>> state.step, metrics["loss"].shape
    (Array(5, dtype=int32), (5,))
    """
    num_steps = integer("num_steps", num_steps, minimum=1)
    step = _step(loss_fn, tx, not_finite, ema_decay, accumulate)

    def steps(state: TrainState, data: Batch):
        def one(state):
            with jax.named_scope("batch"):
                batch = batch_at(state.key, state.step, data, batch_size)
            return step(state, batch)

        def body(index, carried):
            state, metrics = carried
            state, new = one(state)
            return state, jax.tree.map(
                lambda all, one: all.at[index - first].set(one), metrics, new
            )

        # XLA unrolls a loop of known trip count 1 and rounds differently. On a CPU a
        # dynamic start hides the count; elsewhere that would cost time.
        first = state.step if jax.default_backend() == "cpu" else 0
        metrics = jax.tree.map(
            lambda a: jnp.zeros((num_steps, *a.shape), a.dtype),
            jax.eval_shape(one, state)[1],
        )
        return lax.fori_loop(first, first + num_steps, body, (state, metrics))

    return compilation.jit(steps, donate_argnums=0, compiler_options=compiler_options)


def gradients(
    loss_fn: LossFn, state: TrainState, batch: Batch, *, accumulate: int = 1
) -> Any:
    """Return ((loss, (model_state, metrics)), grads) of the next step.

    `accumulate` is that of `make_step`.

    >>> def loss_fn(params, model_state, batch, key):
    ...     return jnp.sum(params**2), (model_state, {})
    >>> state = TrainState(jnp.int32(0), jax.random.key(0), jnp.array([3.0]), {}, ())
    >>> gradients(loss_fn, state, None)
    ((Array(9., dtype=float32), ({}, {})), Array([6.], dtype=float32))
    """
    if integer("accumulate", accumulate, minimum=1) > 1:
        return _accumulated(loss_fn, state, batch, accumulate)
    key = jax.random.fold_in(state.key, state.step)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    return grad_fn(state.params, state.model_state, batch, key)


def _step(
    loss_fn: LossFn,
    tx: "GradientTransformation",
    not_finite: NotFinitePolicy,
    ema_decay: float | None,
    accumulate: int,
) -> Step:
    if not_finite not in get_args(NotFinitePolicy):
        raise ValueError(
            f'not_finite must be "stop", "skip" or "ignore", got {not_finite!r}'
        )
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ValueError(
            f"ema_decay must be more than 0 and less than 1, or None; got {ema_decay!r}"
        )
    ema_decay = None if ema_decay is None else float(ema_decay)  # NumPy's: no dtype
    accumulate = integer("accumulate", accumulate, minimum=1)  # before the first call

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if (state.ema is None) != (ema_decay is None):
            there = "is None" if state.ema is None else "is there"
            raise ValueError(
                "state.ema goes with an ema_decay: "
                f"state.ema {there}, ema_decay is {ema_decay!r}"
            )
        result = gradients(loss_fn, state, batch, accumulate=accumulate)
        (loss, (model_state, metrics)), grads = result
        done = state.step + 1

        def update() -> TrainState:
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = jax.tree.map(
                lambda p, u: (p + u).astype(p.dtype), state.params, updates
            )
            ema = None
            if ema_decay is not None:
                ema = _averaged(state.ema, (params, model_state), ema_decay, done)
            return TrainState(done, state.key, params, model_state, opt_state, ema)

        if not_finite == "ignore":
            with jax.named_scope("optimizer"):
                return update(), metrics
        if "finite" in metrics:
            raise ValueError('loss_fn has a metric "finite", which is that of the step')
        with jax.named_scope("finite"):
            finite = _all_finite((loss, grads))
        old = state if not_finite == "stop" else state._replace(step=done)
        # A branch, not a selection: XLA updates in place, and computes nothing twice.
        with jax.named_scope("optimizer"):
            state = lax.cond(finite, update, lambda: old)
        return state, metrics | {"finite": finite}

    return step


def _accumulated(loss_fn: LossFn, state: TrainState, batch: Batch, parts: int) -> Any:
    """Return what `gradients` does, as means over equal parts of the batch."""
    size, rest = divmod(num_examples(batch), parts)
    if rest:
        raise ValueError(
            f"accumulate must divide the batch of {size * parts + rest} examples, got "
            f"{parts}"
        )
    split = jax.tree.map(lambda a: a.reshape(parts, size, *a.shape[1:]), batch)

    def of_part(index, model_state):
        batch = jax.tree.map(lambda a: a[index], split)
        key = jax.random.fold_in(child_key(state.key, "part"), index)
        at_part = state._replace(key=key, model_state=model_state)
        (loss, (model_state, metrics)), grads = gradients(loss_fn, at_part, batch)
        return model_state, ((loss, metrics), grads)

    def body(index, carried):
        model_state, new = of_part(index, carried[0])
        return model_state, jax.tree.map(
            lambda total, a: total + a.astype(total.dtype), carried[1], new
        )

    def zero(a):
        return jnp.zeros(a.shape, wide(a.dtype) if _is_float(a) else jnp.float32)

    shapes = jax.eval_shape(of_part, 0, state.model_state)[1]
    zeros = jax.tree.map(zero, shapes)
    model_state, sums = lax.fori_loop(0, parts, body, (state.model_state, zeros))
    (loss, metrics), grads = jax.tree.map(
        lambda a, total: (total / parts).astype(a.dtype if _is_float(a) else None),
        shapes,
        sums,
    )
    return (loss, (model_state, metrics)), grads


def _is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)


def _averaged(ema: Any, new: Any, decay: float, count: jax.Array) -> Any:
    """Return the averages including the arrays after step number `count`.

    Their weight is 1 / (1 + d + … + d^(count - 1)), which is 1 at first. Integers are
    not averaged: the last ones are taken.
    """
    part = (1 - decay) / -jnp.expm1(count * math.log(decay))

    def average(old, new):
        if not _is_float(new):
            return new
        return part * new.astype(old.dtype) + (1 - part) * old

    # Without the barrier XLA takes narrow parameters as they were before rounding.
    return jax.tree.map(average, ema, lax.optimization_barrier(new))


def _all_finite(tree: Any) -> jax.Array:
    """Return whether all numbers are finite: 0 times any other number is NaN.

    XLA computes `isfinite(a).all()` on CPUs in two passes, three times as slowly.
    """
    sums = [jnp.sum(a * 0, dtype=a.dtype) for a in jax.tree.leaves(tree)]
    return jnp.stack([jnp.isfinite(a) for a in sums]).all()
