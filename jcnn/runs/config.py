"""Options as frozen dataclasses, with checked ranges.

The docstring under a field is the option's help text; a `Range` in its annotation says
which values are allowed.
"""

import dataclasses
import inspect
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple


class OptionError(ValueError):
    """An option has a bad value; the message names option, range and value."""


class Range(NamedTuple):
    """The range of an option's numbers, written into its annotation.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        open_low: Whether `low` itself is excluded.
        open_high: Whether `high` itself is excluded.

    >>> from typing import Annotated
    >>> Rate = Annotated[float, Range(0, 1, open_high=True)]
    >>> print(Range(0, 1, open_high=True), "|", Range(1))
    at least 0 and below 1 | at least 1
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.open_low else 'at least'} {self.low}")
        if self.high < math.inf:
            words.append(f"{'below' if self.open_high else 'at most'} {self.high}")
        return " and ".join(words) or "a finite number"

    def allows(self, number: float) -> bool:
        """Return whether `number` lies in the range."""
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below


Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Rate = Annotated[float, Range(0, 1, open_high=True)]
Decay = Annotated[float, Range(0, 1, True, True)]
# A PRNG key keeps 32 bits of its seed: 2**32 would silently be the run of seed 0.
Seed = Annotated[int, Range(0, 2**32 - 1)]


@dataclass(frozen=True)
class RunConfig:
    """The options of every experiment; its own frozen dataclass inherits them.

    >>> RunConfig(seed=3).epochs
    10
    """

    seed: Seed = 0
    """Seed of initial weights, order, augmentation and dropout."""
    epochs: Count = 10
    """Passes over the training images."""
    max_steps: Count | None = None
    """Stop after this many steps if the epochs have more; schedules are unchanged."""
    batch_size: Count = 128
    """Images per training step."""
    validation: Rate = 0.0
    """Part of the training images to hold out, drawn by the seed, and to evaluate after
    each epoch; the checkpoint of the best epoch is kept."""
    patience: Count | None = None
    """Stop early after so many epochs without a better validation metric; the weights
    written and tested are the last ones."""
    test_each_epoch: bool = False
    """Evaluate the test images after each epoch, too, not only at the end."""
    accumulate: Count = 1
    """Compute a batch in so many parts, to save memory; batch norm sees a part only."""
    devices: Count | Literal["all"] = 1
    """Divide each batch among so many devices; its images stay the same."""
    shard_parameters: Count | None = None
    """Divide parameters of at least so many numbers among the devices too, and the
    optimizer's state with them; by default each device has all."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes that train this run together; "auto":
    what SLURM, Kubernetes, Cloud TPU or Open MPI say, of all three options."""
    num_processes: Count | None = None
    """How many processes train this run."""
    process_id: Annotated[int, Range(0)] | None = None
    """Which of them this one is, from 0; the first one writes the run's folder."""
    impl: Literal["auto", "lax", "onednn"] = "auto"
    """Backend of convolutions and dense layers: jcnn's planner, lax, or oneDNN, whose
    bits hardly depend on the number of threads."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, statistics, sums and loss stay float32."""
    threads: Annotated[int, Range(1, 1024)] | None = None
    """CPU threads, which the bits depend on; by default one per core. Resuming keeps
    them."""
    deterministic: bool = False
    """Use only deterministic operations on GPUs, which is slower; on CPUs all are."""
    not_finite: Literal["stop", "skip"] = "stop"
    """Stop, or skip the step, if a loss or gradient is not finite."""
    ema_decay: Decay | None = None
    """Decay per step of the moving averages of weights and of batch norm's statistics,
    such as 0.999; they are evaluated and written."""
    certify_every: Annotated[int, Range(0)] = 0
    """Write a certificate line every N steps (0: once per epoch)."""
    keep_checkpoints: Count = 2
    """How many of the last checkpoints to keep, beside the best epoch's: by the watched
    validation metric, or else by the training loss."""
    report: bool = True
    """Draw pictures and write the page report.html at the end."""
    tensorboard: bool = False
    """Write event files for TensorBoard to the folder tensorboard of the run."""
    keep_memory: bool = True
    """Keep large buffers between steps: faster on CPUs with glibc."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; by default the variable JCNN_DATA_DIR."""
    init_from: Path | None = None
    """Folder of a run whose weights to start from."""
    profile: bool = False
    """Before training, record some steps with JAX's profiler, to the folder profile of
    the run, and print the time of each layer, forward and backward."""
    as_recorded: bool = False
    """Take all other options from the run in --run-dir."""
    accept_source: bool = False
    """Resume although the source has changed; the change is recorded."""
    begin_anew: bool = False
    """Start over if --run-dir holds a run; its folder is renamed."""
    run_dir: Path | None = None
    """Folder for the results, or of a run to resume; by default a new one in runs/."""


def check_config(config: Any, *, prefix: str = "--") -> None:
    """Check that all numbers are finite and within their `Range`.

    Args:
        config: An instance of a (possibly nested) dataclass.
        prefix: Prefix of option names in messages.

    Raises:
        OptionError: For the first that is not.

    >>> check_config(RunConfig(epochs=0))
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: --epochs must be at least 1, got 0
    """
    fields = option_fields(type(config), prefix)
    annotations = typing.get_type_hints(type(config), include_extras=True)
    for field in fields:
        value = getattr(config, field.name)
        option = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_config(value, prefix=f"{option}.")
        elif isinstance(value, int | float):
            for allowed in _ranges(annotations[field.name]) or [Range()]:
                finite = -math.inf < value < math.inf  # an int may be no float
                if not (finite and allowed.allows(value)):
                    raise OptionError(f"{option} must be {allowed}, got {value}")


def option_fields(config_type: Any, prefix: str = "--") -> list[dataclasses.Field[Any]]:
    """Return the fields that are options; an `InitVar` could not be read back."""
    fields = [field for field in dataclasses.fields(config_type) if field.init]
    for name in inspect.signature(config_type).parameters:
        if name not in {field.name for field in fields}:
            option = prefix + name.replace("_", "-")
            raise OptionError(f"{option}: an InitVar cannot be an option; a field can")
    return fields


def _ranges(annotation: Any) -> list[Range]:
    """Return the ranges in an annotation, such as `Annotated[...] | None`."""
    own = getattr(annotation, "__metadata__", ())
    parts = (_ranges(part) for part in typing.get_args(annotation))
    return sum(parts, [item for item in own if isinstance(item, Range)])
