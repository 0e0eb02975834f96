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
from .checkpoints import refuse_links
from .compare import describe_distance, find_parting, read_certificate
from .config import OptionError
from .journal import iterate_lines, read_lines
from .resume import is_finished
from .run_folder import read_environment, read_record, write_json


def reproduce(
    run_dir: Path, *, from_checkpoint: int | None = None, data_dir: Path | None = None
) -> int:
    """Run the recorded experiment in a process of its own, and say how it compares.

    This executes the recorded module, which must be a file below the current folder;
    the command is printed before. Everything else in `run_dir` is data, and nothing is
    written there: the new run has a temporary folder.

    Args:
        run_dir: The folder of a run, finished or not.
        from_checkpoint: Step of one of its checkpoints to begin with, rather than with
            the first step.
        data_dir: Folder of the prepared data sets, if not the recorded one.

    Returns:
        0 if all digests are the same, 1 if one is not.

    Raises:
        OptionError: If there is nothing to repeat in `run_dir`, or the experiment
            cannot be run to its end, say because the data are others.
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
    recorded = read_certificate(run_dir / "certificate.jsonl")
    _check_module(record["experiment"])
    if from_checkpoint is not None and from_checkpoint >= recorded[-1]["step"]:
        raise OptionError(
            f"--from-checkpoint: after step {from_checkpoint} there is nothing to "
            f"compare: the certificate ends at step {recorded[-1]['step']}"
        )
    if data_dir is not None:
        record = record | {"config": record["config"] | {"data_dir": str(data_dir)}}
    with tempfile.TemporaryDirectory(prefix="jcnn-reproduce-") as folder:
        repeated_dir = Path(folder, "run")
        repeated_dir.mkdir()
        environment_known = _begin(run_dir, repeated_dir, record, from_checkpoint)
        _run(record, repeated_dir)
        began = from_checkpoint or 0
        if list(repeated_dir.glob("checkpoints/*.damaged*")):
            began = 0  # the run has said why
        repeated = read_certificate(repeated_dir / "certificate.jsonl")
        parting = find_parting(recorded, repeated)
        if parting is None:
            _say_identical(began, recorded[-1]["step"], repeated[-1]["step"])
            return 0
        print(f"they part at step {parting.step}: {', '.join(parting.parts) or 'end'}")
        lines = describe_distance(run_dir, repeated_dir)
        if (run_dir / "resumed.jsonl").exists():
            lines.append("the recorded run itself went on in another environment")
        if environment_known:
            lines += _environment_lines(repeated_dir)
        else:
            lines.append("environment.json is missing or not that of a run")
        print(*(f"  {line}" for line in lines), sep="\n")
        return 1


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


def _begin(
    run_dir: Path, target: Path, record: dict[str, Any], from_checkpoint: int | None
) -> bool:
    """Fill a folder as if the run had been interrupted, by default before its first
    step: the same command goes on with it, and refuses other data and other options.

    Returns:
        Whether the run has recorded its environment.
    """
    write_json(target / "config.json", record)
    if (run_dir / "tuned.json").is_file():
        with open_file(run_dir / "tuned.json", MOST_JSON) as file:
            (target / "tuned.json").write_bytes(file.read())
    # Nothing after the checkpoint, so that all that is there in the end was computed.
    for name in ("certificate.jsonl", "metrics.jsonl"):
        if (run_dir / name).is_file():
            content = _up_to(run_dir / name, from_checkpoint or 0)
            (target / name).write_bytes(content)
    if from_checkpoint is not None:
        _copy_checkpoint(run_dir, target, from_checkpoint)
    environment = read_environment(run_dir)
    if environment is None:
        return False
    write_json(target / "environment.json", environment)
    return True


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
    folder = run_dir / "checkpoints"
    names = [path.name for path in folder.glob("[0-9]*") if path.name.isdecimal()]
    steps = sorted(map(int, names))
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise OptionError(
            f"--from-checkpoint: {run_dir} has no checkpoint of step {step}; "
            f"there are: {there}"
        )
    source = folder / f"{step:010d}"
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
    if status != 0:
        raise OptionError(f"{name} could not be run: it ended with status {status}")
    if not is_finished(run_dir):
        raise OptionError(f"{name} could not be run: it left no finished run")


def _say_identical(began: int, end: int, last: int) -> None:
    words = f"{end} steps" if not began else f"{end - began} steps after {began}"
    print(f"identical to the bit: {words}")
    if end < last:
        print(f"  the recorded certificate ends there, the whole run at step {last}")


def _environment_lines(run_dir: Path) -> list[str]:
    """What a run that went on has noted of environments that differ."""
    path = run_dir / "resumed.jsonl"
    if not path.exists():
        return ["environment.json says the same"]
    return [
        f"environment: {json.dumps(name)[1:-1]}: {json.dumps(old)} -> {json.dumps(new)}"
        for line in read_lines(path)
        for name, (old, new) in line["differences"].items()
    ]
