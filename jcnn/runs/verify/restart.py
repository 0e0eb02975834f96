"""Starting the program of a recorded run again, with its current or recorded source."""

import os
import shlex
import sys
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, NamedTuple

from ..config import OptionError
from ..output import printable
from ..program import Program, program_files, start_arguments
from .environment import git
from .source import repository, unpack_source


class Start(NamedTuple):
    """A program, where and with which variables to start it, and how to name it."""

    program: Program
    folder: Path
    variables: dict[str, str]
    described: str


def find_start(name: str, source: dict[str, Any] | None) -> Start:
    """Find the program of a run below the current folder or its repository.

    Raises:
        OptionError: If it is not there; installed modules are not searched.
    """
    here, files = Path.cwd(), program_files(name)
    places = [(here / file, here) for file in files]
    if source is not None and _ends_with_any(Path(source["program"]), files):
        roots = _repositories(here, Path(source["folder"]))
        own = [(root / source["program"], root / source["folder"]) for root in roots]
        places = own + places
    for file, folder in places:
        if file.is_file() and folder.is_dir():
            return Start(Program(name, file.resolve()), folder, {**os.environ}, name)
    raise OptionError(
        f"config.json: {name} is not in {here}: there is no "
        f"{' and no '.join(map(str, files))}"
    )


def with_source(start: Start, source: dict[str, Any], folder: Path) -> Start:
    """Return the same start with a source that is unpacked into a new folder."""
    root = repository(source, start.program)
    folders = unpack_source(source, root, folder)
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [p for p in others if p and not Path(p).absolute().is_relative_to(root)]
    variables = {"PYTHONPATH": os.pathsep.join([*map(str, folders), *others])}
    return Start(
        Program(start.program.name, folder / source["program"]),
        folder / start.folder.relative_to(root),
        start.variables | variables,
        f"the recorded source of {start.described}",
    )


def run(start: Start, options: list[str]) -> int:
    """Run the program and return its exit status; its output goes to standard error."""
    command = [sys.executable, *start_arguments(start.program.name), *options]
    print(
        f"running {start.described} in {start.folder}; this executes its code:\n"
        f"  {printable(shlex.join(command))}",
        file=sys.stderr,
        flush=True,
    )
    try:
        process = Popen(
            command, cwd=start.folder, stdin=DEVNULL, stdout=2, env=start.variables
        )
    except (OSError, ValueError) as error:
        raise OptionError(f"{start.described} cannot be started: {error}") from error
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _repositories(here: Path, folder: Path) -> list[Path]:
    """Return candidates for the repository of which `here` may be the `folder`."""
    top = git(here, "rev-parse", "--show-toplevel")
    depth = len(folder.parts)
    above = here.parents[depth - 1] if 0 < depth < len(here.parts) else here
    return [*([Path(os.fsdecode(top))] if top else []), above, here]


def _ends_with_any(path: Path, ends: list[Path]) -> bool:
    return any(path.parts[-len(end.parts) :] == end.parts for end in ends)
