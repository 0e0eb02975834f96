"""`source.json`: the modules of its own repository that an experiment imports.

A run that was resumed with other source also has a `source-2.json`, and so on.
"""

import difflib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..._files import read_object, write_file
from ..output import printable
from ..program import Program, is_below, is_installed
from ..store.digests import digest_bytes
from ..store.folder import write_json
from .environment import git

_MOST_TEXT = 16 << 20  # bytes of all files; beyond, only the digest is recorded
_MOST_JSON = 8 * _MOST_TEXT  # a byte may take six of JSON
_MOST_LINES = 60  # of a difference
_WIDEST = 200  # characters of one of them


def read_source(program: Program) -> dict[str, Any]:
    """Read the source that a program has imported so far.

    Returns:
        "files", names to "sha256", "text" and "module"; "program", the name of the
        program's file; "folder", where it was started; "path", the folders of
        `sys.path` in the repository; "commit" and "diff" of these files, if there is
        git. Names are relative to git's repository, the current or program's folder.
    """
    root = _root(program)
    modules = _own_modules(root, program)
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    return {
        "program": _name(root, program),
        "folder": _below(root, Path.cwd()) or str(Path(_name(root, program)).parent),
        "path": [name for name in (_below(root, Path(p)) for p in sys.path) if name],
        "commit": None if commit is None else _text(commit),
        "diff": None if commit is None else _git_diff(root, modules),
        "files": _files(root, program, modules),
    }


def write_source(run_dir: Path, source: dict[str, Any]) -> str:
    """Write a source beside those that are there, and return the file's name."""
    path = [*_versions(run_dir)][-1]
    write_json(path, source)
    return path.name


def recorded_source(run_dir: Path, *, version: int = -1) -> dict[str, Any] | None:
    """Read one of a run's sources, by index from the oldest; None if there is none.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not what a run writes.
    """
    *there, _ = _versions(run_dir)
    if not there:
        return None
    source = read_object(there[version], most=_MOST_JSON)
    try:
        names = [source["program"], source["folder"], *source["path"], *source["files"]]
        good = all(map(is_below, names)) and source["program"] in source["files"]
        good = good and all(map(_is_intact, source["files"].values()))
    except (AttributeError, KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{there[version]} is not the source of a run")
    return source


def repository(source: dict[str, Any], program: Program) -> Path:
    """Return where the repository of a recorded source is now."""
    own = Path(source["program"]).parts
    file = program.file
    if file is not None and file.parts[-len(own) :] == own:
        return file.parents[len(own) - 1]
    return _root(program)


def compare_source(recorded: dict[str, Any], program: Program) -> list[str]:
    """Return the lines of `diff -u` from a recorded source to the current one.

    At most sixty lines are returned, then the names of all other files that differ.
    """
    root = repository(recorded, program)
    lines = []
    if _name(root, program) != recorded["program"]:
        names = (recorded["program"], _name(root, program))
        lines.append("program: {} -> {}".format(*map(printable, names)))
    for name, file in recorded["files"].items():
        new = _content(root / name)
        if program.file is None and name == program.name:
            new = _bytes(program.text)
        if new is None or digest_bytes(new) != file["sha256"]:
            lines += _difference(name, file["text"], new)
        elif hidden := _hidden_by(root / name, file["module"]):
            lines.append(f"{printable(name)} is hidden by {printable(hidden)}")
    lines = [line if len(line) <= _WIDEST else f"{line[:_WIDEST]}…" for line in lines]
    left = lines[_MOST_LINES:]
    names = [line for line in left if line.startswith("+++ ")][:_MOST_LINES]
    return lines[:_MOST_LINES] + [f"… {len(left)} more lines", *names] * bool(left)


def unpack_source(source: dict[str, Any], root: Path, folder: Path) -> list[Path]:
    """Fill a new folder with the recorded files and links to the rest of a repository.

    Returns:
        The folders in it that modules were imported from.

    Raises:
        ValueError: If a file's text was not recorded, or it cannot be written.
    """
    try:
        _link(root, folder, {Path(name).parts for name in source["files"]})
        for name, file in source["files"].items():
            if file["text"] is None:
                raise ValueError(f"there is no text of {printable(name)}")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, _bytes(file["text"]))
    except (OSError, ValueError) as error:
        reason = printable(str(error))
        raise ValueError(f"source.json cannot be unpacked: {reason}") from error
    return [folder / name for name in source["path"]]


