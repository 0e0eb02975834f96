"""Choices as a plain JSON file, one line a convolution, and back."""

import json
import os
import platform
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._files import write_file
from .._untrusted import read_object
from ..engine.choices import Choices
from ..engine.planner import ALGORITHMS
from ..engine.problem import Problem

LARGEST = 2**31 - 1


def save(choices: Choices, path: str | os.PathLike[str]) -> None:
    """Writes choices to a file, whole or not at all.

    Beside them the file names jax's version and this machine's processor, for people
    to read: `load` goes by neither.

    Args:
      choices: what `tune` returned.
      path: the file, new or to be replaced.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Choices(), Path(folder, "tuned.json"))
    ...     load(Path(folder, "tuned.json"))
    <Choices of 0 convolutions>
    """
    # Sorted by what is computed, so that two files are easy to compare.
    rows = sorted(choices.items(), key=lambda row: _line(_description(row[0])))
    lines = [_line(_description(p) | {"algorithm": name}) for p, name in rows]
    text = ",".join(f"\n    {line}" for line in lines)
    facts = {"jax": jax.__version__, "processor": _processor()}
    rest = "".join(f',\n  "{name}": {_line(fact)}' for name, fact in facts.items())
    content = f'{{\n  "choices": [{text}\n  ]{rest}\n}}\n'
    write_file(Path(path), content.encode())


def load(path: str | os.PathLike[str]) -> Choices:
    """Reads what `save` has written.

    Args:
      path: the file, of at most 4 MiB.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is anything else than `save` could have written; the message
        names the file and what is wrong in it.

    See `save` for an example.
    """
    values = read_object(Path(path))
    try:
        return _choices(values)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


# --- writing ---


def _description(problem: Problem) -> dict[str, Any]:
    values = {name: getattr(problem, name) for name in _FIELDS if name != "algorithm"}
    for name in ("dtype", "output_dtype"):
        values[name] = jnp.dtype(values[name]).name
    if values["precision"] is not None:
        values["precision"] = [precision.name for precision in values["precision"]]
    return values


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=int)  # int: from NumPy's


def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # it is Linux that has this file
        lines = []
    for line in lines:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {os.cpu_count()} threads"


# --- reading ---


def _choices(value: Any) -> Choices:
    values = _object(value, {"choices", "jax", "processor"}, "the file")
    for fact in ("jax", "processor"):
        _expect(isinstance(values[fact], str), fact, "a text", values[fact])
    rows = values["choices"]
    _expect(isinstance(rows, list), "choices", "a list", rows)
    names: dict[Problem, str] = {}
    for i, row in enumerate(rows):
        problem, name = _choice(row, f"choices[{i}]")
        if problem in names:
            raise ValueError(f"choices[{i}] describes the same convolution as another")
        names[problem] = name
    return Choices(names)


def _choice(value: Any, where: str) -> tuple[Problem, str]:
    values = _object(value, set(_FIELDS), where)
    fields = {name: _FIELDS[name](values[name], f"{where}.{name}") for name in _FIELDS}
    rank = len(fields["kernel_size"])
    for name in ("input_size", "output_size", "strides", "padding", "dilation"):
        wanted = f"as long as kernel_size, {rank}"
        _expect(len(fields[name]) == rank, f"{where}.{name}", wanted, values[name])
    for name in ("in_channels", "out_channels"):
        multiple = fields[name] % fields["groups"] == 0
        _expect(multiple, f"{where}.{name}", "a multiple of groups", values[name])
    name = fields.pop("algorithm")
    problem = Problem(**fields)
    if refusal := ALGORITHMS[name].refusal(problem):
        raise ValueError(f"{where}.algorithm: {name} cannot serve this: {refusal}")
    return problem, name


def _object(value: Any, names: set[str], where: str) -> dict[str, Any]:
    _expect(isinstance(value, dict), where, "an object", value)
    for name in sorted(names ^ set(value)):
        problem = "is missing" if name in names else "is not known"
        raise ValueError(f"{where}: the key {name!r} {problem}")
    return value


def _expect(fulfilled: bool, where: str, wanted: str, value: Any) -> None:
    if not fulfilled:
        raise ValueError(f"{where} must be {wanted}, got {reprlib.repr(value)}")


def _one_of(*known: str) -> Callable[[Any, str], str]:
    def read(value: Any, where: str) -> str:
        fits = isinstance(value, str) and value in known
        _expect(fits, where, f"one of {', '.join(known)}", value)
        return value

    return read


def _number(value: Any, where: str, least: int = 1) -> int:
    fits = type(value) is int and least <= value <= LARGEST  # a bool is no number
    _expect(fits, where, f"an integer from {least} to {LARGEST}", value)
    return value


def _numbers(value: Any, where: str, least: int = 1) -> tuple[int, ...]:
    fits = isinstance(value, list) and 1 <= len(value) <= 3
    _expect(fits, where, "a list of 1 to 3 integers", value)
    return tuple(_number(n, f"{where}[{i}]", least) for i, n in enumerate(value))


def _padding(value: Any, where: str) -> tuple[tuple[int, ...], ...]:
    _expect(isinstance(value, list), where, "a list of pairs of integers", value)
    pairs = [_numbers(pair, f"{where}[{i}]", 0) for i, pair in enumerate(value)]
    _expect(all(len(p) == 2 for p in pairs), where, "a list of pairs", value)
    return tuple(pairs)


def _precision(value: Any, where: str) -> tuple[lax.Precision, ...] | None:
    if value is None:
        return None
    known = [precision.name for precision in lax.Precision]
    wanted = f"null or a pair of {', '.join(known)}"
    _expect(isinstance(value, list) and len(value) == 2, where, wanted, value)
    _expect(all(name in known for name in value), where, wanted, value)
    return tuple(lax.Precision[name] for name in value)


_DTYPE = _one_of("bfloat16", "float16", "float32", "float64")

_FIELDS: dict[str, Callable[[Any, str], Any]] = {
    "algorithm": _one_of(*ALGORITHMS),
    "batch": _number,
    "dilation": _numbers,
    "dtype": _DTYPE,
    "face": _one_of("x", "w", "y"),
    "groups": _number,
    "in_channels": _number,
    "input_size": _numbers,
    "kernel_size": _numbers,
    "out_channels": _number,
    "output_dtype": _DTYPE,
    "output_size": _numbers,
    "padding": _padding,
    "precision": _precision,
    "strides": _numbers,
}
