"""The source of a run: kept, compared, and run again."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest

from jcnn.__main__ import main
from jcnn.runs.program import Program
from jcnn.runs.store.journal import read_lines
from jcnn.runs.verify.source import (
    compare_source,
    read_source,
    recorded_source,
    unpack_source,
    write_source,
)
from tests.helpers.tiny_experiment import InThisProcess, write_experiment

# Processes of their own must compute the bits of this one.
pytestmark = pytest.mark.usefixtures("full_compilation")

_FILES = {
    "scripts/train.py": b"import used.prep\n",
    "used/__init__.py": b"",
    "used/prep.py": b"# coding: latin-1\r\nx = '\xe9'\n",
    "unused.py": b"x = 1\n",
    ".venv/lib/site-packages/installed.py": b"",
}
_OWN = ["scripts/train.py", "used/__init__.py", "used/prep.py"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with a script and the package it imports, and an installed one."""
    root = tmp_path / "project"
    for name, content in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    monkeypatch.syspath_prepend(root)
    monkeypatch.syspath_prepend(root / ".venv/lib/site-packages")
    monkeypatch.chdir(root)
    names = ("used", "used.prep", "installed")
    for name in names:
        import_module(name)
    yield root
    for name in names:
        del sys.modules[name]


def _program(root, name="scripts/train.py"):
    return Program(name, root / name)


def _git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def test_the_source_is_what_was_imported_of_the_repository(project, tmp_path):
    source = read_source(_program(project))
    assert list(source["files"]) == _OWN
    for name, file in source["files"].items():
        assert file["sha256"] == hashlib.sha256(_FILES[name]).hexdigest()
    assert (source["program"], source["commit"], source["diff"]) == (
        _OWN[0],
        None,
        None,
    )
    assert "." in source["path"]
    # Every byte comes back, also of what is no UTF-8.
    json.dumps(source)
    for name in _OWN:
        (project / name).write_bytes(b"changed")
    other = tmp_path / "other"
    assert other in unpack_source(source, project, other)
    for name in _OWN:
        assert (other / name).read_bytes() == _FILES[name]
    # And nothing is missing.
    assert (other / "unused.py").samefile(project / "unused.py")


def test_commit_and_changes_are_those_of_these_files(project):
    _git(project, "init")
    _git(project, "add", "scripts", "used", "unused.py")
    _git(project, "commit", "-m", "first")
    (project / "used" / "prep.py").write_bytes(b"x = 3\n")
    (project / "unused.py").write_bytes(b"x = 3\n")
    source = read_source(_program(project))
    assert source["commit"] == _git(project, "rev-parse", "HEAD").strip()
    assert "+x = 3" in source["diff"] and "unused" not in source["diff"]
    # The repository is that of git, wherever it was started.
    assert source["program"] == "scripts/train.py"


def test_differences_are_told_line_by_line(project):
    recorded = read_source(_program(project))
    assert compare_source(recorded, _program(project)) == []
    (project / "unused.py").write_bytes(b"x = 3\n")
    assert compare_source(recorded, _program(project)) == []
    (project / "used" / "prep.py").write_bytes(b"# coding: latin-1\r\nx = '\xe8'\n")
    (project / "used" / "__init__.py").unlink()
    lines = compare_source(recorded, _program(project))
    assert lines == [
        "used/__init__.py is missing, or cannot be read",
        "--- used/prep.py, recorded",
        "+++ used/prep.py",
        "@@ -1,2 +1,2 @@",
        " # coding: latin-1",
        "-x = '\\udce9'",
        "+x = '\\udce8'",
    ]
    # Only line ends are others.
    (project / "used" / "__init__.py").write_bytes(b"")
    (project / "used" / "prep.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\n")
    lines = compare_source(recorded, _program(project))
    assert lines == ["used/prep.py differs in its line ends"]


def test_another_program_of_the_repository_is_another_one(project):
    recorded = read_source(_program(project))
    (project / "train.py").write_bytes(_FILES["scripts/train.py"])
    lines = compare_source(recorded, _program(project, "train.py"))
    assert lines == ["program: scripts/train.py -> train.py"]


