"""`certificate.jsonl`: a line of digests of the data, then one of each step's state.

Equal runs have equal bytes in this file, interrupted or not. An interrupted run has a
line of its last state, which is removed when it resumes.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ...data import Dataset, is_streamed
from ..config import OptionError
from ..output import in_line
from ..store.digests import Description, combine, describe_array
from ..store.journal import read_lines

FORMAT = 1
Line = dict[str, Any]


class Divergence(NamedTuple):
    """The first step at which two certificates differ, and in which parts.

    `parts` such as "params" is empty if one of the certificates ends there.
    """

    step: int
    parts: list[str]


def data_line(train: Dataset, test: Dataset, validation: Dataset | None = None) -> Line:
    """Return the first line: dtype, shape and digest of each array of the data.

    >>> from jcnn.data import load
    >>> digits = load("digits", "test")
    >>> data_line(digits, digits)["data"]["test"]["image"]["shape"]
    [360, 8, 8, 1]
    """
    splits = {"train": train, "test": test}
    if validation is not None:
        splits["validation"] = validation
    return {
        "format": FORMAT,
        "data": {
            split: {
                "image": _described(dataset),
                "label": describe_array(dataset.label),
            }
            for split, dataset in splits.items()
        },
    }


def _described(dataset: Dataset) -> Description:
    images: Any = dataset.image
    return images.describe() if is_streamed(dataset) else describe_array(images)


def state_line(
    arrays: dict[str, Description],
    *,
    step: int,
    epoch: float,
    not_finite: str | None = None,
) -> Line:
    """Return the line of a step, with one digest for each part of the state.

    Args:
        arrays: Descriptions of a snapshot of the `TrainState` after the step.
        step, epoch: The number of steps done, and the same in epochs.
        not_finite: The message about the next step if the run ends there.
    """
    line = {"step": step, "epoch": epoch}
    for part in ("params", "model_state", "opt_state", "ema"):
        prefix = f"{part}/"
        inside = {
            name.removeprefix(prefix): description
            for name, description in arrays.items()
            if name.startswith(prefix)
        }
        if inside or part != "ema":
            line[part] = combine(inside)
    return line if not_finite is None else line | {"not_finite": not_finite}


def check_data(path: Path, line: Line) -> None:
    """Raise OptionError if a certificate has another first line, with what differs.

    A missing or damaged one is accepted.
    """
    try:
        recorded = read_lines(path)[:1]
    except (FileNotFoundError, ValueError):
        return
    if not recorded or recorded[0] == line:
        return
    found = recorded[0].get("format")
    if found != FORMAT:
        raise OptionError(f"{path}: format must be {FORMAT}, got {in_line(found)}")
    differing = data_differences(recorded[0], line)
    raise OptionError(f"the data differ from those of {path}: {differing}")


def data_differences(before: Line, after: Line) -> str:
    """Return which arrays of the data differ in two first lines, "" if none do."""
    old, new = _arrays(before), _arrays(after)
    return "; ".join(
        f"{name}: {old.get(name, 'nothing')} -> {new.get(name, 'nothing')}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    )


def read_certificate(path: Path) -> list[Line]:
    """Return the lines of a certificate, that of the data first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no certificate of at least one step.
    """
    lines = read_lines(path)
    steps = [line.get("step") for line in lines[1:]]
    if not steps or not all(type(step) is int for step in steps):
        raise ValueError(f"{path} is not the certificate of at least one step")
    return lines


def fault_of(certificate: list[Line]) -> str | None:
    """Return the message about a step that was not finite and ended the run, if any.

    >>> fault_of([{}, {"step": 3, "not_finite": "step 3 is not finite: loss"}])
    'step 3 is not finite: loss'
    """
    fault = certificate[-1].get("not_finite")
    return None if fault is None else in_line(fault)


def find_divergence(recorded: list[Line], repeated: list[Line]) -> Divergence | None:
    """Return the first step at which a finished run differs from a recorded one.

    Args:
        recorded: Lines of a certificate, which may end early.
        repeated: Those of the finished run.

    >>> a, b = {"step": 1, "params": "3f"}, {"step": 2, "params": "a0"}
    >>> find_divergence([{}, a, b], [{}, a, b | {"params": "a1"}])
    Divergence(step=2, parts=['params'])
    >>> find_divergence([{}, a], [{}, a, b])
    """
    for old, new in zip(recorded[1:], repeated[1:]):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if names:
            return Divergence(min(old["step"], new["step"]), list(map(in_line, names)))
    if len(recorded) > len(repeated):
        return Divergence(recorded[len(repeated)]["step"], [])
    return None


def _arrays(line: Line) -> dict[str, str]:
    """Return each array's description, such as "uint8[360, 8, 8, 1] 3f2a91c0"."""
    try:
        return {
            f"{split}/{name}": in_line("{dtype}{shape} {sha256:.8}".format(**array))
            for split, arrays in line["data"].items()
            for name, array in arrays.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
