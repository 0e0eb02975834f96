"""How an experiment was started: what its runs are known by, and how to start it again.

A run names a module ("experiments.digits", started by `python -m`), a script by its
path from the folder that it was started in ("scripts/train.py"), or neither, where code
was typed at a prompt, into a notebook or after `python -c`.
"""

import functools
import inspect
import json
import keyword
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .config import OptionError

_TYPED = "<interactive>"


class Program(NamedTuple):
    """A program that runs an experiment.

    Attributes:
        name: Of its module, or the path of its script; "<interactive>" if it was typed.
        file: Where it stands; None if it was typed.
        text: What was typed, as far as Python knows.
        summary: The first paragraph of its docstring.
    """

    name: str
    file: Path | None
    text: str
    summary: str

    @property
    def command(self) -> str:
        """What starts it, such as "python -m experiments.digits"."""
        arguments = start_arguments(self.name) if self.file else []
        return " ".join(["python", *arguments])

    @property
    def short_name(self) -> str:
        """Such as "digits"; "run" if it was typed."""
        if self.file is None:
            return "run"
        return (
            Path(self.name).stem if _is_script(self.name) else self.name.split(".")[-1]
        )


def find_program(make_recipe: Callable[..., Any], *, started: bool) -> Program:
    """The program that runs an experiment.

    Args:
        make_recipe: The experiment's function.
        started: Whether it is the one that Python was started with. Otherwise it is the
            module of `make_recipe`: one program may run many experiments.

    >>> find_program(find_program, started=False).name
    'jcnn.experiment.program'
    """
    while isinstance(make_recipe, functools.partial):
        make_recipe = make_recipe.func
    module = getattr(make_recipe, "__module__", None) or "__main__"
    if module == "__main__":  # not that of `sys.modules`, which may be a profiler
        names = getattr(make_recipe, "__globals__", {})
    else:
        names = vars(sys.modules["__main__" if started else module])
    summary = (names.get("__doc__") or "").partition("\n\n")[0]
    spec = names.get("__spec__")
    file = Path(names.get("__file__") or "").absolute()
    if not file.is_file():  # "<stdin>" is none
        return Program(_TYPED, None, _typed_text(make_recipe), summary)
    name = (spec.name if spec else names["__name__"]).removesuffix(".__main__")
    return Program(
        _script_name(file) if name == "__main__" else name, file, "", summary
    )


def start_arguments(name: str) -> list[str]:
    """What Python is given to start the program of this name.

    >>> start_arguments("experiments.digits"), start_arguments("scripts/my-train.py")
    (['-m', 'experiments.digits'], ['scripts/my-train.py'])
    """
    return [name] if _is_script(name) else ["-m", name]


def program_files(name: str) -> list[Path]:
    """Where the program of this name can stand, below the folder it is started in.

    Finding a module by importing the packages above it would execute them. And any
    installed module would be too much: with options to their liking, strangers could do
    with some what they want.

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
    if _is_script(name):
        if is_below(name) and name[0] != "-":
            return [Path(name)]
    elif all(p.isidentifier() and not keyword.iskeyword(p) for p in name.split(".")):
        path = Path(*name.split("."))
        return [path.with_suffix(".py"), path / "__main__.py"]
    raise OptionError(
        f"config.json: {json.dumps(name)} is not the name of a module, or of a script "
        "in this folder"
    )


def same_program(name: str, other: str) -> bool:
    """Whether two names can be of one program: a script may be started in any folder.

    >>> same_program("scripts/train.py", "train.py"), same_program("train", "train.py")
    (True, False)
    """
    if not (_is_script(name) and _is_script(other)):
        return name == other
    shorter, longer = sorted((Path(name).parts, Path(other).parts), key=len)
    return longer[-len(shorter) :] == shorter


def is_below(name: str) -> bool:
    """Whether the name of a file leads to nothing outside the folder it is looked for.

    >>> is_below("a/b.py"), is_below("a/../../b.py")
    (True, False)
    """
    path = Path(name)
    return not (path.anchor or path.drive or ".." in path.parts or "\0" in name)


def _script_name(file: Path) -> str:
    below = file.is_relative_to(Path.cwd())
    path = file.relative_to(Path.cwd()).as_posix() if below else file.name
    return path if _is_script(path) and path[0] != "-" else f"./{path}"


def _is_script(name: str) -> bool:
    return "/" in name or name.endswith(".py")


def _typed_text(make_recipe: Callable[..., Any]) -> str:
    """The code after `python -c`, or what a notebook's cell says of the recipe."""
    if "-c" in sys.orig_argv and sys.argv[:1] == ["-c"]:
        return sys.orig_argv[sys.orig_argv.index("-c") + 1]
    with suppress(OSError, TypeError):
        return inspect.getsource(make_recipe)
    return ""
