"""The source that decides a run, kept in its folder: `source.json`.

That is the experiment's module and the modules of its own repository that it imports.
A run goes on with the same source; if the user wants it otherwise, the other one is
kept beside the first, as `source-2.json`.
"""

import difflib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._files import write_file
from ..._untrusted import read_object
from ..output import printable
from ..program import Program, is_below, is_installed
from ..store.folder import write_json
from .environment import git

_MOST_TEXT = 16 << 20  # bytes of all files; what is beyond has a digest alone
_MOST_JSON = 8 * _MOST_TEXT  # a byte may take six of JSON
_MOST_LINES = 60  # of a difference
_WIDEST = 200  # signs of one of them


def read_source(program: Program) -> dict[str, Any]:
    """The source that a program has imported so far.

    Returns:
        What `source.json` holds: "files", names to "sha256", "text" and the name of the
        "module"; "program", the name of the program's own; "folder", that it was
        started in; "path", the folders of `sys.path` in the repository; "commit" and
        "diff", which these files have to it, where there is git. Names are relative to
        the repository: that of git, or else the current folder, or the program's.

    >>> sorted(read_source(Program("<interactive>", text="x = 1")))
    ['commit', 'diff', 'files', 'folder', 'path', 'program']
    """
    root = _root(program)
    modules = _own_modules(root, program)
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    diff = None if commit is None else _git_diff(root, modules)
    return {
        "program": _name(root, program),
        "folder": _below(root, Path.cwd()) or str(Path(_name(root, program)).parent),
        "path": [name for name in (_below(root, Path(p)) for p in sys.path) if name],
        "commit": None if commit is None else _text(commit),
        "diff": diff,
        "files": _files(root, program, modules),
    }


def write_source(run_dir: Path, source: dict[str, Any]) -> str:
    """Write what `read_source` has returned beside what is there; returns the name."""
    path = [*_versions(run_dir)][-1]
    write_json(path, source)
    return path.name


def recorded_source(run_dir: Path, *, version: int = -1) -> dict[str, Any] | None:
    """A source of a run.

    Args:
        run_dir: The run's folder.
        version: Of those that there are, in the order of the steps; -1 is the last.

    Returns:
        What `read_source` has returned; None if there is none.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not what a run writes.

    >>> recorded_source(Path("nowhere"))
    """
    *there, _ = _versions(run_dir)
    if not there:
        return None
    path = there[version]
    source = read_object(path, most=_MOST_JSON)
    files, names = source.get("files"), [source.get("program"), source.get("folder")]
    folders = source.get("path")
    if (
        isinstance(files, dict)
        and isinstance(folders, list)
        and all(map(_is_name, [*names, *folders]))
        and source["program"] in files
        and all(map(_is_file, files.items()))
    ):
        return source
    raise ValueError(f"{path} is not the source of a run")


def repository(source: dict[str, Any], program: Program) -> Path:
    """Where the repository of a recorded source is now, from where its program is."""
    own = Path(source["program"]).parts
    file = program.file
    if file is not None and file.parts[-len(own) :] == own:
        return file.parents[len(own) - 1]
    return _root(program)


def compare_source(recorded: dict[str, Any], program: Program) -> list[str]:
    """Lines, as of `diff -u`, from a recorded source to that which is there now.

    At most sixty, and of the others their number and the files that they are of.
    """
    root = repository(recorded, program)
    lines = []
    if _name(root, program) != recorded["program"]:
        names = (recorded["program"], _name(root, program))
        lines.append("program: {} -> {}".format(*map(printable, names)))
    for name, file in recorded["files"].items():
        new = _content(root / name)
        if program.file is None and name == program.name:
            new = program.text.encode(errors="surrogateescape")
        if new is None or _digest(new) != file["sha256"]:
            lines += _difference(name, file["text"], new)
        elif hidden := _hidden_by(root / name, file["module"]):
            lines.append(f"{printable(name)} is hidden by {printable(hidden)}")
    lines = [line if len(line) <= _WIDEST else f"{line[:_WIDEST]}…" for line in lines]
    left = lines[_MOST_LINES:]
    names = [line for line in left if line.startswith("+++ ")][:_MOST_LINES]
    return lines[:_MOST_LINES] + [f"… {len(left)} more lines", *names] * bool(left)


