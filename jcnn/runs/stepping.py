"""The division of an epoch into calls to the device, and their compilation."""

from collections.abc import Collection, Iterator
from itertools import cycle
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import lax

from ..compilation import Options
from ..data import Batches
from ..inspect.jaxprs import equations
from ..train import (
    Batch,
    BatchAt,
    LossFn,
    NotFinitePolicy,
    Step,
    TrainState,
    batch_at,
    make_scan,
    make_step,
)
from .config import OptionError


def count_steps(num_examples: int, *, batch_size: int, epochs: int) -> int:
    """Return the number of steps of a run, with whole batches only in each epoch.

    Images left over in an epoch come first in the next one.

    Raises:
        OptionError: If there are fewer images than `batch_size`, or more than 2³¹-1
            steps.

    >>> count_steps(1437, batch_size=64, epochs=2)
    44
    """
    if not 1 <= batch_size <= num_examples:
        raise OptionError(
            f"--batch-size must be at least 1 and at most {num_examples}, the number "
            f"of training images, got {batch_size}"
        )
    per_epoch = num_examples // batch_size
    most = (2**31 - 1) // per_epoch
    if not 1 <= epochs <= most:
        raise OptionError(
            f"--epochs must be at least 1 and at most {most}, got {epochs}"
        )
    return epochs * per_epoch


def suggest_steps_per_call(multiply_adds: int) -> int:
    """Return how many steps take about a second, by the forward pass of one step.

    An estimate, not a measurement: a repeated run has the same lines of metrics.

    >>> suggest_steps_per_call(10**15)
    1
    """
    if jax.default_backend() == "cpu":
        # Of two cores: LeNet-5's steps, and what ResNet-20's take beyond.
        seconds = 0.02 + multiply_adds / 25e9
    else:
        seconds = max(1, multiply_adds) / 1e12
    return max(1, int(1 / seconds))


