"""The source that decides a run, kept in its folder: `source.json`.

That is the experiment's module and the modules of its own repository that it imports.
A run goes on with the same source; if the user wants it otherwise, the other one is
kept beside the first, as `source-2.json`.
"""

import difflib
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._files import write_file
from .._untrusted import read_object
from .environment import git
from .output import printable
from .program import Program, is_below
from .run_folder import write_json

_MOST_TEXT = 16 << 20  # bytes of all files; what is beyond has a digest alone
_MOST_JSON = 8 * _MOST_TEXT  # a byte may take six of JSON
_MOST_LINES = 60  # of a difference


def read_source(program: Program) -> dict[str, Any]:
    """The source that a program has imported so far.

    Returns:
        What `source.json` holds: "files", names to "sha256" and "text"; "program", the
        name of the program's own; "path", the folders of `sys.path` in the repository;
        "commit" and "diff", which these files have to it, where there is git. Names are
        relative to the repository: that of git, or else the current folder, or that of
        the program.

    >>> from jcnn.experiment.program import find_program
    >>> source = read_source(find_program(read_source, started=False))
    >>> source["files"]["jcnn/experiment/source.py"]["text"].splitlines()[0]
    '\"\"\"The source that decides a run, kept in its folder: `source.json`.'
    """
    root = _root(program)
    names = _own_files(root, program)
    contents = {name: (root / name).read_bytes() for name in names}
    if program.file is None:
        contents[program.name] = program.text.encode(errors="surrogateescape")
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    diff = None if commit is None else git(root, "diff", "HEAD", "--", *names)
    folders = (_below(root, Path(folder)) for folder in sys.path)
    return {
        "commit": None if commit is None else _text(commit),
        "diff": None if diff is None else _text(diff),
        "program": _name(root, program),
        "path": [folder for folder in folders if folder is not None],
        "files": _files(contents),
    }


def write_source(run_dir: Path, source: dict[str, Any]) -> str:
    """Write what `read_source` has returned beside what is there; returns the name."""
    path = [*_versions(run_dir)][-1]
    write_json(path, source)
    return path.name


def recorded_source(run_dir: Path) -> dict[str, Any] | None:
    """The last source of a run; None if there is none.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not what a run writes.

    >>> recorded_source(Path("nowhere"))
    """
    *there, _ = _versions(run_dir)
    if not there:
        return None
    source = read_object(there[-1], most=_MOST_JSON)
    files, folders = source.get("files"), source.get("path")
    if (
        isinstance(files, dict)
        and isinstance(folders, list)
        and isinstance(source.get("program"), str)
        and source["program"] in files
        and all(map(_is_file, files.items()))
        and all(map(_is_name, folders))
    ):
        return source
    raise ValueError(f"{there[-1]} is not the source of a run")


def compare_source(recorded: dict[str, Any], program: Program) -> list[str]:
    """Lines, as of `diff -u`, from a recorded source to that which is there now.

    At most some sixty of them, which name every file that differs.
    """
    root = _root(program)
    lines = []
    if _name(root, program) != recorded["program"]:
        names = (recorded["program"], _name(root, program))
        lines.append("program: {} -> {}".format(*map(printable, names)))
    for name, file in recorded["files"].items():
        if program.file is None and name == program.name:
            new = program.text.encode(errors="surrogateescape")
        else:
            new = _content(root / name)
        if new is None or _digest(new) != file["sha256"]:
            lines += _difference(name, file["text"], new)
    return lines if len(lines) <= _MOST_LINES else _shortened(lines)


def unpack_source(source: dict[str, Any], folder: Path) -> list[Path]:
    """Write recorded files below a folder.

    Returns:
        The folders there from which they were imported.

    Raises:
        ValueError: If a file is recorded by its digest alone, or has a name or a text
            that no file has.
    """
    for name, file in source["files"].items():
        if file["text"] is None:
            raise ValueError(f"source.json has no text of {printable(name)}")
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, file["text"].encode(errors="surrogateescape"))
        except (OSError, ValueError) as error:
            reason = printable(str(error))
            raise ValueError(f"source.json: cannot be written: {reason}") from error
    return [folder / name for name in source["path"]]


def _root(program: Program) -> Path:
    """Of the program's repository."""
    here = Path.cwd()
    folder = program.file.parent if program.file else here
    top = git(folder, "rev-parse", "--show-toplevel")
    if top:
        return Path(os.fsdecode(top)).resolve()
    return (here if folder.is_relative_to(here) else folder).resolve()


def _own_files(root: Path, program: Program) -> list[str]:
    """The modules that were imported of a repository, but for what is installed in it,
    say in a virtual environment.
    """
    installed = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    installed = [folder for folder in installed if not root.is_relative_to(folder)]
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        name = _below(root, Path(file))
        if name is None or not (root / name).is_file():
            continue
        packages = {"site-packages", "dist-packages"} & set(Path(name).parts)
        if not packages and not any((root / name).is_relative_to(f) for f in installed):
            found.add(name)
    if program.file is not None:
        found.add(_name(root, program))
    return sorted(found)


def _name(root: Path, program: Program) -> str:
    """That of the program among the files of its repository."""
    return (program.file and _below(root, program.file)) or program.name


def _below(root: Path, path: Path) -> str | None:
    """The name of a file or folder below another one; a link keeps its own name."""
    place = path.parent.resolve() / path.name if path.name else path.resolve()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else None


def _files(contents: dict[str, bytes]) -> dict[str, dict[str, str | None]]:
    files, total = {}, 0
    for name, content in contents.items():
        total += len(content)
        text = _text(content) if total <= _MOST_TEXT else None
        files[name] = {"sha256": _digest(content), "text": text}
    return files


def _versions(run_dir: Path) -> Iterator[Path]:
    """The sources that a run has, oldest first, and the name of the next one."""
    path, number = run_dir / "source.json", 1
    while path.exists():
        yield path
        number += 1
        path = run_dir / f"source-{number}.json"
    yield path


def _difference(name: str, old: str | None, new: bytes | None) -> list[str]:
    name = printable(name)
    if new is None:
        return [f"{name} is missing, or cannot be read"]
    if old is None:
        return [f"{name} is another file, whose text was not recorded"]
    lines = difflib.unified_diff(
        old.splitlines(),
        _text(new).splitlines(),
        f"{name}, recorded",
        name,
        lineterm="",
    )
    # Line ends and what else is invisible may be all that differs.
    found = [printable(line.expandtabs()) for line in lines]
    return found or [f"{name} differs in its line ends"]


def _shortened(lines: list[str]) -> list[str]:
    names = [line for line in lines[_MOST_LINES:] if line.startswith("+++ ")]
    left = f"… {len(lines) - _MOST_LINES} more lines"
    return [*lines[:_MOST_LINES], left, *names]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (OSError, ValueError):  # the latter of a name that no file has
        return None


def _text(content: bytes) -> str:
    """Any bytes as text, to be told and to be written again."""
    return content.decode(errors="surrogateescape")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_file(item: tuple[str, Any]) -> bool:
    name, file = item
    return (
        _is_name(name)
        and isinstance(file, dict)
        and isinstance(file.get("sha256"), str)
        and isinstance(file.get("text", 0), str | None)
    )


def _is_name(name: Any) -> bool:
    """Whether it is that of a file or folder below the repository's."""
    return isinstance(name, str) and is_below(name)
