"""Options as JSON values, and back."""

import dataclasses
import enum
import json
import reprlib
import types
import typing
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, TypeVar

from .config import OptionError, option_fields

ConfigT = TypeVar("ConfigT")


def config_to_json(config: Any, *, prefix: str = "--") -> dict[str, Any]:
    """Return a dataclass as nested dicts of JSON values.

    Enums become their names. Where a field may hold one of several dataclasses, its
    value is a dict from the name of that one to its fields.

    Args:
        config: The dataclass.
        prefix: Prefix of option names in messages.

    Raises:
        OptionError: If a value could not be read again, with the option's name.

    >>> from jcnn.runs.config import RunConfig
    >>> config_to_json(RunConfig(epochs=3, run_dir=Path("runs/a")))["run_dir"]
    'runs/a'
    """
    fields = option_fields(type(config), prefix)
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

    >>> from jcnn.runs.config import RunConfig
    >>> config = RunConfig(epochs=3, run_dir=Path("runs/a"))
    >>> config_from_json(RunConfig, config_to_json(config)) == config
    True
    """
    annotations = typing.get_type_hints(config_type)
    if not isinstance(values, dict):
        raise ValueError(f"{reprlib.repr(values)} is no {config_type.__name__}")
    if odd := sorted(
        values.keys() - {field.name for field in option_fields(config_type)}
    ):
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

    >>> from jcnn.runs.config import RunConfig
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
        fields = {f.name: getattr(value, f.name) for f in option_fields(type(value))}
        return dataclasses.replace(value, **map_paths(change, fields))
    return value


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
