"""Training as pure functions: a state, and steps made of a loss and an optimiser.

    loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))

is all that a step needs; `classification` makes one from a layer. The key of step k is
`fold_in(run_key, k)` and the batch of step k is a function of (run_key, k), so a
`TrainState` is everything that a checkpoint has to hold.

A step whose loss or gradients are not finite leaves the state unchanged: see
`not_finite` of `make_step`, and `jcnn.finite` for finding the cause.
"""

from .batches import BatchAt, batch_at, indices_at, num_examples
from .evaluate import check_example_metrics, make_evaluate, metrics_by_example
from .masks import mask_by_path
from .parallel import data_parallel, shard_batch, state_sharding
from .state import (
    Batch,
    ExampleMetrics,
    LossFn,
    Metrics,
    TrainState,
    averaged,
    create,
)
from .step import NotFinitePolicy, Step, gradients, make_scan, make_step
from .tasks import Classification, Prepare, classification

__all__ = [
    "Batch",
    "BatchAt",
    "Classification",
    "ExampleMetrics",
    "LossFn",
    "Metrics",
    "NotFinitePolicy",
    "Prepare",
    "Step",
    "TrainState",
    "averaged",
    "batch_at",
    "check_example_metrics",
    "classification",
    "create",
    "data_parallel",
    "gradients",
    "indices_at",
    "make_evaluate",
    "make_scan",
    "make_step",
    "mask_by_path",
    "metrics_by_example",
    "num_examples",
    "shard_batch",
    "state_sharding",
]
