"""Configurations: frozen dataclasses with checked ranges, to JSON and back.

The fields are the options of the command line: the docstring under a field is its help
text, and a `Range` in its annotation says which values are allowed.
"""

import dataclasses
import math
import reprlib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

ConfigT = TypeVar("ConfigT")


class OptionError(ValueError):
    """An option's value cannot be used; the message names option, value and range."""


class Range(NamedTuple):
    """The numbers an option allows, written into its annotation.

    Attributes:
        low: Least allowed value.
        high: Greatest allowed value.
        open_low: Whether `low` itself is left out.
        open_high: Whether `high` itself is left out.

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
        return " and ".join(words) or "any finite number"

    def allows(self, number: float) -> bool:
        """Whether `number` lies in the range.

        >>> Range(0, open_low=True).allows(0), Range(0).allows(0)
        (False, True)
        """
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below


Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Rate = Annotated[float, Range(0, 1, open_high=True)]
# A PRNG key keeps 32 bits of its seed: 2**32 would silently be the run of seed 0.
Seed = Annotated[int, Range(0, 2**32 - 1)]


@dataclass(frozen=True)
class RunConfig:
    """The options of every experiment, for its own frozen dataclass to inherit.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Config(RunConfig):
    ...     epochs: Count = 5
    ...     dropout: Rate = 0.2
    ...     '''Part of the features that a training step leaves out.'''
    >>> Config(seed=3).epochs
    5
    """

    seed: Seed = 0
    """Decides everything random: first weights, order, augmentation, dropout."""
    epochs: Count = 10
    """Passes over the training images."""
    max_steps: Count | None = None
    """End after so many steps if the epochs have more; schedules stay as they are."""
    batch_size: Count = 128
    """Images per training step."""
    impl: str = "auto"
    """Who computes convolutions: auto, lax, or a file written by experiments.tune."""
    threads: Annotated[int, Range(1, 1024)] | None = None
    """Threads that CPUs compute with, which the bits depend on; by default one a core.
    A run that goes on keeps them."""
    deterministic: bool = False
    """On GPUs: only operations that give the same bits each time, which takes longer.
    On CPUs all do."""
    not_finite: Literal["stop", "skip"] = "stop"
    """What to do if a loss or gradient is not finite: stop, or skip that step."""
    ema_decay: Annotated[float, Range(0, 1, True, True)] | None = None
    """Decay per step of averaged weights, say 0.999: these are tested and written."""
    certify_every: Annotated[int, Range(0)] = 0
    """Steps of an epoch between two lines of certificate.jsonl; 0: its end alone."""
    keep_checkpoints: Count = 2
    """How many of the last checkpoints are kept, beside that of the least loss."""
    keep_memory: bool = False
    """Keep large buffers between steps: faster on a CPU, if no one else needs them."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; otherwise the variable JCNN_DATA_DIR."""
    begin_anew: bool = False
    """Begin again if --run-dir holds a run: its folder is moved aside, whole."""
    run_dir: Path | None = None
    """Folder for the results, or of a run to go on with; otherwise new, in runs/."""


def check_config(config: Any, *, prefix: str = "--") -> None:
    """Refuse numbers outside of their `Range`, and numbers that are not finite.

    Args:
        config: An instance of a (possibly nested) dataclass.
        prefix: What stands before an option's name in a message.

    Raises:
        OptionError: For the first such number.

    >>> check_config(RunConfig(epochs=0))
    Traceback (most recent call last):
        ...
    jcnn.experiment.config.OptionError: --epochs: 0 is not allowed: at least 1
    """
    annotations = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        option = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_config(value, prefix=f"{option}.")
        elif isinstance(value, int | float):
            for allowed in _ranges(annotations[field.name]) or [Range()]:
                finite = -math.inf < value < math.inf  # an int may be no float
                if not (finite and allowed.allows(value)):
                    raise OptionError(f"{option}: {value} is not allowed: {allowed}")


def config_to_json(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts of JSON values.

    >>> config_to_json(RunConfig(epochs=3, run_dir=Path("runs/a")))["run_dir"]
    'runs/a'
    """
    return {
        field.name: _to_json(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def config_from_json(config_type: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """The dataclass that `config_to_json` has written.

    Args:
        config_type: The dataclass.
        values: What was written of it.

    Raises:
        ValueError: If `values` is no dict, has other names than the dataclass has
            fields, or a value is not of its field's type.

    >>> config = RunConfig(epochs=3, run_dir=Path("runs/a"))
    >>> config_from_json(RunConfig, config_to_json(config)) == config
    True
    """
    annotations = typing.get_type_hints(config_type)
    if not isinstance(values, dict):
        raise ValueError(f"{reprlib.repr(values)} is no {config_type.__name__}")
    if odd := sorted(values.keys() ^ annotations.keys()):
        raise ValueError(
            f"only one of values and {config_type.__name__} has {reprlib.repr(odd)}"
        )
    found = {}
    for name, value in values.items():
        try:
            found[name] = _from_json(annotations[name], value)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{name}: {reprlib.repr(value)} is {error}") from error
    return config_type(**found)


def _ranges(annotation: Any) -> list[Range]:
    """The ranges in an annotation, also in one such as `Annotated[...] | None`."""
    own = getattr(annotation, "__metadata__", ())
    parts = (_ranges(part) for part in typing.get_args(annotation))
    return sum(parts, [item for item in own if isinstance(item, Range)])


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_json(value)
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _from_json(annotation: Any, value: Any) -> Any:
    """`value` as `annotation` says, where JSON knows only another type."""
    origin, kinds = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in kinds:
            return None
        return _from_json(next(k for k in kinds if k is not type(None)), value)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return config_from_json(annotation, value)
    if origin is tuple and isinstance(value, list):
        return tuple(_from_json(kinds[0], item) for item in value)
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if annotation is float and type(value) is int:
        return float(value)
    allowed = kinds if origin is Literal else None
    if value in allowed if allowed else type(value) is annotation:
        return value
    raise TypeError(f"not allowed: {annotation}")