def unpack_source(source: dict[str, Any], root: Path, folder: Path) -> list[Path]:
    """Make a folder that is a repository as it was: recorded files, all else by links.

    Args:
        source: That which was recorded.
        root: The repository as it is.
        folder: A new folder.

    Returns:
        The folders there that modules were imported from.

    Raises:
        ValueError: If a file is recorded by its digest alone, or has a name or a text
            that no file has.
    """
    try:
        _link(root, folder, {Path(name).parts for name in source["files"]})
        for name, file in source["files"].items():
            if file["text"] is None:
                raise ValueError(f"there is no text of {printable(name)}")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, file["text"].encode(errors="surrogateescape"))
    except (OSError, ValueError) as error:
        reason = printable(str(error))
        raise ValueError(f"source.json cannot be unpacked: {reason}") from error
    return [folder / name for name in source["path"]]


def _link(root: Path, folder: Path, parts: set[tuple[str, ...]]) -> None:
    """Links to all of a folder but for some files; their folders are made."""
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
    """Of the program's repository."""
    here = Path.cwd().resolve()
    folder = program.file.parent if program.file else here
    top = git(folder, "rev-parse", "--show-toplevel")
    if top:
        return Path(os.fsdecode(top)).resolve()
    return here if folder.is_relative_to(here) else folder


def _own_modules(root: Path, program: Program) -> dict[str, str]:
    """The files that were imported of a repository, but for what is installed in it,
    say in a virtual environment, each with the name of its module.
    """
    found = {}
    for module_name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            name = _below(root, Path(file))
            if name and (root / name).is_file() and not is_installed(file, root):
                found[name] = module_name
    if program.file is not None:
        found[_name(root, program)] = "__main__"
    return dict(sorted(found.items()))


def _name(root: Path, program: Program) -> str:
    """That of the program among the files of its repository."""
    return (program.file and _below(root, program.file)) or program.name


def _below(root: Path, path: Path) -> str | None:
    """The name of a file or folder below another one; a link keeps its own name."""
    place = path.parent.resolve() / path.name if path.name else path.resolve()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else None


def _git_diff(root: Path, names: dict[str, str]) -> str | None:
    """Without what a user may have set for people to look at."""
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/")
    diff = git(root, "--literal-pathspecs", "diff", *plain, "HEAD", "--", *names)
    return None if diff is None or len(diff) > _MOST_TEXT else _text(diff)


def _files(
    root: Path, program: Program, modules: dict[str, str]
) -> dict[str, dict[str, str | None]]:
    contents = {name: (root / name).read_bytes() for name in modules}
    if program.file is None:
        contents[program.name] = program.text.encode(errors="surrogateescape")
    files, total = {}, 0
    for name, content in contents.items():
        total += len(content)
        files[name] = {
            "module": modules.get(name, "__main__"),
            "sha256": _digest(content),
            "text": _text(content) if total <= _MOST_TEXT else None,
        }
    return files


def _versions(run_dir: Path) -> Iterator[Path]:
    """The sources that a run has, oldest first, and the name of the next one."""
    path, number = run_dir / "source.json", 1
    while os.path.lexists(path):
        yield path
        number += 1
        path = run_dir / f"source-{number}.json"
    yield path


def _hidden_by(path: Path, module: str) -> str | None:
    """The file that a module was imported from, if it is another one than it was."""
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
    # Line ends and what else is invisible may be all that differs.
    found = [printable(line.expandtabs()) for line in lines]
    return found or [f"{name} differs in its line ends"]


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
    """Whether it is one of "files", and its text is that of the digest."""
    name, file = item
    if not (_is_name(name) and isinstance(file, dict)):
        return False
    if not all(isinstance(file.get(key), str) for key in ("module", "sha256")):
        return False
    text = file.get("text", 0)
    try:
        return text is None or (
            isinstance(text, str)
            and _digest(text.encode(errors="surrogateescape")) == file["sha256"]
        )
    except UnicodeEncodeError:
        return False


def _is_name(name: Any) -> bool:
    """Whether it is that of a file or folder below the repository's."""
    return isinstance(name, str) and is_below(name)
