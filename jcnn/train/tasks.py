"""Tasks: a loss and metrics made from a layer."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .._dtypes import wide
from ..layers import Layer, Params, State, child_key
from .state import Batch, ExampleMetrics, LossFn, Metrics

Prepare = Callable[[jax.Array, jax.Array | None], jax.Array]


@dataclass(frozen=True, eq=False)
class Classification:
    """A classification task; `classification` returns two of its methods."""

    layer: Layer
    prepare: Prepare

    def loss_fn(
        self, params: Params, model_state: State, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[State, Metrics]]:
        """Return (mean loss, (model state, means of all metrics)), in training."""
        x = self.prepare(batch["image"], child_key(key, "prepare"))
        logits, model_state = self.layer.apply(
            params, model_state, x, train=True, key=child_key(key, "layer")
        )
        means = jax.tree.map(jnp.mean, _logit_metrics(logits, batch["label"]))
        return means["loss"], (model_state, means)

    def example_metrics(
        self, params: Params, model_state: State, batch: Batch
    ) -> Metrics:
        """Return the metrics of each example, [N] or [N, H, W], in evaluation."""
        return _logit_metrics(self.logits(params, model_state, batch), batch["label"])

    def logits(self, params: Params, model_state: State, batch: Batch) -> jax.Array:
        """Return the logits [N, …, classes], in evaluation."""
        x = self.prepare(batch["image"], None)
        return self.layer.apply(params, model_state, x)[0]


def classification(layer: Layer, prepare: Prepare) -> tuple[LossFn, ExampleMetrics]:
    """Return softmax cross-entropy and accuracy for a layer that returns logits.

    Args:
        layer: Maps the output of `prepare` to logits [N, classes], or to
            [N, H, W, classes] where each pixel has a label.
        prepare: (images, key) -> inputs, of any size and in the dtype to compute in.
            The key is None in evaluation, where nothing random is to be done.

    Returns:
        loss_fn for `make_step` and example_metrics for `make_evaluate`, both for
        batches {"image": …, "label": int [N] or [N, H, W]} and with the metrics "loss"
        and "accuracy". They can be pickled if layer and prepare can.

    >>> from jcnn.layers import Dense
    >>> _, metrics = classification(Dense(2), lambda images, key: images)
    >>> params = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> batch = {"image": jnp.eye(2), "label": jnp.array([0, 0])}
    >>> metrics(params, {}, batch)["accuracy"]
    Array([1., 0.], dtype=float32)
    """
    task = Classification(layer, prepare)
    return task.loss_fn, task.example_metrics


def _logit_metrics(logits: jax.Array, labels: jax.Array) -> Metrics:
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
