"""Training as pure functions: a state, a step made of a loss and an optimiser.

    loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))

is all that a step asks for; `classification` makes one of a layer. The key of step k is
`fold_in(run_key, k)` and the data of step k are a function of (run_key, k), so a state
is all that there is to save.

A step whose loss or gradients are not finite leaves the state as it was, whether it is
taken alone or among many: see `not_finite` of `make_step`, and `jcnn.finite` for what
to do then.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from . import compilation
from ._dtypes import wide
from ._shapes import integer
from .layers import Layer, Params, State, child_key
from .order import batch_indices

if TYPE_CHECKING:  # optax takes longer to import than all of jcnn
    from optax import GradientTransformation

Batch = Any  # pytree of arrays [N, …], as a rule {"image": …, "label": …}
Metrics = dict[str, jax.Array]
LossFn = Callable[
    [Params, State, Batch, jax.Array], tuple[jax.Array, tuple[State, Metrics]]
]
ExampleMetrics = Callable[[Params, State, Batch], Metrics]
Prepare = Callable[[jax.Array, jax.Array | None], jax.Array]
NotFinitePolicy = Literal["stop", "skip", "ignore"]


class TrainState(NamedTuple):
    """All that a run needs to go on."""

    step: jax.Array  # shape=(), dtype=int32: steps done
    key: jax.Array  # the run's key, the same all along
    params: Params
    model_state: State
    opt_state: Any
    ema: Params | None = None  # the parameters' average over the steps, if wanted


Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def create(
    layer: Layer,
    tx: "GradientTransformation",
    key: jax.Array,
    x: Any,
    *,
    weights: tuple[Params, State] | None = None,
    ema: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      layer: the model.
      tx: the optimiser.
      key: the run's key, of `jax.random.key`.
      x: inputs like those to come, an array or `jax.ShapeDtypeStruct`.
      weights: parameters and model state to begin with, say those of another training;
        None: those that `layer.init` draws.
      ema: whether the state holds an average of the parameters too, which steps with
        an `ema_decay` keep. It is float32 at least: in bfloat16 it would not move.

    Returns:
      A state; what is drawn is of the key `fold_in(key, crc32("init"))`.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> state = create(Dense(2), optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 3)))
    >>> state.step, state.params["kernel"].shape
    (Array(0, dtype=int32), (3, 2))
    """
    if weights is None:
        params, model_state = layer.init(child_key(key, "init"), x)
    else:  # a copy, since steps donate the state
        params, model_state = jax.tree.map(jnp.array, weights)
    average = jax.tree.map(_accumulator, params) if ema else None
    # A copy, since steps donate the state and the caller may go on with the key.
    return TrainState(
        jnp.int32(0), jnp.copy(key), params, model_state, tx.init(params), average
    )


def make_step(
    loss_fn: LossFn,
    tx: "GradientTransformation",
    *,
    not_finite: NotFinitePolicy = "stop",
    ema_decay: float | None = None,
    compiler_options: compilation.Options | None = None,
) -> Step:
    """`step(state, batch) -> (state, metrics)`, jitted; the old state is donated.

    Args:
      loss_fn: (params, model_state, batch, key) -> (loss, (model_state, metrics)).
      tx: the optimiser.
      not_finite: what to do if the loss or a gradient has a NaN or an infinity. The
        metric "finite", a bool, tells whether all is well.
        "stop": the state stays as it was, its step too: from then on steps of
        `make_scan` repeat this one, and the state that comes out is the last good one.
        "skip": only the step is counted. "ignore": nothing is looked at, and there is
        no such metric. What the model's state holds is not looked at in any case.
      ema_decay: d, between 0 and 1, if `state.ema` is to be the parameters' average
        with weights in proportion to 1 for those after this step, d for those after
        the step before, then d^2 and so on: the exponential average of Adam and of
        `optax.ema`, without a part of the first parameters. With "skip", steps that
        are skipped count as if the average had stayed by itself.
      compiler_options: XLA's, by default those of `jcnn.compilation`: they make lax's
        own convolutions faster on a CPU, for whoever the loss takes them from.

    Raises:
      ValueError: if an option is not allowed; when called, if `state.ema` is there
        without an `ema_decay` or the other way round, or if `loss_fn` has a metric
        "finite" itself.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> loss_fn, _ = classification(Dense(2), lambda images, key: images)
    >>> tx = optax.sgd(0.1)
    >>> state = create(Dense(2), tx, jax.random.key(0), jnp.zeros((1, 3)))
    >>> batch = {"image": jnp.ones((4, 3)), "label": jnp.zeros(4, jnp.int32)}
    >>> state, metrics = make_step(loss_fn, tx)(state, batch)
    >>> state.step, sorted(metrics)
    (Array(1, dtype=int32), ['accuracy', 'finite', 'loss'])
    """
    step = _step(loss_fn, tx, not_finite, ema_decay)
    return compilation.jit(step, donate_argnums=0, compiler_options=compiler_options)