def split_epoch(num_steps: int, limit: int, every: int = 0) -> list[int]:
    """Divide an epoch into calls of few different sizes, since each size is compiled.

    Args:
        num_steps: Steps of the epoch, at least 1.
        limit: Most steps of a call, at least 1.
        every: End a call every so many steps of the epoch; 0 for no such ends.

    Returns:
        The sizes in order. Without `every` they are all equal if a size of at least
        half of `limit` divides `num_steps`, else all but the last.

    >>> split_epoch(12, 5), split_epoch(13, 5), split_epoch(3, 5)
    ([4, 4, 4], [5, 5, 3], [3])
    >>> split_epoch(11, 4, every=5)
    [4, 1, 4, 1, 1]
    """
    if 0 < every < num_steps:
        parts = [every] * (num_steps // every) + [num_steps % every]
        return [size for part in parts if part for size in split_epoch(part, limit)]
    limit = min(limit, num_steps)
    sizes = range(limit, limit // 2, -1)
    size = next((size for size in sizes if num_steps % size == 0), limit)
    rest = num_steps % size
    return [size] * (num_steps // size) + [rest] * (rest > 0)


def sizes_left(sizes: list[int], *, done: int, total: int) -> Iterator[int]:
    """Yield the sizes of a run's remaining calls, which end where all calls do.

    Args:
        sizes: Sizes of an epoch's calls.
        done: Number of steps done, perhaps within a call.
        total: Number of steps of the run.

    >>> list(sizes_left([2, 2, 1], done=1, total=9))
    [1, 2, 1, 2, 2]
    """
    end = done - done % sum(sizes)
    for size in cycle(sizes):
        if done == total:
            return
        end = min(end + size, total)
        if end > done:
            yield end - done
            done = end


def compile_steps(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    sizes: Collection[int],
    state: TrainState,
    data: Batch,
    not_finite: NotFinitePolicy = "stop",
    ema_decay: float | None = None,
    accumulate: int = 1,
    batch_at: BatchAt = batch_at,
    compiler_options: Options | None = None,
) -> dict[int, Step]:
    """Compile calls of one or more steps, with the arguments of `jcnn.train.make_step`.

    Args:
        loss_fn, tx, not_finite, ema_decay, accumulate, compiler_options: As for
            `make_step`.
        batch_size: Images per step.
        sizes: Numbers of steps of a call.
        state: A training state, which is not changed.
        data: All training images, on the device or streamed.
        batch_at: As for `jcnn.train.make_scan`; `jcnn.data.Batches` of streamed ones.

    Returns:
        For each size `steps(state, data) -> (state, metrics)`, which donates the state
        and gives metrics of shape `[size]`; `steps.as_text()` is XLA's program.

    >>> import jax.numpy as jnp
    >>> from jcnn.layers import Dense
    >>> from jcnn.train import classification, create
    >>> loss_fn, _ = classification(Dense(2), lambda images, key: images)
    >>> tx = optax.sgd(0.1)
    >>> state = create(Dense(2), tx, jax.random.key(0), jnp.zeros((1, 3)))
    >>> data = {"image": jnp.ones((9, 3)), "label": jnp.zeros(9, jnp.int32)}
    >>> calls = compile_steps(
    ...     loss_fn, tx, batch_size=4, sizes=[3, 5], state=state, data=data
    ... )
    >>> state, metrics = calls[5](state, data)
    >>> int(state.step), metrics["loss"].shape
    (5, (5,))
    """
    options: dict[str, Any] = {
        "not_finite": not_finite,
        "ema_decay": ema_decay,
        "accumulate": accumulate,
        "compiler_options": compiler_options,
    }

    def take(key, step, data):
        with jax.named_scope("batch"):
            return batch_at(key, step, data, batch_size)

    if isinstance(batch_at, Batches):  # of images in files
        shapes = {
            name: jax.ShapeDtypeStruct(
                (batch_size, *a.shape[1:]), a.dtype, sharding=batch_at.sharding
            )
            for name, a in data.items()
        }
        step = make_step(loss_fn, tx, **options).lower(state, shapes).compile()
        return {size: _Repeated(take, step, size) for size in sizes}

    if jax.default_backend() == "cpu" and _by_lax(loss_fn, state, take, data):
        programs = _compile_step(loss_fn, tx, take, state, data, options)
        return {size: _Repeated(*programs, size) for size in sizes}
    return {
        size: make_scan(
            loss_fn,
            tx,
            batch_size=batch_size,
            num_steps=size,
            batch_at=batch_at,
            **options,
        )
        .lower(state, data)
        .compile()
        for size in sizes
    }


def _by_lax(loss_fn, state, take, data) -> bool:
    """Return whether the loss has a convolution by lax.

    In a loop XLA computes its gradients up to 30 times slower: ConvCanonicalization
    only sees the outermost computation (jaxlib 0.10).
    """

    def loss(state, data):
        batch = take(state.key, state.step, data)
        return loss_fn(state.params, state.model_state, batch, state.key)

    found = equations(jax.make_jaxpr(loss)(state, data).jaxpr)
    return any(e.primitive is lax.conv_general_dilated_p for e, _ in found)


def _compile_step(loss_fn, tx, take, state, data, options) -> tuple[Any, Any]:
    """Compile what takes a batch, and one step without a loop."""
    take = jax.jit(take).lower(state.key, state.step, data).compile()
    batch = take(state.key, state.step, data)
    return take, make_step(loss_fn, tx, **options).lower(state, batch).compile()


class _Repeated(NamedTuple):
    """Several steps, each a call of its own."""

    take: Any
    step: Any
    num_steps: int

    def __call__(self, state, data):
        by_step = []
        for _ in range(self.num_steps):
            batch = self.take(state.key, state.step, data)
            state, metrics = self.step(state, batch)
            by_step.append(metrics)
        return state, jax.tree.map(lambda *v: np.stack(v), *jax.device_get(by_step))

    def as_text(self) -> str:
        programs = [p for p in (self.take, self.step) if hasattr(p, "as_text")]
        return "\n".join(program.as_text() for program in programs)
