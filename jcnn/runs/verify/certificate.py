"""`certificate.jsonl`: digests of all that a run depends on and of all it computes.

The first line is of the data. Each other one is of a step: one digest for each part of
the training state. The bytes of the file depend on nothing else, so two runs that
computed the same have the same certificate, interrupted or not.

A run that ends too early has a line of its last state, which is taken back if the run
goes on. Where that is because a number was not finite, the line says so.
"""

import json
from pathlib import Path
from typing import Any

from ...data import Dataset
from ..config import OptionError
from ..store.digests import Description, combine, describe_array
from ..store.journal import read_lines

FORMAT = 1


def data_line(
    train: Dataset, test: Dataset, validation: Dataset | None = None
) -> dict[str, Any]:
    """The first line: format, and dtype, shape and digest of each array of the data.

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
                "image": describe_array(dataset.image),
                "label": describe_array(dataset.label),
            }
            for split, dataset in splits.items()
        },
    }


def state_line(
    arrays: dict[str, Description],
    *,
    step: int,
    epoch: float,
    not_finite: str | None = None,
) -> dict[str, Any]:
    """The line of a step: one digest for each part of the state but step and key.

    Args:
        arrays: The descriptions of a snapshot of the `TrainState` after the step.
        step: Number of the step, from 1.
        epoch: How many epochs that are.
        not_finite: What is said of the next step if the run ends for it.
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


def refuse_other_data(path: Path, line: dict[str, Any]) -> None:
    """Raise if the certificate of a run to be resumed is of other data.

    Args:
        path: `certificate.jsonl`, which need not exist.
        line: What `data_line` says of the data that are there now.

    Raises:
        OptionError: With the arrays that differ.
    """
    try:
        recorded = read_lines(path)[:1]
    except (FileNotFoundError, ValueError):
        return  # nothing can be resumed from it, so nothing depends on it
    if not recorded or recorded[0] == line:
        return
    if recorded[0].get("format") != FORMAT:
        raise OptionError(
            f"{path} has format {recorded[0].get('format')!r}; allowed: {FORMAT}"
        )
    differing = [
        f"{split}/{name}: {_words(_find(recorded[0], split, name))} -> {_words(found)}"
        for split, arrays in line["data"].items()
        for name, found in arrays.items()
        if _find(recorded[0], split, name) != found
    ]
    raise OptionError(
        f"the data are not those of {path}, with which the run began: "
        + "; ".join(differing)
    )


def _find(line: dict[str, Any], split: str, name: str) -> Any:
    try:
        return line["data"][split][name]
    except (KeyError, TypeError):
        return None


def _words(description: Any) -> str:
    """Such as "uint8[360, 8, 8, 1] 3f2a91c0"."""
    try:
        text = "{dtype}{shape} {sha256:.8}".format(**description)
    except (KeyError, TypeError, ValueError):
        return "nothing"
    return text if text.isprintable() else json.dumps(text)