def make_scan(
    loss_fn: LossFn,
    tx: "GradientTransformation",
    *,
    batch_size: int,
    num_steps: int,
    not_finite: NotFinitePolicy = "stop",
    ema_decay: float | None = None,
    compiler_options: compilation.Options | None = None,
) -> Step:
    """`steps(state, data) -> (state, metrics)`: `num_steps` steps in one jitted call.

    `data` is the whole set, a pytree of arrays [N, …] on the device; each step takes
    the batch that `batch_at` gives. Metrics come as [num_steps]. The old state is
    donated. `not_finite`, `ema_decay` and `compiler_options` are those of `make_step`.
    Steps divided into other calls give the same bits.

    On a CPU it is faster than `make_step` where steps need much memory, which they take
    from the system once a call. It is slower with convolutions that are lax's own: XLA
    computes their gradients many times slower inside a loop than outside.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> loss_fn, _ = classification(Dense(2), lambda images, key: images)
    >>> tx = optax.sgd(0.1)
    >>> state = create(Dense(2), tx, jax.random.key(0), jnp.zeros((1, 3)))
    >>> data = {"image": jnp.ones((9, 3)), "label": jnp.zeros(9, jnp.int32)}
    >>> state, metrics = make_scan(loss_fn, tx, batch_size=4, num_steps=5)(state, data)
    >>> state.step, metrics["loss"].shape
    (Array(5, dtype=int32), (5,))
    """
    num_steps = integer("num_steps", num_steps, minimum=1)
    step = _step(loss_fn, tx, not_finite, ema_decay)

    def steps(state: TrainState, data: Batch):
        def one(state):
            return step(state, batch_at(state.key, state.step, data, batch_size))

        def body(index, carried):
            state, metrics = carried
            state, new = one(state)
            return state, jax.tree.map(
                lambda all, one: all.at[index - first].set(one), metrics, new
            )

        # XLA takes a loop apart that it sees to run once, and computes other bits then.
        # On CPUs it is not shown how often; elsewhere that would cost time.
        first = state.step if jax.default_backend() == "cpu" else 0
        metrics = jax.tree.map(
            lambda a: jnp.zeros((num_steps, *a.shape), a.dtype),
            jax.eval_shape(one, state)[1],
        )
        return lax.fori_loop(first, first + num_steps, body, (state, metrics))

    return compilation.jit(steps, donate_argnums=0, compiler_options=compiler_options)


def batch_at(
    key: jax.Array, step: jax.Array | int, data: Batch, batch_size: int
) -> Batch:
    """The batch of a step: a function of the run's key and the step alone.

    Args:
      key: the run's key.
      step: from 0.
      data: pytree of arrays [N, …].
      batch_size: examples a step.

    Returns:
      data's pytree with arrays [batch_size, …].

    >>> batch_at(jax.random.key(0), 0, {"label": jnp.arange(3)}, 2)["label"].shape
    (2,)
    """
    n = num_examples(data)
    indices = indices_at(key, step, num_examples=n, batch_size=batch_size)
    return jax.tree.map(lambda a: jnp.take(a, indices, axis=0), data)


def indices_at(
    key: jax.Array, step: jax.Array | int, *, num_examples: int, batch_size: int
) -> jax.Array:
    """Which examples `batch_at` takes: int32 [batch_size].

    Args:
      key: the run's key.
      step: from 0.
      num_examples: of the data set.
      batch_size: examples a step.

    >>> indices_at(jax.random.key(0), 7, num_examples=3, batch_size=2).shape
    (2,)
    """
    return batch_indices(
        child_key(key, "order"), step, num_examples=num_examples, batch_size=batch_size
    )


def gradients(loss_fn: LossFn, state: TrainState, batch: Batch) -> Any:
    """((loss, (model_state, metrics)), grads) of the step that comes next.

    >>> def loss_fn(params, model_state, batch, key):
    ...     return jnp.sum(params**2), (model_state, {})
    >>> state = TrainState(jnp.int32(0), jax.random.key(0), jnp.array([3.0]), {}, ())
    >>> gradients(loss_fn, state, None)
    ((Array(9., dtype=float32), ({}, {})), Array([6.], dtype=float32))
    """
    key = jax.random.fold_in(state.key, state.step)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    return grad_fn(state.params, state.model_state, batch, key)


