"""What the processes do that read streamed images."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .streamed import StreamedImages, draw


@dataclass(frozen=True)
class Plan:
    """The examples of each batch.

    Attributes:
        order: Function from the index of a batch to those of its examples.
        first, end: Indices of the first batch, and after the last.
        part, parts: Which part of each batch to take.
        key: Of the random crops; None: center crops.
    """

    order: Callable[[int], np.ndarray]
    first: int
    end: int
    part: int = 0
    parts: int = 1
    key: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[np.ndarray] | None]:
        """Return the indices of a batch's examples, and random numbers for each."""
        step = self.first + index
        indices = self.order(step)
        places = step * len(indices) + np.arange(len(indices))
        mine = slice(
            self.part * len(indices) // self.parts,
            (self.part + 1) * len(indices) // self.parts,
        )
        if self.key is None:
            return indices[mine], None
        return indices[mine], [draw(self.key, place) for place in places[mine].tolist()]


@dataclass(frozen=True)
class ReadPlanned:
    """The function from what is planned to a batch.

    Attributes:
        replace: Whether another image takes the place of a broken one.
    """

    images: StreamedImages
    labels: np.ndarray
    replace: bool

    def __call__(self, planned: Any) -> dict[str, np.ndarray]:
        indices, draws = planned
        batch = {
            "image": np.zeros((len(indices), *self.images.shape[1:]), np.uint8),
            "label": np.empty(len(indices), self.labels.dtype),
            "index": indices,
            "broken": np.zeros(len(indices), np.int64),
        }
        for place, index in enumerate(indices.tolist()):
            drawn = None if draws is None else draws[place]
            last = index + self.images.most_broken if self.replace else index
            for chosen in range(index, last + 1):
                chosen %= len(self.images)
                try:
                    batch["image"][place] = self.images.read(chosen, drawn)
                    break
                except ImportError:
                    raise
                except Exception:  # damage causes almost any error
                    batch["broken"][place] += 1
            batch["label"][place] = self.labels[chosen]
        return batch


@dataclass(frozen=True)
class ReadBatch:
    """The function from the number of a batch to it, which Grain gives to workers.

    Attributes:
        path: File with the pickled `Plan` and `ReadPlanned`.
    """

    path: str

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        plan, read = _unpickled(self.path)
        return read(plan[number])


@lru_cache(2)
def _unpickled(path: str) -> tuple[Plan, ReadPlanned]:
    with open(path, "rb") as file:
        return pickle.load(file)


def begin_worker(index: int, number: int) -> None:
    """Leave Ctrl-C and a closed terminal to the main process, and end with it."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
