"""Repeating a recorded run and comparing every digest."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..config import OptionError
from ..initial import KEPT
from ..output import in_line
from ..store.checkpoints import checkpoint_path, saved_steps
from ..store.folder import read_environment, read_record, write_json
from ..store.journal import iterate_lines, read_lines
from ..store.reading import check_files
from .certificate import Divergence, fault_of, find_divergence, read_certificate
from .compare import describe_distance
from .restart import Start, find_start, run, with_source
from .resume import last_step
from .source import compare_source, recorded_source

End = dict[str, int | None]  # options "epochs" and "max_steps"


def reproduce(
    run_dir: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    data_dir: Path | None = None,
    use_recorded_source: bool = False,
) -> int:
    """Run the recorded experiment again in another process and print a comparison.

    This executes the recorded program, a file below the current folder; the command is
    printed before. The new run has a temporary folder.

    Args:
        run_dir: The folder of a run: finished, interrupted or not finite.
        start: Compare the steps after this one. The new run starts with the last
            checkpoint at or before it.
        stop: Compare the steps up to this one; None for all.
        data_dir: Folder of the prepared data sets, if not the recorded one.
        use_recorded_source: Execute the source in `run_dir`, not the current one.

    Returns:
        0 if all digests are the same, 1 if not.

    Raises:
        OptionError: If there is nothing to repeat, or the experiment cannot be run.
        OSError: If a file cannot be read.
        ValueError: If a file in `run_dir` is not that of a run.

    >>> reproduce(Path("nowhere"))
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: nowhere is not the folder of a run
    """
    record = read_record(run_dir)
    if record is None:
        raise OptionError(f"{run_dir} is not the folder of a run")
    if not (run_dir / "certificate.jsonl").exists():
        raise OptionError(f"{run_dir} has no certificate.jsonl to compare with")
    certificate = read_certificate(run_dir / "certificate.jsonl")
    recorded = _window(certificate, start, stop)
    began = _last_checkpoint(run_dir, start) if start else 0
    if data_dir is not None:
        config = record["config"] | {"data_dir": str(data_dir.absolute())}
        record = record | {"config": config}
    source = recorded_source(run_dir, version=_version(run_dir, began))
    if source is None and use_recorded_source:
        raise OptionError("--recorded-source: the run has no source.json")
    again = find_start(record["experiment"], source)
    changed = []
    if source is not None and not use_recorded_source:
        changed = compare_source(source, again.program)
    if changed:
        print("the source differs from the recorded one", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="jcnn-reproduce-") as folder:
        if use_recorded_source:
            again = with_source(again, source or {}, Path(folder, "source"))
        repeated_dir = Path(folder, "run")
        repeated_dir.mkdir()
        # A run that was not finite ends by itself.
        last = None if fault_of(recorded) else recorded[-1]["step"]
        first, *others = _ends(record, began, last)
        _begin(run_dir, repeated_dir, record, first, began)
        for end in ({}, *others):
            _run(again, repeated_dir, end)
        repeated = read_certificate(repeated_dir / "certificate.jsonl")
        divergence = find_divergence(recorded, repeated)
        environment = _environment_lines(repeated_dir)
        if use_recorded_source:  # in a temporary folder it is of no commit
            own = ("environment: commit:", "environment: dirty:")
            environment = [line for line in environment if not line.startswith(own)]
        if divergence is None:
            whole = len(recorded) < len(certificate)
            whole = whole or last_step(run_dir, record) is not None
            lines = [*_identity_lines(recorded, began, early=not whole), *environment]
        else:
            lines = [*_divergence_lines(divergence, recorded, repeated)]
            lines += describe_distance(run_dir, repeated_dir)
            if (run_dir / "resumed.jsonl").exists():
                lines.append(
                    "the recorded run itself was resumed in another environment, or "
                    "with other source: see resumed.jsonl"
                )
            lines += environment or ["environment.json says the same"]
    if changed:
        lines += ["the source differs from the recorded one:", *changed]
        lines.append("--recorded-source runs the recorded one")
    print("\n  ".join(lines))
    return 0 if divergence is None else 1


def _version(run_dir: Path, began: int) -> int:
    """Return the index of the source that the step after `began` was computed with."""
    try:
        lines = read_lines(run_dir / "resumed.jsonl")
    except FileNotFoundError:
        return 0
    steps = [line.get("step") for line in lines if "source" in line]
    return sum(type(step) is int and step <= began for step in steps)


def _ends(record: dict[str, Any], began: int, last: int | None) -> list[End]:
    """Return the ends of the starts that take a run from `began` to `last`, or its end.

    A run that was made longer had another end in each of its parts.
    """
    final = {name: record["config"].get(name) for name in ("epochs", "max_steps")}
    found = []
    for end in [*record["lengthened"], final | {"step": None}]:
        step = end["step"]
        options = {name: end[name] for name in final}
        if last is not None and (step is None or last <= step):
            return [*found, options | {"max_steps": last}]
        if step is None or step > began:
            found.append(options)
    return found


def _window(
    certificate: list[dict[str, Any]], start: int, stop: int | None
) -> list[dict[str, Any]]:
    """Return a certificate up to `stop`, with something recorded after `start`."""
    data, *lines = certificate
    found = [line for line in lines if stop is None or line["step"] <= stop]
    if found and (start == 0 or found[-1]["step"] > start):
        return [data, *found]
    until = "" if stop is None else f" up to step {stop}"
    raise OptionError(
        f"--steps: nothing is recorded after step {start}{until}; the certificate's "
        f"{len(lines)} lines are of step {lines[0]['step']} to {lines[-1]['step']}"
    )


def _last_checkpoint(run_dir: Path, start: int) -> int:
    """Return the last step with a checkpoint at or before `start`."""
    steps = saved_steps(run_dir / "checkpoints")
    before = [step for step in steps if step <= start]
    if not before:
        there = ", ".join(map(str, steps)) or "none"
        raise OptionError(
            f"--steps: {run_dir} has no checkpoint of step {start} or before; there "
            f"are: {there}; from 0 on no checkpoint is needed"
        )
    return before[-1]


def _begin(
    run_dir: Path, target: Path, record: dict[str, Any], end: End, step: int
) -> None:
    """Fill an empty folder as if the run had been interrupted after a step."""
    ends = [end for end in record["lengthened"] if end["step"] <= step]
    config = record["config"] | end
    config.pop("tensorboard", None)  # it need not be installed here
    write_json(target / "config.json", record | {"config": config, "lengthened": ends})
    if (run_dir / KEPT).is_file():
        shutil.copyfile(run_dir / KEPT, target / KEPT)
    for name in ("certificate.jsonl", "metrics.jsonl"):
        if (run_dir / name).is_file():
            (target / name).write_bytes(_up_to(run_dir / name, step))
    if step > 0:
        checkpoint = checkpoint_path(run_dir / "checkpoints", step)
        check_files(checkpoint)
        shutil.copytree(checkpoint, target / "checkpoints" / checkpoint.name)
    environment = read_environment(run_dir)
    if environment is not None:
        write_json(target / "environment.json", environment)


def _up_to(path: Path, step: int) -> bytes:
    """Return the lines that a journal had when the checkpoint of a step was saved."""
    lines = []
    for content, line in iterate_lines(path):
        number = line.get("step", 0)
        if not isinstance(number, int) or number > step or "interrupted" in line:
            break
        lines.append(content)
    return b"".join(lines)


def _run(again: Start, run_dir: Path, end: End) -> None:
    """Start the program to resume a folder, with another end if it has ended."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in end.items()]
    options += ["--as-recorded", "--accept-source", f"--run-dir={run_dir}"]
    status = run(again, options)
    if status == 1 and _has_fault(run_dir / "certificate.jsonl"):
        return
    if status != 0:
        raise OptionError(
            f"{again.described} could not be run: it ended with status {status}"
        )
    record = read_record(run_dir)
    if record is None or last_step(run_dir, record) is None:
        raise OptionError(
            f"{again.described} could not be run: it left no finished run"
        )


