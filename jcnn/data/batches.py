"""Batches of streamed sets, which Grain's worker processes read ahead."""

import gc
import pickle
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._extras import missing
from .._shapes import integer
from ..layers import child_key
from ..order import host_order
from .dataset import DataError
from .streamed import StreamedImages, reason
from .worker import Plan, ReadBatch, ReadPlanned, begin_worker

Batch = dict[str, Any]


class Batches:
    """The batches of a streamed set, as `jcnn.train.batch_at` takes them of arrays.

    An instance is a `jcnn.train.BatchAt` for calls outside of `jax.jit`, for one key
    and one step after the other: at any other step the workers start again. In the
    place of a broken image comes the next one that is not broken.

    Args:
        shard: (index, number): take this one of so many equal parts of each batch.
        sharding: How a batch lies on several devices, if it does; with several
            processes each of them has the part `shard` of it.

    Raises:
        ValueError: If the shard is out of range, or when called, if the number of parts
            does not divide the batch.
        DataError: When called, if more images are broken than may be.
        OSError: When called, if a worker process has died.
    """

    def __init__(
        self,
        *,
        shard: tuple[int, int] = (0, 1),
        sharding: jax.sharding.Sharding | None = None,
    ):
        index, number = (integer("shard", value, minimum=0) for value in shard)
        if index >= number:
            raise ValueError(f"shard must be (index, number of parts), got {shard}")
        self._shard, self.sharding = (index, number), sharding
        self._reader: Reader | None = None
        self._step, self._batch, self._following = -1, {}, None

    def __call__(
        self, key: jax.Array, step: jax.Array | int, data: Batch, batch_size: int
    ) -> Batch:
        """Return the batch of a step.

        Args:
            key: The run's key.
            step: Index of the step. It may be the result of a step that is still being
                computed: meanwhile the batch after the last one is fetched.
            data: "image", streamed, and "label", an array [N].
            batch_size: Examples per step, of all parts.
        """
        if self._reader is not None and self._following is None:
            self._following = self._next()
        step = int(step)
        if self._reader is not None and step == self._step:
            return self._batch  # that step was not finite
        if self._following is None or step != self._step + 1:
            self._restart(key, step, data, batch_size)
        self._step, self._batch, self._following = step, self._following or {}, None
        return self._batch

    def close(self) -> None:
        """End the workers."""
        if self._reader is not None:
            self._reader.close()
        self._reader = self._following = None

    def _restart(self, key, step: int, data: Batch, batch_size: int) -> None:
        self.close()
        images, labels = data["image"], np.asarray(data["label"])
        sizes = {"num_examples": len(labels), "batch_size": batch_size}
        part, parts = self._shard
        if batch_size % parts:
            raise ValueError(
                f"batch_size must be divided by the {parts} parts of shard, got "
                f"{batch_size}"
            )
        order = host_order(child_key(key, "order"), step, **sizes)
        words = None
        if images.view.random:
            bits = jax.random.bits(child_key(key, "crop"), (2,), jnp.uint32)
            words = tuple(bits.tolist())
        plan = Plan(order, step, order.end(), part, parts, words)
        self._reader = Reader(images, labels, plan, replace=True)
        self._following = self._next()

    def _next(self) -> Batch | None:
        assert self._reader is not None
        batch = next(self._reader, None)
        if batch is None:
            return None
        batch = {"image": batch["image"], "label": batch["label"]}
        if self.sharding is None:
            return jax.device_put(batch)
        put = partial(jax.make_array_from_process_local_data, self.sharding)
        return jax.tree.map(put, batch)


