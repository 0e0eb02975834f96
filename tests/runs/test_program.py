"""What an experiment is known by: how it was started."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from jcnn.runs import OptionError
from jcnn.runs.program import find_program, program_files, same_program, start_arguments
from tests.helpers.stress import few_of

_ROOT = Path(__file__).parents[2]
_CODE = '''"""What it does.

More of it.
"""
from jcnn.runs.program import find_program

def make_recipe(config): ...

if __name__ == "__main__":
    program = find_program(make_recipe)
    print(program.name, program.command, program.short_name, program.file, sep="|")
    print(program.summary)
'''


def _start(*arguments, cwd, code=None):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        input=code,
        env={"PYTHONPATH": str(_ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    first, summary = done.stdout.splitlines()[:2]
    assert summary == "What it does."
    return first.split("|")


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    names = ("train.py", "my-exp.py", "my-module.py", "train", "a/b/run it.py", "-x.py")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_CODE)
    (folder / "a" / "__main__.py").write_text(_CODE)
    return folder


@pytest.mark.parametrize(
    "start",
    few_of(
        [
            (["-m", "train"], "train", "train"),
            (["-m", "a"], "a", "a"),
            (["train"], "./train", "train"),
            (["a/b/run it.py"], "a/b/run it.py", "run it"),
            (["-m", "cProfile", "-o", "/dev/null", "train.py"], "train.py", "train"),
            (["train.py"], "train.py", "train"),
            (["my-exp.py"], "my-exp.py", "my-exp"),
            (["./-x.py"], "./-x.py", "-x"),
            (["-m", "my-module"], "my-module", "my-module"),
        ],
        5,
    ),
)
def test_a_program_is_known_by_how_it_was_started(start, here):
    arguments, name, short = start
    found, command, short_name, file = _start(*arguments, cwd=here)
    assert (found, short_name) == (name, short)
    assert command == " ".join(["python", *start_arguments(name)])
    # That starts it again, and its file is where it is looked for.
    assert _start(*start_arguments(name), cwd=here)[0] == name
    assert Path(file) in [here / path for path in program_files(name)]


def test_a_script_of_another_folder_has_its_own_name_alone(here, tmp_path):
    found, _, _, file = _start(here / "train.py", cwd=tmp_path / "here" / "a")
    assert (found, file) == ("train.py", str(here / "train.py"))
    assert _start(here / "train.py", cwd=tmp_path)[0] == "here/train.py"


@pytest.mark.parametrize("arguments", [["-c", _CODE], ["-"]])
def test_code_that_was_typed_is_no_file(arguments, tmp_path):
    code = _CODE if arguments == ["-"] else None
    found, command, short_name, file = _start(*arguments, cwd=tmp_path, code=code)
    assert (found, command, short_name, file) == (
        *("<interactive>", "python", "run", "None"),
    )
    with pytest.raises(OptionError, match="typed"):
        program_files(found)


def test_the_text_of_typed_code_is_known(tmp_path):
    code = _CODE.replace("print(program.summary)", "print(program.text)")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(_ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.partition("\n")[2] == code + "\n"


def test_under_a_test_runner_it_is_the_module_that_calls():
    for function in (_start, partial(_start), print):
        program = find_program(function)
        assert program.name == __name__ and program.file == Path(__file__)


@pytest.mark.parametrize("options", few_of([["-uc"], ["-I", "-c"], ["-c"]], 2))
def test_other_code_is_another_text(options, tmp_path):
    texts = []
    for number in (1, 1, 2):
        code = f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n"
        code += _CODE.replace("config): ...", f"config): return {number}")
        code = code.replace("print(program.summary)", "print(program.text)")
        done = subprocess.run(
            [sys.executable, *options, code], capture_output=True, text=True, check=True
        )
        texts.append(done.stdout)
    assert texts[0] == texts[1] != texts[2]


def test_of_code_without_a_text_functions_are_compared():
    texts = []
    for number in (1, 1, 2):
        code = _CODE.replace("config): ...", f"config): return {number}")
        code = code.replace("print(program.summary)", "print(program.text)")
        done = subprocess.run(
            [sys.executable, "-"],
            input=code,
            env={"PYTHONPATH": str(_ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        texts.append(done.stdout)
    assert "make_recipe" in texts[0]
    assert texts[0] == texts[1] != texts[2]


def test_scripts_may_be_started_in_any_folder():
    same = [("a/train.py", "train.py"), ("a.b", "a.b"), ("./train", "b/train")]
    other = [("a/train.py", "b/train.py"), ("a.b", "b"), ("rain.py", "train.py")]
    assert all(same_program(*pair) and same_program(*pair[::-1]) for pair in same)
    assert not any(same_program(*pair) for pair in other)


@pytest.mark.parametrize(
    "name", ["../a.py", "/a.py", "a/../../b.py", "-c.py", "a\0.py", "a..b", "", "a b"]
)
def test_no_name_leads_elsewhere(name):
    with pytest.raises(OptionError, match="is not the name of a module or a script"):
        program_files(name)