def test_of_a_long_difference_all_files_are_named(project):
    recorded = read_source(_program(project))
    for name in _OWN:
        (project / name).write_text("".join(f"line {i}\n" for i in range(999)))
    lines = compare_source(recorded, _program(project))
    assert len(lines) < 70
    assert all(any(line == f"+++ {name}" for line in lines) for name in _OWN)


def test_typed_code_is_compared_too():
    recorded = read_source(Program("<interactive>", None, "x = 1\n"))
    assert compare_source(recorded, Program("<interactive>", None, "x = 1\n")) == []
    lines = compare_source(recorded, Program("<interactive>", None, "x = 2\n"))
    assert lines[-2:] == ["-x = 1", "+x = 2"]


def test_the_last_source_counts_and_none_is_lost(project, tmp_path):
    first = read_source(_program(project))
    assert recorded_source(tmp_path) is None
    assert write_source(tmp_path, first) == "source.json"
    second = first | {"diff": "another"}
    assert write_source(tmp_path, second) == "source-2.json"
    assert recorded_source(tmp_path) == second
    assert json.loads((tmp_path / "source.json").read_text()) == first


@pytest.mark.parametrize("name", ["../a.py", "/a.py", "a/../../b.py", "a\0.py"])
def test_no_file_is_written_elsewhere(name, tmp_path):
    file = {"module": "a", "sha256": hashlib.sha256(b"x").hexdigest(), "text": "x"}
    source = {"program": name, "folder": ".", "path": [], "files": {name: file}}
    (tmp_path / "source.json").write_text(json.dumps(source))
    with pytest.raises(ValueError, match="source.json is not the source of a run"):
        recorded_source(tmp_path)


def test_a_recorded_text_that_was_edited_is_no_source(project, tmp_path):
    """It would be executed."""
    source = read_source(_program(project))
    source["files"]["used/prep.py"]["text"] += "import os"
    write_source(tmp_path, source)
    with pytest.raises(ValueError, match="source.json is not the source of a run"):
        recorded_source(tmp_path)


def test_a_module_that_hides_a_recorded_one_is_told(project, monkeypatch):
    recorded = read_source(_program(project))
    (project / "used" / "prep").mkdir()
    (project / "used" / "prep" / "__init__.py").write_text("x = 2")
    del sys.modules["used.prep"]
    invalidate_caches()
    import_module("used.prep")
    (line,) = compare_source(recorded, _program(project))
    assert line.startswith("used/prep.py is hidden by ") and "prep/__init__" in line


def test_the_repository_may_have_moved(project, tmp_path, monkeypatch):
    """Or be one of git now, or have been started in another folder."""
    monkeypatch.chdir(project / "scripts")
    in_scripts = read_source(_program(project))
    assert in_scripts["program"] == "train.py"
    monkeypatch.chdir(project)
    recorded = read_source(_program(project))
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    _git(tmp_path, "init")
    program = Program("train.py", tmp_path / "moved" / "scripts" / "train.py")
    names = [f for f in recorded["files"] if f.startswith("used")]
    for name in names:  # which were not imported from there
        recorded["files"][name]["module"] = "elsewhere"
    assert compare_source(recorded, program) == []
    assert compare_source(in_scripts, program) == []
    (tmp_path / "moved").rename(project)


def test_differences_are_as_git_has_them_for_programs(project):
    _git(project, "init")
    _git(project, "add", "scripts", "used")
    _git(project, "commit", "-m", "first")
    for name, value in (("color.ui", "always"), ("diff.external", "touch ran")):
        _git(project, "config", name, value)
    (project / "used" / "prep.py").write_bytes(b"x = 3\n")
    diff = read_source(_program(project))["diff"]
    assert "\n+x = 3" in diff and "\x1b" not in diff
    assert not (project / "ran").exists()


def test_a_long_line_is_cut(project):
    recorded = read_source(_program(project))
    (project / "used" / "prep.py").write_text("x" * 10**6)
    assert max(map(len, compare_source(recorded, _program(project)))) < 250


# Runs


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """An experiment of two files, and a run of it that lacks its last line."""
    folder = tmp_path_factory.mktemp("begun")
    write_experiment(folder)
    text = (folder / "tiny.py").read_text()
    text = text.replace(
        'lambda images, key: images.astype("float32") / 255', "prep.prepare"
    )
    (folder / "tiny.py").write_text(text.replace("import optax", "import optax, prep"))
    (folder / "prep.py").write_text(
        'def prepare(images, key):\n    return images.astype("float32") / 255\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _run() == 0
    metrics = folder / "run" / "metrics.jsonl"
    shutil.copytree(folder / "run", folder / "finished")
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(True)[:-1]))
    return folder