def averaged(state: TrainState) -> TrainState:
    """The state with the parameters' average in their place, in their dtypes.

    `evaluate(averaged(state), data)` is the accuracy of the average, often better than
    that of the last parameters: Polyak and Juditsky, "Acceleration of Stochastic
    Approximation by Averaging" (1992); with an exponential average as in
    `tf.train.ExponentialMovingAverage`. The model's state stays: the statistics of
    batch norm are those of the parameters that were trained (Izmailov et al.,
    "Averaging Weights Leads to Wider Optima" (2018), section 3.2, compute new ones).

    Raises:
      ValueError: if the state has no average.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> tx, x = optax.sgd(0.1), jnp.zeros((1, 3))
    >>> state = create(Dense(2), tx, jax.random.key(0), x, ema=True)
    >>> averaged(state).params["kernel"].shape
    (3, 2)
    """
    if state.ema is None:
        raise ValueError("state.ema is None: create(..., ema=True) makes an average")
    params = jax.tree.map(lambda e, p: e.astype(p.dtype), state.ema, state.params)
    return state._replace(params=params)


def make_evaluate(
    example_metrics: ExampleMetrics,
    *,
    batch_size: int,
    compiler_options: compilation.Options | None = None,
) -> Callable[[TrainState, Batch], dict[str, float]]:
    """`evaluate(state, data) -> means`: every example counts, and counts once.

    The last batch is filled up with copies of the last example, which are left out of
    the sum. What is no mean over examples, as F1 or the mean IoU, is computed from the
    counts of `jcnn.metrics.make_sums`.

    Args:
      example_metrics: (params, model_state, batch) -> {name: [batch_size, …]}; what
        an example has several of, as pixels, is averaged over these first.
      batch_size: examples computed at a time; does not change what is counted.
      compiler_options: as for `make_step`.

    Raises:
      ValueError: when called, if a metric has not one entry for each example.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> _, example_metrics = classification(Dense(2), lambda images, key: images)
    >>> state = create(Dense(2), optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 3)))
    >>> data = {"image": jnp.zeros((7, 3)), "label": jnp.zeros(7, jnp.int32)}
    >>> make_evaluate(example_metrics, batch_size=4)(state, data)["accuracy"]
    1.0
    """
    batch_size = integer("batch_size", batch_size, minimum=1)

    def values(params, model_state, data):
        n = num_examples(data)
        batches = -(-n // batch_size)
        indices = jnp.minimum(jnp.arange(batches * batch_size), n - 1)

        def one(indices):
            batch = jax.tree.map(lambda a: jnp.take(a, indices, axis=0), data)
            metrics = example_metrics(params, model_state, batch)
            check_example_metrics(metrics, batch_size)
            return {name: _by_example(value) for name, value in metrics.items()}

        metrics = lax.map(one, indices.reshape(batches, batch_size))
        return {name: value.reshape(-1)[:n] for name, value in metrics.items()}

    values = compilation.jit(values, compiler_options=compiler_options)

    def evaluate(state: TrainState, data: Batch) -> dict[str, float]:
        metrics = jax.device_get(values(state.params, state.model_state, data))
        return {
            name: float(value.mean(dtype="float64")) for name, value in metrics.items()
        }

    return evaluate


def check_example_metrics(metrics: Any, batch_size: int) -> None:
    """Raise ValueError unless each metric has one entry for each example.

    >>> check_example_metrics({"loss": jnp.zeros((4, 8, 8))}, 4)
    """
    for name, value in metrics.items():
        shape = jnp.shape(value)
        if shape[:1] != (batch_size,):
            raise ValueError(
                f"example_metrics must give metrics of shape [{batch_size}, …], one "
                f"entry for each example, got {name} of shape {shape}"
            )


@dataclass(frozen=True, eq=False)
class Classification:
    """What `classification` returns the methods of."""

    layer: Layer
    prepare: Prepare

    def loss_fn(
        self, params: Params, model_state: State, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[State, Metrics]]:
        x = self.prepare(batch["image"], child_key(key, "prepare"))
        logits, model_state = self.layer.apply(
            params, model_state, x, train=True, key=child_key(key, "layer")
        )
        metrics = _of_logits(logits, batch["label"])
        means = jax.tree.map(jnp.mean, metrics)
        return means["loss"], (model_state, means)

    def example_metrics(
        self, params: Params, model_state: State, batch: Batch
    ) -> Metrics:
        return _of_logits(self.logits(params, model_state, batch), batch["label"])

    def logits(self, params: Params, model_state: State, batch: Batch) -> jax.Array:
        """[N, …, classes], outside training."""
        x = self.prepare(batch["image"], None)
        return self.layer.apply(params, model_state, x)[0]


def classification(layer: Layer, prepare: Prepare) -> tuple[LossFn, ExampleMetrics]:
    """Softmax cross-entropy and accuracy for a layer that gives logits.

    Args:
      layer: from what `prepare` gives to logits [N, classes], or [N, H, W, classes]
        where each pixel has a label.
      prepare: (images, key) -> inputs, of any size and in the dtype to compute in; key
        is None outside training, so what is random (augmentation) is left away there.

    Returns:
      loss_fn for `make_step` and example_metrics for `make_evaluate`, both for batches
      {"image": …, "label": int [N] or [N, H, W]} and with the metrics "loss" and
      "accuracy". They can be pickled if layer and prepare can.

    >>> from jcnn.layers import Dense
    >>> _, metrics = classification(Dense(2), lambda images, key: images)
    >>> params = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> batch = {"image": jnp.eye(2), "label": jnp.array([0, 0])}
    >>> metrics(params, {}, batch)["accuracy"]
    Array([1., 0.], dtype=float32)
    """
    task = Classification(layer, prepare)
    return task.loss_fn, task.example_metrics


def _of_logits(logits: jax.Array, labels: jax.Array) -> Metrics:
    from optax.losses import softmax_cross_entropy_with_integer_labels

    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            "layer must give logits [N, classes] for labels [N], got logits of "
            f"shape {logits.shape} for labels of shape {labels.shape}: is a "
            "flatten missing, or are the labels one-hot?"
        )
    logits = logits.astype(wide(logits.dtype))
    return {
        "loss": softmax_cross_entropy_with_integer_labels(logits, labels),
        "accuracy": (jnp.argmax(logits, -1) == labels).astype(jnp.float32),
    }


