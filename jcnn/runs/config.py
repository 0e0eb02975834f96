"""Options as frozen dataclasses: checked ranges, to JSON and back.

The docstring under a field is the option's help text; a `Range` in its annotation says
which values are allowed.
"""

import dataclasses
import enum
import inspect
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

ConfigT = TypeVar("ConfigT")


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
    keep_memory: bool = True
    """Keep large buffers between steps: faster on CPUs with glibc."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; by default the variable JCNN_DATA_DIR."""
    init_from: Path | None = None
    """Folder of a run whose weights to start from."""
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
    fields = _fields(type(config), prefix)
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


def config_to_json(config: Any, *, prefix: str = "--") -> dict[str, Any]:
    """Return a dataclass as nested dicts of JSON values.

    Enums become their names. Where a field may hold one of several dataclasses, its
    value is a dict from the name of that one to its fields.

    Args:
        config: The dataclass.
        prefix: Prefix of option names in messages.

    Raises:
        OptionError: If a value could not be read again, with the option's name.

    >>> config_to_json(RunConfig(epochs=3, run_dir=Path("runs/a")))["run_dir"]
    'runs/a'
    """
    fields = _fields(type(config), prefix)
    annotations = typing.get_type_hints(type(config))
    values = {}
    for field in fields:
        value, annotation = getattr(config, field.name), annotations[field.name]
        option = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value) and type(value) is annotation:
            values[field.name] = config_to_json(value, prefix=f"{option}.")
            continue
        values[field.name] = _to_json(annotation, value)
        try:
            written = json.dumps(values[field.name], allow_nan=False)
            same = _from_json(annotation, json.loads(written)) == value
        except (TypeError, ValueError, OverflowError):
            same = False
        if not same:
            raise OptionError(
                f"{option}: {reprlib.repr(value)} cannot be kept in config.json; "
                "allowed are numbers, texts, paths, None, Literal, Enum, and lists, "
                "tuples, dicts and dataclasses of these, as its annotation says"
            )
    return values


def config_from_json(config_type: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Return the dataclass that `config_to_json` has written.

    Args:
        config_type: The dataclass.
        values: What was written; missing fields get their defaults.

    Raises:
        ValueError: If `values` is no dict, has unknown names, lacks a field without a
            default, or has a value of another type than its field.

    >>> config = RunConfig(epochs=3, run_dir=Path("runs/a"))
    >>> config_from_json(RunConfig, config_to_json(config)) == config
    True
    """
    annotations = typing.get_type_hints(config_type)
    if not isinstance(values, dict):
        raise ValueError(f"{reprlib.repr(values)} is no {config_type.__name__}")
    if odd := sorted(values.keys() - {field.name for field in _fields(config_type)}):
        raise ValueError(f"{config_type.__name__} has no {reprlib.repr(odd)}")
    found = {}
    for name, value in values.items():
        try:
            found[name] = _from_json(annotations[name], value)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{name}: {reprlib.repr(value)} is {error}") from error
    try:
        return config_type(**found)
    except TypeError as error:  # a field without a default
        raise ValueError(f"{config_type.__name__}: {error}") from error


def map_paths(change: Callable[[Path], Path], value: Any) -> Any:
    """Return a dataclass, or any value of one, with each path in it changed.

    >>> map_paths(Path.absolute, RunConfig(run_dir=Path("a"))).run_dir.is_absolute()
    True
    """
    if isinstance(value, Path):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(map_paths(change, item) for item in value)
    if type(value) is dict:
        return {key: map_paths(change, item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in _fields(type(value))}
        return dataclasses.replace(value, **map_paths(change, fields))
    return value


def _fields(config_type: Any, prefix: str = "--") -> list[dataclasses.Field[Any]]:
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


def _to_json(annotation: Any, value: Any) -> Any:
    """Convert what JSON does not know; leave the rest as it is."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        if dataclasses.is_dataclass(value) and len(kinds) > 1:
            return {type(value).__name__: config_to_json(value)}
        return _to_json(kinds[0] if len(kinds) == 1 else type(value), value)
    if dataclasses.is_dataclass(value):
        return config_to_json(value)
    if isinstance(value, tuple | list):
        each = (
            kinds
            if len(kinds) == len(value) and ... not in kinds
            else cycle(kinds[:1] or [Any])
        )
        return [_to_json(kind, item) for kind, item in zip(each, value)]
    if isinstance(value, dict):
        return {
            key: _to_json(kinds[-1] if kinds else None, v) for key, v in value.items()
        }
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def _from_json(annotation: Any, value: Any) -> Any:
    """Convert a JSON value to the type of an annotation."""
    origin, kinds = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return _from_union(kinds, value)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return config_from_json(annotation, value)
    if origin in (list, tuple) and isinstance(value, list):
        each = kinds[:1] * len(value) if ... in kinds or origin is list else kinds
        if len(each) == len(value):
            return origin(map(_from_json, each, value))
    if origin is dict and isinstance(value, dict) and kinds[0] is str:
        return {key: _from_json(kinds[1], item) for key, item in value.items()}
    if isinstance(annotation, type) and isinstance(value, str):
        if issubclass(annotation, enum.Enum) and value in annotation.__members__:
            return annotation[value]
        if annotation is Path:
            return Path(value)
    if annotation is float and type(value) is int:
        return float(value)
    plain = annotation in (bool, int, float, str, type(None))
    if value in kinds if origin is Literal else plain and type(value) is annotation:
        return value
    raise TypeError(f"not allowed: {annotation}")


def _from_union(kinds: tuple[Any, ...], value: Any) -> Any:
    """Convert to the first of some types that fits."""
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) == 1:
        return _from_json(kinds[0], value)
    if isinstance(value, dict) and len(value) == 1:
        (name, fields), *_ = value.items()
        for kind in kinds:
            is_dataclass = isinstance(kind, type) and dataclasses.is_dataclass(kind)
            if is_dataclass and kind.__name__ == name:
                return _from_json(kind, fields)
    # An int is also a float: the type that it has goes before.
    for kind in sorted(kinds, key=lambda kind: kind is not type(value)):
        try:
            return _from_json(kind, value)
        except (TypeError, ValueError):
            continue
    raise TypeError(f"not allowed: {' | '.join(map(str, kinds))}")
