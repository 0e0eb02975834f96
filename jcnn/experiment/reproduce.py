"""Running what a run folder records once more, and comparing every digest."""

import json
import keyword
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

from .._untrusted import MOST_JSON, open_file
from .checkpoints import checkpoint_path, refuse_links, saved_steps
from .compare import (
    Parting,
    describe_distance,
    fault_of,
    find_parting,
    read_certificate,
)
from .config import OptionError
from .journal import iterate_lines, read_lines
from .resume import is_finished
from .run_folder import read_environment, read_record, write_json


def reproduce(
    run_dir: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    data_dir: Path | None = None,
) -> int:
    """Run the recorded experiment in a process of its own, and say how it compares.

    This executes the recorded module, which must be a file below the current folder;
    the command is printed before. Everything else in `run_dir` is data, and nothing is
    written there: the new run has a temporary folder. It ends with the last step that
    is to be compared.

    Args:
        run_dir: The folder of a run: finished, interrupted, or ended by numbers that
            were not finite.
        start: What is recorded after this step is compared. The new run begins with
            the last checkpoint that is not after it, or with the first step if it is 0.
        stop: What is recorded after this step is not compared; None for all.
        data_dir: Folder of the prepared data sets, if not the recorded one.

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
    jcnn.experiment.config.OptionError: nowhere is not the folder of a run
    """
    record = read_record(run_dir)
    if record is None:
        raise OptionError(f"{run_dir} is not the folder of a run")
    if not (run_dir / "certificate.jsonl").exists():
        raise OptionError(f"{run_dir} has no certificate.jsonl to compare with")
    certificate = read_certificate(run_dir / "certificate.jsonl")
    _check_module(record["experiment"])
    recorded = _window(certificate, start, stop)
    began = _last_checkpoint(run_dir, start) if start else 0
    changes: dict[str, Any] = {}
    if fault_of(recorded) is None:  # otherwise it ends by itself, where that one did
        changes["max_steps"] = recorded[-1]["step"]
    if data_dir is not None:
        changes["data_dir"] = str(data_dir)
    record = record | {"config": record["config"] | changes}
    with tempfile.TemporaryDirectory(prefix="jcnn-reproduce-") as folder:
        repeated_dir = Path(folder, "run")
        repeated_dir.mkdir()
        _begin(run_dir, repeated_dir, record, began)
        _run(record, repeated_dir)
        repeated = read_certificate(repeated_dir / "certificate.jsonl")
        parting = find_parting(recorded, repeated)
        if parting is None:
            ended = len(recorded) < len(certificate) or is_finished(run_dir)
            lines = _identity_lines(recorded, began, early=not ended)
            lines += _environment_lines(repeated_dir)
        else:
            lines = [_parting_line(parting), *_fault_lines(recorded, repeated)]
            lines += describe_distance(run_dir, repeated_dir)
            if (run_dir / "resumed.jsonl").exists():
                lines.append("the recorded run itself went on in another environment")
            environment = _environment_lines(repeated_dir)
            lines += environment or ["environment.json says the same"]
        print("\n  ".join(lines))
        return 0 if parting is None else 1


def command_options(config: dict[str, Any], prefix: str = "--") -> list[str]:
    """The command line that stands for recorded options.

    It need not be exact: a run that goes on refuses other options than the recorded.

    >>> command_options({"epochs": 3, "sizes": [1, 2], "adam": {"nesterov": False}})
    ['--epochs=3', '--sizes', '1', '2', '--adam.no-nesterov']
    """
    found = []
    for name, value in config.items():
        option = name.replace("_", "-")
        if isinstance(value, dict):
            found += command_options(value, f"{prefix}{option}.")
        elif isinstance(value, bool):
            found.append(f"{prefix}{option if value else f'no-{option}'}")
        elif isinstance(value, list):
            found += [f"{prefix}{option}", *map(str, value)]
        else:
            found.append(f"{prefix}{option}={value}")
    return found


def _check_module(name: str) -> None:
    """Raise if `name` is not that of a module below the current folder.

    Finding it by importing the packages above it would execute them. And any installed
    module would be too much: with options to their liking, strangers could do with
    some what they want.
    """
    parts = name.split(".")
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise OptionError(
            f"config.json: {json.dumps(name)} is not the name of a module"
        )
    path = Path(*parts)
    files = (path.with_suffix(".py"), path / "__main__.py")
    if not any(file.is_file() for file in files):
        raise OptionError(
            f"config.json: the module {name} is not in {Path.cwd()}: "
            f"there is neither {files[0]} nor {files[1]}"
        )


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


def _begin(run_dir: Path, target: Path, record: dict[str, Any], step: int) -> None:
    """Fill a folder as if the run had been interrupted after a step: the same command
    goes on with it, and refuses other data and other options.
    """
    write_json(target / "config.json", record)
    if (run_dir / "tuned.json").is_file():
        with open_file(run_dir / "tuned.json", MOST_JSON) as file:
            (target / "tuned.json").write_bytes(file.read())
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


def _run(record: dict[str, Any], run_dir: Path) -> None:
    """The experiment as a program in the current folder; what it says is for stderr."""
    name = record["experiment"]
    recorded = {k: v for k, v in record["config"].items() if k != "run_dir"}
    # It comes last: what strangers may have hidden in the others does not count.
    options = [*command_options(recorded), f"--run-dir={run_dir}"]
    command = [sys.executable, "-m", name, *options]
    print(
        f"running {name} of {Path.cwd()}, whose code is executed by this:\n"
        f"  {shlex.join(command)}",
        file=sys.stderr,
        flush=True,
    )
    try:
        process = Popen(command, stdin=DEVNULL, stdout=2)
    except (OSError, ValueError) as error:  # a NUL, or more text than a system allows
        raise OptionError(
            f"config.json: its options cannot be given to a program: {error}"
        ) from error
    try:
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status == 1 and _has_fault(run_dir / "certificate.jsonl"):
        return
    if status != 0:
        raise OptionError(f"{name} could not be run: it ended with status {status}")
    if not is_finished(run_dir):
        raise OptionError(f"{name} could not be run: it left no finished run")


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
