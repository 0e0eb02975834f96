"""Running what a run folder records once more, and comparing every digest."""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..._untrusted import open_file
from ..config import OptionError
from ..initial import KEPT
from ..store.checkpoints import checkpoint_path, refuse_links, saved_steps
from ..store.folder import read_environment, read_record, write_json
from ..store.journal import iterate_lines, read_lines
from ..store.weights import MOST_BYTES
from .compare import (
    Parting,
    describe_distance,
    fault_of,
    find_parting,
    read_certificate,
)
from .restart import Start, find_start, run, with_source
from .resume import last_step
from .source import compare_source, recorded_source


def reproduce(
    run_dir: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    data_dir: Path | None = None,
    use_recorded_source: bool = False,
) -> int:
    """Run the recorded experiment in a process of its own, and say how it compares.

    This executes the recorded program, which must be a file below the current folder;
    the command is printed before. Everything in `run_dir` is data, and nothing is
    written there: the new run has a temporary folder. It ends with the last step that
    is to be compared. Where the program is another one than recorded, the lines that
    differ are told.

    Args:
        run_dir: The folder of a run: finished, interrupted, or ended by numbers that
            were not finite.
        start: What is recorded after this step is compared. The new run begins with
            the last checkpoint that is not after it, or with the first step if it is 0.
        stop: What is recorded after this step is not compared; None for all.
        data_dir: Folder of the prepared data sets, if not the recorded one.
        use_recorded_source: Whether to execute the source that `run_dir` holds, and not
            that in the current folder.

    Returns:
        0 if all digests are the same, 1 if one is not.

    Raises:
        OptionError: If there is nothing to repeat in `run_dir` or of these steps, or
            the experiment cannot be run to its end, say because the data are others.
        OSError: If a file cannot be read.
        ValueError: If `run_dir` holds something else than a run writes.

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
    # With a fault it ends by itself, where that one did.
    last = None if fault_of(recorded) else recorded[-1]["step"]
    source = recorded_source(run_dir, version=_version(run_dir, began))
    if source is None and use_recorded_source:
        raise OptionError("--recorded-source: the run has no source.json")
    again = find_start(record["experiment"], source)
    with tempfile.TemporaryDirectory(prefix="jcnn-reproduce-") as folder:
        changed = []
        if use_recorded_source:
            again = with_source(again, source or {}, Path(folder, "source"))
        elif source is not None:
            changed = compare_source(source, again.program)
        if changed:
            print("the source is another one than recorded", file=sys.stderr)
        repeated_dir = Path(folder, "run")
        repeated_dir.mkdir()
        first, *others = _ends(record, began, last)
        _begin(run_dir, repeated_dir, record, first, began)
        for end in ({}, *others):
            _run(again, repeated_dir, end)
        repeated = read_certificate(repeated_dir / "certificate.jsonl")
        parting = find_parting(recorded, repeated)
        environment = _environment_lines(repeated_dir)
        if use_recorded_source:  # in a temporary folder it is of no commit
            own = ("environment: commit:", "environment: dirty:")
            environment = [line for line in environment if not line.startswith(own)]
        if parting is None:
            whole = len(recorded) < len(certificate)
            whole = whole or last_step(run_dir, record) is not None
            lines = _identity_lines(recorded, began, early=not whole)
            lines += environment
        else:
            lines = [_parting_line(parting), *_fault_lines(recorded, repeated)]
            lines += describe_distance(run_dir, repeated_dir)
            if (run_dir / "resumed.jsonl").exists():
                lines.append(
                    "the recorded run itself went on in another environment, or with "
                    "other source: see resumed.jsonl"
                )
            lines += environment or ["environment.json says the same"]
        if changed:
            lines += ["the source is another one than recorded:", *changed]
            lines.append("--recorded-source runs the recorded one")
        print("\n  ".join(lines))
        return 0 if parting is None else 1


def _version(run_dir: Path, began: int) -> int:
    """Which of a run's sources the step after another one was computed with."""
    try:
        lines = read_lines(run_dir / "resumed.jsonl")
    except FileNotFoundError:
        return 0
    steps = [line.get("step") for line in lines if "source" in line]
    return sum(type(step) is int and step <= began for step in steps)