def _by_example(value: jax.Array) -> jax.Array:
    if value.ndim == 1:
        return value
    dtype = jnp.promote_types(value.dtype, jnp.float32)
    return jnp.mean(value.astype(dtype), range(1, value.ndim))


def _step(loss_fn, tx, not_finite: NotFinitePolicy, ema_decay: float | None):
    if not_finite not in get_args(NotFinitePolicy):
        raise ValueError(
            f'not_finite must be "stop", "skip" or "ignore", got {not_finite!r}'
        )
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ValueError(
            f"ema_decay must be more than 0 and less than 1, or None; got {ema_decay!r}"
        )
    ema_decay = None if ema_decay is None else float(ema_decay)  # NumPy's: no dtype

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if (state.ema is None) != (ema_decay is None):
            there = "is None" if state.ema is None else "is there"
            raise ValueError(
                "state.ema goes with an ema_decay: "
                f"state.ema {there}, ema_decay is {ema_decay!r}"
            )
        (loss, (model_state, metrics)), grads = gradients(loss_fn, state, batch)
        done = state.step + 1

        def update() -> TrainState:
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = jax.tree.map(_updated, state.params, updates)
            ema = None
            if ema_decay is not None:
                ema = _averaged(state.ema, params, ema_decay, done)  # pyright: ignore
            return TrainState(done, state.key, params, model_state, opt_state, ema)

        if not_finite == "ignore":
            return update(), metrics
        if "finite" in metrics:
            raise ValueError('loss_fn has a metric "finite", which is that of the step')
        finite = _all_finite((loss, grads))
        old = state if not_finite == "stop" else state._replace(step=done)
        # A branch and no selection: XLA updates in place, and computes nothing twice.
        return lax.cond(finite, update, lambda: old), metrics | {"finite": finite}

    return step


def _updated(param: jax.Array, update: jax.Array) -> jax.Array:
    return (param + update).astype(param.dtype)


def _accumulator(param: jax.Array) -> jax.Array:
    """A copy, since steps donate the state, of at least float32."""
    return jnp.array(param, wide(param.dtype))


def _averaged(ema: Params, params: Params, decay: float, count: jax.Array) -> Params:
    """The average with the parameters after step number `count` added to it.

    Their part is 1 / (1 + d + … + d^(count - 1)), all of it at first.
    """
    from optax import incremental_update

    # Without the barrier XLA takes narrow parameters as they were before rounding.
    params = lax.optimization_barrier(params)
    params = jax.tree.map(lambda p, e: p.astype(e.dtype), params, ema)
    part = (1 - decay) / -jnp.expm1(count * math.log(decay))
    return incremental_update(params, ema, part)  # pyright: ignore


def _all_finite(tree: Any) -> jax.Array:
    """Whether all numbers are: 0 times one that is not is NaN, and so is their sum.

    XLA computes `isfinite(a).all()` on CPUs in two passes, three times as slowly.
    """
    sums = [jnp.sum(a * 0, dtype=a.dtype) for a in jax.tree.leaves(tree)]
    return jnp.stack([jnp.isfinite(a) for a in sums]).all()


def num_examples(data: Batch) -> int:
    """The one length of all arrays, or a ValueError."""
    lengths = {a.shape[0] if a.ndim else 0 for a in jax.tree.leaves(data)}
    if len(lengths) != 1 or 0 in lengths:
        shapes = jax.tree.map(lambda a: a.shape, data)
        raise ValueError(
            f"data must be arrays of one length, at least 1; got shapes {shapes}"
        )
    return lengths.pop()
