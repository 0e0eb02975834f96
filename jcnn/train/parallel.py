"""Training on several devices: how the state and the batches lie on a mesh.

The step stays the same program; XLA divides it, and adds the all-reduces of what is
summed over the batch: gradients, metrics, and the statistics of batch norm.

    mesh = jax.make_mesh((8,), ("data",))
    step = make_step(data_parallel(loss_fn, mesh), tx)
    state = jax.device_put(state, state_sharding(state, mesh))
    state, metrics = step(state, shard_batch(batch, mesh))
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
from jax.lax import with_sharding_constraint
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    auto_axes,
    get_abstract_mesh,
)

from .batches import num_examples
from .state import Batch


def data_parallel(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Return the function with its batch divided equally among the mesh's devices.

    Each device computes its part, with all parameters: sharded ones are gathered when
    they are used. The results are those of one device, but for the order of sums.

    Args:
        function: A loss function or metrics of examples, as `make_step` and
            `make_evaluate` take them: (params, model_state, batch, …) -> arrays.
        mesh: Of `jax.make_mesh`, with any axes, all Auto or all Explicit.

    Raises:
        ValueError: If the mesh has axes of both types; when called, if the devices do
            not divide the number of examples.

    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> total = data_parallel(lambda params, state, x: params * x.sum(), mesh)
    >>> jax.jit(total)(2.0, {}, jax.numpy.ones(4))
    Array(8., dtype=float32)
    """
    explicit = AxisType.Explicit in mesh.axis_types
    if len({*mesh.axis_types}) > 1:
        raise ValueError(
            f"mesh must have axes that are all Auto or all Explicit, got {mesh}"
        )

    def divided(params, model_state, batch, *key):
        if (n := num_examples(batch)) % mesh.size:
            raise ValueError(
                f"batch must have a multiple of {mesh.size} examples, the number of "
                f"devices, got {n}"
            )
        # Inside `auto_axes` the axes are those of another, abstract mesh.
        inner = get_abstract_mesh() if explicit else mesh
        whole, part = NamedSharding(inner, PartitionSpec()), _divided_at(0, inner)
        params, model_state = with_sharding_constraint((params, model_state), whole)
        batch = with_sharding_constraint(batch, part)
        results = function(params, model_state, batch, *key)
        return with_sharding_constraint(results, whole)

    if not explicit:
        return divided
    # There, types have no sharding: not all operations have rules for it.
    return auto_axes(divided, out_sharding=NamedSharding(mesh, PartitionSpec()))


def state_sharding(tree: Any, mesh: Mesh, *, min_size: int | None = None) -> Any:
    """Return a sharding for each array of a state, for `jax.device_put` or `jax.jit`.

    By a rule on shapes alone, so that an optimizer's moments lie as their parameters
    do: the largest axis that the number of devices divides is divided. Rajbhandari et
    al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (2020),
    stage 3; known as fully sharded data parallel.

    Args:
        tree: A `TrainState` or any other pytree of arrays, or of their shapes.
        mesh: The devices.
        min_size: Arrays of at least so many numbers are divided; None: none are, and
            each device has everything.

    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> kernel, bias = jax.numpy.zeros((3, 3, 64, 128)), jax.numpy.zeros(128)
    >>> [s.spec for s in state_sharding((kernel, bias), mesh, min_size=1000)]
    [P(None, None, None, 'data'), P()]
    """

    def of(x):
        axes = [i for i, size in enumerate(x.shape) if size % mesh.size == 0]
        if min_size is None or prod(x.shape) < min_size or not axes:
            return NamedSharding(mesh, PartitionSpec())
        return _divided_at(max(axes, key=lambda i: x.shape[i]), mesh)

    return jax.tree.map(of, tree)


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Return a batch on the mesh's devices, each of which has an equal part.

    Args:
        batch: Pytree of arrays [N, …]; of several processes, each gives its own part
            of the global batch, and they follow in the order of their devices.
        mesh: The devices.

    Raises:
        ValueError: If this process's devices do not divide N.

    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> shard_batch({"label": jax.numpy.arange(4)}, mesh)["label"].sharding.spec
    P('data',)
    """
    if (n := num_examples(batch)) % (parts := len(mesh.local_devices)):
        raise ValueError(
            f"batch must have a multiple of {parts} examples, the number of this "
            f"process's devices, got {n}"
        )
    put = partial(jax.make_array_from_process_local_data, _divided_at(0, mesh))
    return jax.tree.map(put, batch)


def _divided_at(axis: int, mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding that divides one axis among all devices."""
    first, *others = mesh.axis_names
    names = (first, *others) if others else first
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, names))
