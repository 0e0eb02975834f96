"""Evaluation on a whole data set, each example counted once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .. import compilation
from .._shapes import integer
from .batches import num_examples
from .state import Batch, ExampleMetrics, TrainState


def make_evaluate(
    example_metrics: ExampleMetrics,
    *,
    batch_size: int,
    compiler_options: compilation.Options | None = None,
) -> Callable[[TrainState, Batch], dict[str, float]]:
    """Return `evaluate(state, data) -> means` over all examples.

    The last batch is padded with copies of the last example, which are left out of the
    mean. Metrics that are no mean over examples (F1, mean IoU) are computed from the
    counts of `jcnn.metrics.make_sums`.

    Args:
        example_metrics: (params, model_state, batch) -> {name: [batch_size, …]};
            further axes, such as pixels, are averaged per example first.
        batch_size: Examples computed at a time; does not change the result's meaning.
        compiler_options: As for `make_step`.

    Raises:
        ValueError: When called, if a metric is not one entry per example.

    >>> import optax
    >>> from jcnn.layers import Dense
    >>> from jcnn.train import classification, create
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
            return metrics_by_example(example_metrics, params, model_state, batch)

        metrics = lax.map(one, indices.reshape(batches, batch_size))
        return {name: value.reshape(-1)[:n] for name, value in metrics.items()}

    values = compilation.jit(values, compiler_options=compiler_options)

    def evaluate(state: TrainState, data: Batch) -> dict[str, float]:
        metrics = jax.device_get(values(state.params, state.model_state, data))
        return {
            name: float(value.mean(dtype="float64")) for name, value in metrics.items()
        }

    return evaluate


def metrics_by_example(
    example_metrics: ExampleMetrics, params: Any, model_state: Any, batch: Batch
) -> dict[str, jax.Array]:
    """Return metrics with one number for each example of a batch.

    Raises:
        ValueError: If a metric is not one entry per example.

    >>> data = {"label": jnp.zeros(2)}
    >>> metrics_by_example(lambda *_: {"pixel": jnp.ones((2, 8, 8))}, {}, {}, data)
    {'pixel': Array([1., 1.], dtype=float32)}
    """
    metrics = example_metrics(params, model_state, batch)
    check_example_metrics(metrics, num_examples(batch))
    return {name: _by_example(value) for name, value in metrics.items()}


def check_example_metrics(metrics: Any, batch_size: int) -> None:
    """Raise ValueError unless each metric has one entry per example.

    >>> check_example_metrics({"loss": jnp.zeros((4, 8, 8))}, 4)
    """
    for name, value in metrics.items():
        shape = jnp.shape(value)
        if shape[:1] != (batch_size,):
            raise ValueError(
                f"example_metrics must give metrics of shape [{batch_size}, …], one "
                f"entry for each example, got {name} of shape {shape}"
            )


def _by_example(value: jax.Array) -> jax.Array:
    if value.ndim == 1:
        return value
    dtype = jnp.promote_types(value.dtype, jnp.float32)
    return jnp.mean(value.astype(dtype), range(1, value.ndim))
