"""Tasks: a loss and metrics made from a layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._dtypes import wide
from .._shapes import number
from ..layers import Layer, Params, State, child_key
from .state import Batch, ExampleMetrics, LossFn, Metrics

Prepare = Callable[[jax.Array, jax.Array | None], jax.Array]
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Views = Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array]


@dataclass(frozen=True, eq=False)
class Classification:
    """A classification task; `classification` returns two of its methods."""

    layer: Layer
    prepare: Prepare
    label_smoothing: ArrayLike = 0.0
    class_weights: ArrayLike | None = None
    mix: Mix | None = None
    views: Views | None = None

    def loss_fn(
        self, params: Params, model_state: State, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[State, Metrics]]:
        """Return (mean loss, (model state, means of all metrics)), in training."""
        with jax.named_scope("prepare"):
            x = self.prepare(batch["image"], child_key(key, "prepare"))
        apply = partial(
            self.layer.apply, params, train=True, key=child_key(key, "layer")
        )
        targets = mixed = None
        plain = isinstance(self.label_smoothing, float) and self.label_smoothing == 0
        if self.mix or not plain:
            import optax

            logits, _ = jax.eval_shape(apply, model_state, x)
            targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
            if self.mix:
                with jax.named_scope("mix"):
                    x, targets = self.mix(child_key(key, "mix"), x, targets)
                mixed = targets
            targets = optax.smooth_labels(targets, self.label_smoothing)
        logits, model_state = apply(model_state, x)
        metrics = _logit_metrics(logits, batch["label"], targets)
        if self.class_weights is not None:
            metrics["loss"] *= self._weights(batch["label"], mixed, logits.shape[-1])
        means = jax.tree.map(jnp.mean, metrics)
        return means["loss"], (model_state, means)

    def _weights(
        self, labels: jax.Array, mixed: jax.Array | None, num_classes: int
    ) -> jax.Array:
        """Return the weight of each example, by its label or its mixed targets."""
        weights = jnp.asarray(self.class_weights)
        if weights.shape != (num_classes,):
            raise ValueError(
                f"class_weights must be [{num_classes}], one for each logit, got shape "
                f"{weights.shape}"
            )
        return weights[labels] if mixed is None else mixed @ weights

    def example_metrics(
        self, params: Params, model_state: State, batch: Batch
    ) -> Metrics:
        """Return the metrics of each example, [N] or [N, H, W], in evaluation."""
        return _logit_metrics(self.logits(params, model_state, batch), batch["label"])

    def logits(self, params: Params, model_state: State, batch: Batch) -> jax.Array:
        """Return the logits [N, …, classes], in evaluation."""

        def predict(x: jax.Array) -> jax.Array:
            logits, _ = self.layer.apply(params, model_state, x)
            return logits.astype(wide(logits.dtype))

        x = self.prepare(batch["image"], None)
        return predict(x) if self.views is None else self.views(predict, x)


def classification(
    layer: Layer,
    prepare: Prepare,
    *,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    mix: Mix | None = None,
    views: Views | None = None,
) -> tuple[LossFn, ExampleMetrics]:
    """Return softmax cross-entropy and accuracy for a layer that returns logits.

    Args:
        layer: Maps the output of `prepare` to logits [N, classes], or to
            [N, H, W, classes] where each pixel has a label.
        prepare: (images, key) -> inputs, of any size and in the dtype to compute in.
            The key is None in evaluation, where nothing random is to be done.
        label_smoothing: Weight of the uniform distribution in the targets of training,
            from 0 to 1: Szegedy et al., "Rethinking the Inception Architecture"
            (2015), section 7.
        class_weights: Weights [classes] of the examples of each class in the loss of
            training, finite and at least 0; of mixed examples the mixed weights.
        mix: (key, inputs, one-hot targets) -> both, in training, such as
            `jcnn.augment.mixup`.
        views: (predict, inputs) -> logits, in evaluation, such as
            `jcnn.augment.average_views`.

    Returns:
        loss_fn for `make_step` and example_metrics for `make_evaluate`, both for
        batches {"image": …, "label": int [N] or [N, H, W]} and with the metrics "loss"
        and "accuracy". A label that has no logit, also a negative one, makes the loss
        NaN. They can be pickled if layer and prepare can.

    >>> from jcnn.layers import Dense
    >>> _, metrics = classification(Dense(2), lambda images, key: images)
    >>> params = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> batch = {"image": jnp.eye(2), "label": jnp.array([0, 0])}
    >>> metrics(params, {}, batch)["accuracy"]
    Array([1., 0.], dtype=float32)
    """
    smoothing = number("label_smoothing", label_smoothing, 0, 1)
    if class_weights is not None:
        class_weights = np.asarray(class_weights, np.float32)
        if class_weights.ndim != 1 or not 0 <= class_weights.min() < np.inf:
            raise ValueError(
                "class_weights must be numbers [classes], finite and at least 0, got "
                f"{class_weights}"
            )
    task = Classification(layer, prepare, smoothing, class_weights, mix, views)
    return task.loss_fn, task.example_metrics


def _logit_metrics(
    logits: jax.Array, labels: jax.Array, targets: jax.Array | None = None
) -> Metrics:
    """Return metrics by example; the loss is that of targets, by default the labels."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            "layer must give logits [N, classes] for labels [N], got logits of "
            f"shape {logits.shape} for labels of shape {labels.shape}: is a "
            "flatten missing, or are the labels one-hot?"
        )
    logits = logits.astype(wide(logits.dtype))
    if targets is None:
        # As optax's, whose extra `take` XLA folds for seconds where pixels have labels.
        true = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
        loss = jax.nn.logsumexp(logits, -1) - true
    else:
        import optax

        loss = optax.losses.softmax_cross_entropy(logits, targets)
    has_logit = (labels >= 0) & (labels < logits.shape[-1])
    return {
        "loss": jnp.where(has_logit, loss, jnp.nan),
        "accuracy": (jnp.argmax(logits, -1) == labels).astype(jnp.float32),
    }