def evaluation_batch_size(images: Any) -> int:
    """Return how many images to evaluate at a time: of large streamed ones fewer.

    >>> evaluation_batch_size(np.zeros((900, 28, 28, 1), np.uint8))
    500
    """
    most = 500
    if isinstance(images, StreamedImages):
        most = min(most, 2**23 // (images.shape[1] * images.shape[2]))
    return max(1, min(most, len(images)))


def evaluation_batches(
    images: Any, labels: np.ndarray, batch_size: int
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yield batches of images, in memory or streamed, and labels in their order.

    Yields:
        A batch of that size, and the indices in the set of its first examples, which
        are those that count: the rest repeats them. Broken images are left out.

    >>> images, labels = np.ones((3, 8, 8, 1)), np.arange(3)
    >>> for batch, indices in evaluation_batches(images, labels, batch_size=2):
    ...     print(batch["label"], indices)
    [0 1] [0 1]
    [2 2] [2]
    """
    number = len(labels)
    if not isinstance(images, StreamedImages):
        for start in range(0, number, batch_size):
            indices = np.arange(start, min(start + batch_size, number))
            chosen = np.resize(indices, batch_size)
            yield {"image": images[chosen], "label": labels[chosen]}, indices
        return
    plan = Plan(partial(_consecutive, number, batch_size), 0, -(-number // batch_size))
    with closing(Reader(images, labels, plan, replace=False)) as reader:
        for place, batch in enumerate(reader):
            start = place * batch_size
            good = np.flatnonzero(batch["broken"][: number - start] == 0)
            if len(good):
                chosen = np.resize(good, batch_size)
                yield {k: batch[k][chosen] for k in ("image", "label")}, start + good


class Reader:
    """Batches that are read ahead: Grain's iterator, and what is broken."""

    def __init__(
        self,
        images: StreamedImages,
        labels: np.ndarray,
        plan: Plan,
        *,
        replace: bool,
    ):
        try:
            import grain
            from absl import flags
        except ModuleNotFoundError as error:
            raise missing("streaming", error) from error
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain 0.2.18 reads one before it is parsed
        self._images, self._broken = images, {}
        # A worker makes whole batches. Without workers a thread makes the next one.
        ahead = 0 if images.workers else 1
        options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
        workers = grain.multiprocessing.MultiprocessingOptions(images.workers)
        # A pipe with more than 64 KiB for a worker that has died is waited for forever.
        self._file = tempfile.NamedTemporaryFile(prefix="jcnn-", suffix=".pickle")
        pickle.dump((plan, ReadPlanned(images, labels, replace)), self._file)
        self._file.flush()
        batches = grain.MapDataset.range(len(plan)).map(ReadBatch(self._file.name))
        read = batches.to_iter_dataset(options)
        self._iterator = iter(read.mp_prefetch(workers, worker_init_fn=begin_worker))

    def __iter__(self) -> "Reader":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            raise OSError(
                f"a process that reads images has died: {error} If it lacked memory, "
                "or room in /dev/shm, let fewer workers read. Each of them imports the "
                'program, which must begin under `if __name__ == "__main__":`'
            ) from error
        # Grain's arrays are in shared memory, which is scarce in containers.
        batch = {name: np.array(array) for name, array in batch.items()}
        for index, broken in zip(batch["index"].tolist(), batch["broken"].tolist()):
            for i in range(index, index + broken):
                self._note(i % len(self._images))
        return batch

    def close(self) -> None:
        self._iterator.close()
        self._file.close()
        del self._iterator
        gc.collect()  # it is in a cycle, and holds a batch in shared memory

    def _note(self, index: int) -> None:
        """Name a broken image once; raise DataError if they are too many."""
        images = self._images
        if index in self._broken:
            return
        try:
            images.read(index)
            why = "it can be read now"
        except Exception as error:
            why = reason(error)
        self._broken[index] = f"{images.name(index)}: {why}"
        if len(self._broken) > images.most_broken:
            raise DataError(
                f"{len(self._broken)} images are broken, and max_broken is "
                f"{images.most_broken}; the first one is "
                f"{next(iter(self._broken.values()))}"
            )
        text = f"broken image {len(self._broken)}: {self._broken[index]}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def _consecutive(number: int, batch_size: int, index: int) -> np.ndarray:
    return np.minimum(index * batch_size + np.arange(batch_size), number - 1)
