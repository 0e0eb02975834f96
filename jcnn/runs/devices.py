"""The devices of a run: where its data and its state lie, and who divides the work."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..train import TrainState, data_parallel, state_sharding
from .config import OptionError


class Devices(NamedTuple):
    """The devices of a run.

    Attributes:
        mesh: They, if they are several; one alone computes as without a mesh.
        min_size: Arrays of the state of at least so many numbers are divided.
    """

    mesh: Mesh | None = None
    min_size: int | None = None

    @property
    def count(self) -> int:
        """How many they are."""
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

    def place(self, state: TrainState) -> TrainState:
        """Return the state as it lies during training."""
        if self.mesh is None:
            return state
        shardings = state_sharding(state, self.mesh, min_size=self.min_size)
        return jax.tree.map(_put, state, shardings)

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
    there = jax.devices()
    count = len(there) if number == "all" else number
    if count > len(there):
        raise OptionError(
            f"--devices must be at most {len(there)}, the number of devices there are, "
            f"got {count}"
        )
    if batch_size % (count * accumulate):
        parts = f", in {accumulate} parts (--accumulate)" if accumulate > 1 else ""
        raise OptionError(
            f"--batch-size must be divisible among {count} devices{parts}, got "
            f"{batch_size}"
        )
    if count == 1:
        return Devices()
    axes = {"axis_names": ("data",), "axis_types": (AxisType.Auto,)}
    return Devices(Mesh(np.array(there[:count]), **axes), min_size)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    """Copy an array to the devices of this process; all processes have the same."""
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    host = np.array(x)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)