def _ends(
    record: dict[str, Any], began: int, last: int | None
) -> list[dict[str, int | None]]:
    """Epochs and steps of a run each time that it was started after an end.

    Args:
        record: That of the run.
        began: The step to begin after.
        last: The step to end with; None for the run's own end.
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
    """A certificate as far as `stop`, with something recorded after `start`."""
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
    """The last step with a checkpoint that is not after `start`."""
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
    run_dir: Path,
    target: Path,
    record: dict[str, Any],
    end: dict[str, int | None],
    step: int,
) -> None:
    """Fill a folder as if the run had been interrupted after a step: its program goes
    on with it, and refuses other data.

    Args:
        run_dir: The folder of the run.
        target: An empty one.
        record: That of the run.
        end: Its options "epochs" and "max_steps" at that time.
        step: The step.
    """
    ends = [end for end in record["lengthened"] if end["step"] <= step]
    config = record["config"] | end
    write_json(target / "config.json", record | {"config": config, "lengthened": ends})
    if (run_dir / KEPT).is_file():
        with open_file(run_dir / KEPT, MOST_BYTES) as file:
            (target / KEPT).write_bytes(file.read())
    # Nothing after the checkpoint, so that all that is there in the end was computed.
    for name in ("certificate.jsonl", "metrics.jsonl"):
        if (run_dir / name).is_file():
            (target / name).write_bytes(_up_to(run_dir / name, step))
    if step > 0:
        _copy_checkpoint(run_dir, target, step)
    environment = read_environment(run_dir)
    if environment is not None:
        write_json(target / "environment.json", environment)


def _up_to(path: Path, step: int) -> bytes:
    """The lines of a journal that a run had written when it saved a checkpoint."""
    lines = []
    for content, line in iterate_lines(path):
        number = line.get("step", 0)
        if not isinstance(number, int) or number > step or "interrupted" in line:
            break
        lines.append(content)
    return b"".join(lines)


def _copy_checkpoint(run_dir: Path, target: Path, step: int) -> None:
    source = checkpoint_path(run_dir / "checkpoints", step)
    refuse_links(source)
    shutil.copytree(source, target / "checkpoints" / source.name)


def _run(again: Start, run_dir: Path, end: dict[str, int | None]) -> None:
    """Start the program to go on with a folder.

    Args:
        again: How it is started.
        run_dir: The folder, which has the program's other options.
        end: Its options "epochs" and "max_steps", if it has ended and goes on.
    """
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
    """That all is the same: how many steps, and why both ended if by a fault."""
    count = recorded[-1]["step"] - began
    steps = f"{count} step" if count == 1 else f"{count} steps"
    after = f" after step {began}" if began else ""
    fault = fault_of(recorded)
    if fault is not None:
        return [f"identical to the bit: {steps}{after}, and both end there:", fault]
    went = ", as far as the run went" if early else ""
    return [f"identical to the bit{went}: {steps}{after}"]


def _parting_line(parting: Parting) -> str:
    return f"they part at step {parting.step}: {', '.join(parting.parts) or 'end'}"


def _fault_lines(
    recorded: list[dict[str, Any]], repeated: list[dict[str, Any]]
) -> list[str]:
    faults = {"recorded": fault_of(recorded), "new": fault_of(repeated)}
    return [
        f"the {which} run ends: {fault}" for which, fault in faults.items() if fault
    ]


def _environment_lines(run_dir: Path) -> list[str]:
    """What a run that went on has noted of environments that differ."""
    if not (run_dir / "environment.json").exists():
        return ["environment.json is missing or not that of a run"]
    path = run_dir / "resumed.jsonl"
    if not path.exists():
        return []
    return [
        f"environment: {json.dumps(name)[1:-1]}: {json.dumps(old)} -> {json.dumps(new)}"
        for line in read_lines(path)
        for name, (old, new) in line["differences"].items()
    ]