def _has_fault(certificate: Path) -> bool:
    try:
        return fault_of(read_certificate(certificate)) is not None
    except (OSError, ValueError):
        return False


def _identity_lines(
    recorded: list[dict[str, Any]], began: int, *, early: bool
) -> list[str]:
    count = recorded[-1]["step"] - began
    steps = f"{count} step" if count == 1 else f"{count} steps"
    after = f" after step {began}" if began else ""
    fault = fault_of(recorded)
    if fault is not None:
        return [f"identical to the bit: {steps}{after}, and both end there:", fault]
    went = ", as far as the run went" if early else ""
    return [f"identical to the bit{went}: {steps}{after}"]


def _divergence_lines(
    divergence: Divergence,
    recorded: list[dict[str, Any]],
    repeated: list[dict[str, Any]],
) -> list[str]:
    parts = ", ".join(divergence.parts) or "end"
    lines = [f"they differ from step {divergence.step} on: {parts}"]
    faults = {"recorded": fault_of(recorded), "new": fault_of(repeated)}
    return lines + [f"the {which} run ends: {f}" for which, f in faults.items() if f]


def _environment_lines(run_dir: Path) -> list[str]:
    """Return how the environment differs, which the resumed run has recorded."""
    if not (run_dir / "environment.json").exists():
        return ["environment.json is missing or not that of a run"]
    path = run_dir / "resumed.jsonl"
    if not path.exists():
        return []
    return [
        f"environment: {in_line(name)}: {in_line(old)} -> {in_line(new)}"
        for line in read_lines(path)
        for name, (old, new) in line["differences"].items()
    ]