def _link(root: Path, folder: Path, parts: set[tuple[str, ...]]) -> None:
    """Link everything in a folder except some files, whose folders are made."""
    folder.mkdir(parents=True)
    inside: dict[str, set[tuple[str, ...]]] = {}
    for first, *rest in filter(None, parts):
        inside.setdefault(first, set()).add(tuple(rest))
    for path in root.iterdir() if root.is_dir() else ():
        if path.name not in inside and path.name != ".git":
            (folder / path.name).symlink_to(path)
    for name, rest in inside.items():
        if rest != {()}:
            _link(root / name, folder / name, rest)


def _root(program: Program) -> Path:
    here = Path.cwd().resolve()
    folder = program.file.parent if program.file else here
    top = git(folder, "rev-parse", "--show-toplevel")
    if top:
        return Path(os.fsdecode(top)).resolve()
    return here if folder.is_relative_to(here) else folder


def _own_modules(root: Path, program: Program) -> dict[str, str]:
    """Return the imported files of a repository, with the names of their modules.

    What is installed in it, say in a virtual environment, is left out.
    """
    found, resolve = {}, cache(Path.resolve)
    for module_name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            name = _below(root, Path(file), resolve)
            if name and (root / name).is_file() and not is_installed(file, root):
                found[name] = module_name
    if program.file is not None:
        found[_name(root, program)] = "__main__"
    return dict(sorted(found.items()))


def _name(root: Path, program: Program) -> str:
    """Return the name of the program's file in its repository."""
    return (program.file and _below(root, program.file)) or program.name


def _below(root: Path, path: Path, resolve=Path.resolve) -> str | None:
    """Return the name of a path relative to a folder; a link keeps its own name."""
    place = resolve(path.parent) / path.name if path.name else resolve(path)
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else None


def _git_diff(root: Path, names: dict[str, str]) -> str | None:
    # Independent of the user's configuration.
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/")
    diff = git(root, "--literal-pathspecs", "diff", *plain, "HEAD", "--", *names)
    return None if diff is None or len(diff) > _MOST_TEXT else _text(diff)


def _files(
    root: Path, program: Program, modules: dict[str, str]
) -> dict[str, dict[str, str | None]]:
    contents = {name: (root / name).read_bytes() for name in modules}
    if program.file is None:
        contents[program.name] = _bytes(program.text)
    files, total = {}, 0
    for name, content in contents.items():
        total += len(content)
        files[name] = {
            "module": modules.get(name, "__main__"),
            "sha256": digest_bytes(content),
            "text": _text(content) if total <= _MOST_TEXT else None,
        }
    return files


def _versions(run_dir: Path) -> Iterator[Path]:
    """Yield the sources of a run, oldest first, and the path of the next one."""
    path, number = run_dir / "source.json", 1
    while os.path.lexists(path):
        yield path
        number += 1
        path = run_dir / f"source-{number}.json"
    yield path


def _hidden_by(path: Path, module: str) -> str | None:
    """Return the file that a module was imported from, if it is not `path`."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or not isinstance(file, str):
        return None
    return None if Path(file).resolve() == path.resolve() else file


def _difference(name: str, old: str | None, new: bytes | None) -> list[str]:
    name = printable(name)
    if new is None:
        return [f"{name} is missing, or cannot be read"]
    if old is None:
        return [f"{name} is another file, whose text was not recorded"]
    texts = old.splitlines(), _text(new).splitlines()
    lines = difflib.unified_diff(*texts, f"{name}, recorded", name, lineterm="")
    found = [printable(line.expandtabs()) for line in lines]
    return found or [f"{name} differs in its line ends"]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (OSError, ValueError):  # the latter of a name that no file has
        return None


def _text(content: bytes) -> str:
    """Decode any bytes so that they can be encoded again."""
    return content.decode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _is_intact(file: dict[str, Any]) -> bool:
    """Return whether a recorded file has the digest of its text."""
    text = file["text"]
    digest = file["sha256"] if text is None else digest_bytes(_bytes(text))
    return digest == file["sha256"] and isinstance(digest + file["module"], str)
