"""The program of an experiment: its name in a run's records, and how to start it again.

A name is that of a module ("experiments.digits"), the path of a script from the folder
it was started in ("scripts/train.py"), or "<interactive>" for code that was typed.
"""

import hashlib
import inspect
import json
import marshal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from .config import OptionError

_TYPED = "<interactive>"


class Program(NamedTuple):
    """A program that runs an experiment; `file` is None and `text` set if typed."""

    name: str
    file: Path | None = None
    text: str = ""
    summary: str = ""

    @property
    def command(self) -> str:
        """The command that starts it, such as "python -m experiments.digits"."""
        arguments = start_arguments(self.name) if self.file else []
        return " ".join(["python", *arguments])

    @property
    def short_name(self) -> str:
        """The last part of the name, such as "digits"; "run" if it was typed."""
        if self.file is None:
            return "run"
        stem = self.file.stem if _is_script(self.name) else self.name.split(".")[-1]
        return self.file.parent.name if stem == "__main__" else stem


def find_program(make_recipe: Callable[..., Any]) -> Program:
    """Return the program whose code is running.

    It is the nearest caller named `__main__`: the farthest may be a profiler. If that
    is installed, as test runners are, it is the module that calls jcnn.

    Args:
        make_recipe: The experiment's function, which may have been typed.
    """
    namespaces = list(_callers())
    modules = [names.get("__name__") for names in namespaces]
    main = modules.index("__main__") if "__main__" in modules else 0
    names = namespaces[main]
    started = names if "__file__" in names else namespaces[max(main - 1, 0)]
    if is_installed(started.get("__file__") or ""):
        names = namespaces[0]
    summary = (names.get("__doc__") or "").partition("\n\n")[0]
    file = Path(names.get("__file__") or "")
    if not file.is_file():  # "<stdin>" is none
        return Program(_TYPED, None, _typed_text(names, make_recipe), summary)
    spec, name = names.get("__spec__"), names["__name__"]
    if name != "__main__" or (spec is not None and spec.name != "__main__"):
        name = (spec.name if spec else name).removesuffix(".__main__")
    else:
        name = _script_name(file.absolute())
    return Program(name, file.resolve(), "", summary)


def start_arguments(name: str) -> list[str]:
    """Return Python's arguments to start the program of this name.

    >>> start_arguments("experiments.digits"), start_arguments("scripts/my-train.py")
    (['-m', 'experiments.digits'], ['scripts/my-train.py'])
    """
    return [name] if _is_script(name) else ["-m", name]


def program_files(name: str) -> list[Path]:
    """Return the relative paths that the program of this name can have.

    Raises:
        OptionError: If it is the name of no program, or of one that was typed.

    >>> print(*program_files("experiments.digits"))
    experiments/digits.py experiments/digits/__main__.py
    """
    if name == _TYPED:
        raise OptionError(
            "config.json: the experiment was typed (python -c, a prompt, a notebook): "
            "only one in a file can be started again"
        )
    if name.isprintable() and name[:1] != "-" and is_below(name):
        if _is_script(name):
            return [Path(name)]
        parts = name.split(".")
        if all(parts) and not any(set(" \\") & set(part) for part in parts):
            path = Path(*parts)
            return [path.with_name(f"{path.name}.py"), path / "__main__.py"]
    raise OptionError(
        f"config.json: {json.dumps(name)} is not the name of a module or a script"
    )


def same_program(name: str, other: str) -> bool:
    """Return whether two names can be of one program, started in different folders.

    >>> same_program("scripts/train.py", "train.py"), same_program("train", "train.py")
    (True, False)
    """
    if not (_is_script(name) and _is_script(other)):
        return name == other
    shorter, longer = sorted((Path(name).parts, Path(other).parts), key=len)
    return longer[-len(shorter) :] == shorter


def is_below(name: str) -> bool:
    """Return whether a relative path stays inside its folder.

    >>> is_below("a/b.py"), is_below("a/../../b.py")
    (True, False)
    """
    path = Path(name)
    return not (path.anchor or path.drive or ".." in path.parts or "\0" in name)


def is_installed(file: str, root: Path | None = None) -> bool:
    """Return whether a file is Python's own or of an installed package.

    Args:
        file: Path of the file.
        root: A repository, which may itself be inside a folder of packages.

    >>> is_installed(json.__file__), is_installed("")
    (True, False)
    """
    path = Path(file).resolve()
    inside = path.relative_to(root).parts if root else path.parts
    if {"site-packages", "dist-packages"} & set(inside):
        return True
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    folders = {Path(sysconfig.get_path(name)).resolve() for name in names}
    return bool(file) and any(
        path.is_relative_to(folder)
        for folder in folders
        if not (root and root.is_relative_to(folder))
    )


def _callers() -> Iterator[dict[str, Any]]:
    """Yield the globals of the callers outside jcnn, nearest first."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if name != "contextlib" and name.partition(".")[0] != "jcnn":
            yield frame.f_globals
        frame = frame.f_back


def _script_name(file: Path) -> str:
    for path in (file, file.resolve()):
        for folder in (Path.cwd(), Path.cwd().resolve()):
            if path.is_relative_to(folder):
                name = path.relative_to(folder).as_posix()
                return name if _is_script(name) and name[0] != "-" else f"./{name}"
    return file.name if _is_script(file.name) else f"./{file.name}"


def _is_script(name: str) -> bool:
    return "/" in name or name.endswith(".py")


def _typed_text(names: dict[str, Any], make_recipe: Callable[..., Any]) -> str:
    """Return the code after `python -c`, or else the functions that were typed."""
    if sys.argv[:1] == ["-c"]:
        for option, following in pairwise([*sys.orig_argv[1:], ""]):
            if option[:1] == "-" and "c" in option:
                return option.partition("c")[2] or following
    functions = {"the recipe": make_recipe, **names}
    return "\n".join(
        f"# {name}\n{_source(function)}"
        for name, function in functions.items()
        if isinstance(function, FunctionType)
        and (function is make_recipe or function.__module__ == names["__name__"])
    )


def _source(function: FunctionType) -> str:
    with suppress(OSError, TypeError):
        return inspect.getsource(function)
    code = marshal.dumps(function.__code__)
    return f"# its compiled code: {hashlib.sha256(code).hexdigest()}\n"