def _run(*options):
    sys.modules.pop("prep", None)
    return InThisProcess(["", "", "tiny", "--run-dir=run", *options]).wait()


@pytest.fixture
def changed(begun, tmp_path, monkeypatch):
    """The same, after the preprocessing was changed."""
    shutil.copytree(begun, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("jcnn.runs.verify.restart.Popen", InThisProcess)
    text = Path("prep.py").read_text()
    Path("prep.py").write_text(text.replace("/ 255", "/ 128"))
    return Path("run")


def _content(run_dir):
    return {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}


def test_a_run_does_not_go_on_with_other_source(changed, capsys):
    before = _content(changed)
    assert _run() == 2
    error = capsys.readouterr().err.splitlines()
    assert '  -    return images.astype("float32") / 255' in error
    assert '  +    return images.astype("float32") / 128' in error
    assert error[-1].startswith("  --accept-source resumes with the source")
    assert _content(changed) == before
    # As it was, it goes on.
    Path("prep.py").write_text(Path("prep.py").read_text().replace("128", "255"))
    assert _run() == 0


def test_other_source_is_accepted_and_recorded(changed):
    assert _run("--accept-source") == 0
    (line,) = [x for x in read_lines(changed / "resumed.jsonl") if "source" in x]
    old, new = line["differences"]["source of prep.py"]
    assert line["step"] == 6 and line["source"] == "source-2.json"
    assert hashlib.sha256(Path("prep.py").read_bytes()).hexdigest().startswith(new)
    source = json.loads((changed / "source.json").read_text())
    assert source["files"]["prep.py"]["sha256"].startswith(old)
    # From here on that is its source.
    assert _run() == 0
    assert (
        json.loads((changed / "config.json").read_text())["config"]["accept_source"]
        is False
    )


def test_a_finished_run_is_finished_whatever_the_source(changed, capsys):
    shutil.rmtree(changed)
    Path("finished").rename(changed)
    assert _run() == 0
    assert "this run is finished" in capsys.readouterr().out


def test_reproduce_names_the_lines_and_runs_the_recorded_source(begun, changed):
    shutil.rmtree(changed)
    Path("finished").rename(changed)
    before = _content(changed)
    status, lines = _reproduce()
    assert (status, lines[0]) == (1, "they differ from step 2 on: params, opt_state")
    assert '  -    return images.astype("float32") / 255' in lines
    assert lines[-1] == "  --recorded-source runs the recorded one"
    status, lines = _reproduce("--recorded-source")
    assert (status, lines[0]) == (0, "identical to the bit: 6 steps")
    assert _content(changed) == before


def _reproduce(*options):
    """By a process of its own: modules are imported once in each."""
    done = subprocess.run(
        [sys.executable, "-m", "jcnn", "reproduce", "run", *options],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


def test_each_step_is_repeated_with_its_own_source(changed, capsys):
    """The run went on with another one after step 6."""
    assert _run("--accept-source", "--certify-every=1") == 2
    assert _run("--accept-source") == 0
    assert _run("--accept-source", "--epochs=4") == 0
    status, lines = _reproduce("--steps", "6:", "--recorded-source")
    assert (status, lines[0]) == (0, "identical to the bit: 2 steps after step 6")
    status, lines = _reproduce("--steps", ":6", "--recorded-source")
    assert (status, lines[0]) == (0, "identical to the bit: 6 steps")


def test_accepted_source_is_recorded_where_none_was(changed):
    (changed / "source.json").unlink()
    assert _run("--accept-source") == 0
    source = json.loads((changed / "source.json").read_text())
    assert source["files"]["prep.py"]["text"] == Path("prep.py").read_text()


def test_without_a_recorded_source_none_is_run(changed, capsys):
    (changed / "source.json").unlink()
    assert main(["reproduce", "run", "--recorded-source"]) == 2
    assert capsys.readouterr().err == (
        "error: --recorded-source: the run has no source.json\n"
    )
