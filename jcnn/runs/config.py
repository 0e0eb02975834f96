"""Configurations: frozen dataclasses with checked ranges, to JSON and back.

The fields are the options of the command line: the docstring under a field is its help
text, and a `Range` in its annotation says which values are allowed.
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
    impl: Literal["auto", "lax", "onednn"] = "auto"
    """Who computes convolutions and dense layers: jcnn by the fastest algorithm known,
    lax, or oneDNN, whose bits hardly depend on the number of threads (see README)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, statistics, sums and loss are float32
    with bfloat16 too."""
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
    keep_memory: bool = True
    """Keep large buffers between steps: faster on CPUs with glibc."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; otherwise the variable JCNN_DATA_DIR."""
    init_from: Path | None = None
    """Folder of a run whose weights are the first ones of this one."""
    as_recorded: bool = False
    """Options that are not given are those of the run in --run-dir."""
    accept_source: bool = False
    """Go on with a run though its source was changed since; that is recorded."""
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
    jcnn.runs.config.OptionError: --epochs: 0 is not allowed: at least 1
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
                    raise OptionError(f"{option}: {value} is not allowed: {allowed}")


def config_to_json(config: Any, *, prefix: str = "--") -> dict[str, Any]:
    """A dataclass as nested dicts of JSON values.

    Enums are their names. Where a field may be one of several dataclasses, its value is
    a dict of the name of that one to its fields.

    Args:
        config: The dataclass.
        prefix: What stands before an option's name in a message.

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
    """The dataclass that `config_to_json` has written.

    Args:
        config_type: The dataclass.
        values: What was written of it; fields that it has no value of get their
            defaults.

    Raises:
        ValueError: If `values` is no dict, has names that are no fields or lacks one
            without a default, or a value is not of its field's type.

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
    """A dataclass, or any value of one, with each path in it changed.

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
    """Those fields of a dataclass that are options.

    Raises:
        OptionError: If an option is no field: nobody could read its value again.
    """
    fields = [field for field in dataclasses.fields(config_type) if field.init]
    for name in inspect.signature(config_type).parameters:
        if name not in {field.name for field in fields}:
            option = prefix + name.replace("_", "-")
            raise OptionError(f"{option}: an InitVar cannot be an option; a field can")
    return fields


def _ranges(annotation: Any) -> list[Range]:
    """The ranges in an annotation, also in one such as `Annotated[...] | None`."""
    own = getattr(annotation, "__metadata__", ())
    parts = (_ranges(part) for part in typing.get_args(annotation))
    return sum(parts, [item for item in own if isinstance(item, Range)])


def _to_json(annotation: Any, value: Any) -> Any:
    """`value` as JSON knows it; what it does not know stays as it is."""
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
    """`value` as `annotation` says, where JSON knows only another type."""
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
    """The value of the first of some types that it can be of."""
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
