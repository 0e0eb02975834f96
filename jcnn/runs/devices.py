"""The devices of a run: where its data and its state lie, and who divides the work."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..data import Batches, Dataset, is_streamed
from ..train import Batch, BatchAt, TrainState, data_parallel, state_sharding
from .config import OptionError
from .processes import same_arrays
from .recipe import Recipe, arrays
from .store.digests import like, plain


class Devices(NamedTuple):
    """The devices of a run.

    Attributes:
        mesh: The mesh of several devices; None: one device, which needs none.
        min_size: As for `jcnn.train.state_sharding`.
    """

    mesh: Mesh | None = None
    min_size: int | None = None

    @property
    def count(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def divide(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a loss or metrics of examples with the batch divided among them."""
        return function if self.mesh is None else data_parallel(function, self.mesh)

    def copy(self, tree: Any) -> Any:
        """Copy arrays to each device."""
        if self.mesh is None:
            return jax.device_put(tree)
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda x: _put(x, sharding), tree)

    def copy_set(self, dataset: Dataset) -> Batch:
        """Copy the arrays of a set, unless its images are streamed."""
        whole = arrays(dataset)
        return whole if is_streamed(dataset) else self.copy(whole)

    @contextmanager
    def batches(self, recipe: Recipe) -> Iterator[BatchAt]:
        """Give what takes the batches, and end its processes if there are any."""
        if not is_streamed(recipe.train):
            yield recipe.batch_at
            return
        sharding = None
        if self.mesh is not None:
            sharding = NamedSharding(self.mesh, PartitionSpec("data"))
        shard = jax.process_index(), jax.process_count()
        with closing(Batches(shard=shard, sharding=sharding)) as batches:
            yield batches

    def place(self, state: TrainState) -> TrainState:
        """Return the state as it lies during training."""
        if self.mesh is None:
            return state
        host = same_arrays(jax.tree.map(plain, state))
        shardings = state_sharding(state, self.mesh, min_size=self.min_size)
        placed = jax.tree.map(_put, host, shardings)
        return jax.tree.map(like, state, placed)

    def making(self) -> AbstractContextManager[Any]:
        """Make what is to be divided in the host's memory: one device may lack it."""
        if self.min_size is None:
            return nullcontext()
        return jax.default_device(jax.local_devices(backend="cpu")[0])


def choose_devices(
    number: int | Literal["all"],
    *,
    batch_size: int,
    accumulate: int = 1,
    min_size: int | None = None,
) -> Devices:
    """Return the first devices there are, so many or all of them.

    Raises:
        OptionError: If there are fewer, or they do not divide the batch.

    >>> choose_devices(1, batch_size=8).count
    1
    >>> choose_devices(10**6, batch_size=8)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: --devices must be at most ..., the number of devices
    there are, got 1000000
    """
    count, processes = count_devices(number), jax.process_count()
    owned = [
        [device for device in jax.devices() if device.process_index == process]
        for process in range(processes)
    ]
    owned = [devices[: count // processes] for devices in owned]
    if count % processes:
        raise OptionError(
            f"--devices must be a multiple of {processes}, the number of processes, or "
            f"all, got {count}"
        )
    if sum(map(len, owned)) < count:
        raise OptionError(
            f"--devices must be at most {jax.device_count()}, the number of devices "
            f"there are, got {count}"
        )
    if count == 1:
        return Devices()
    if batch_size % (count * accumulate):
        parts = f", in {accumulate} parts (--accumulate)" if accumulate > 1 else ""
        raise OptionError(
            f"--batch-size must be divisible among {count} devices{parts}, got "
            f"{batch_size}"
        )
    axes = {"axis_names": ("data",), "axis_types": (AxisType.Auto,)}
    return Devices(Mesh(np.concatenate(owned), **axes), min_size)


def count_devices(number: int | Literal["all"]) -> int:
    """Return how many devices an option means, those of all processes.

    >>> count_devices(3)
    3
    """
    return jax.device_count() if number == "all" else number


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    """Copy an array that all processes have to the devices of this one."""
    host = np.array(x)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)
