"""The number of threads: kept with a run, and what alone its bits depend on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import digits
from jcnn.experiment import main
from jcnn.experiment.config import OptionError
from jcnn.experiment.threads import use_threads

_THREADS_OF_XLA = """
import os, jax
from jcnn.experiment.threads import use_threads
assert use_threads({count}) == {count}
jax.numpy.ones(3) + 1
tasks = "/proc/self/task"
names = [open(f"{{tasks}}/{{task}}/comm").read() for task in os.listdir(tasks)]
print(sum("XLAEigen" in name for name in names))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_xla_makes_as_many_threads_as_it_is_told():
    program = [sys.executable, "-c", _THREADS_OF_XLA.format(count=5)]
    assert int(subprocess.check_output(program)) == 5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs affinities")
def test_the_bits_are_the_same_on_all_cores_and_on_one(tmp_path):
    core = min(os.sched_getaffinity(0))
    runs = tmp_path / "all", tmp_path / "one"
    _run(runs[0], "--threads=3")
    _run(runs[1], "--threads=3", cores={core})
    first, second = ((run / "certificate.jsonl").read_bytes() for run in runs)
    assert first == second
    assert first.count(b"\n") == 3  # of the data, of step 4, and of step 8


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs affinities")
def test_a_run_keeps_its_number_of_threads(tmp_path):
    _run(tmp_path / "run", cores={min(os.sched_getaffinity(0))})
    assert _recorded(tmp_path / "run") == 1
    # It is told none and could have all cores: as if there were nothing left to do.
    _run(tmp_path / "run")
    assert _recorded(tmp_path / "run") == 1
    refused = _run(tmp_path / "run", "--threads=2", status=2)
    assert "--threads: 1 -> 2" in refused


def test_threads_cannot_change_once_there_are_some(tmp_path, capsys):
    jax.devices()
    now = use_threads(None)
    with pytest.raises(OptionError, match=f"--threads: {now + 1} is not allowed"):
        use_threads(now + 1)
    arguments = [f"--threads={now + 1}", f"--run-dir={tmp_path / 'run'}"]
    assert main(digits.Config, digits.recipe, arguments) == 2
    assert f"begun to compute with {now}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recorded_number_out_of_range_is_refused(tmp_path, capsys):
    config = {"experiment": "experiments.digits", "config": {"threads": 10**9}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(digits.Config, digits.recipe, [f"--run-dir={tmp_path}"]) == 2
    assert "--threads: 1000000000 is not allowed: at least 1" in capsys.readouterr().err


def _run(run_dir: Path, *options: str, cores=None, status: int = 0) -> str:
    """Eight steps of digits in a process of its own; what it says on stderr."""
    command = [sys.executable, "-m", "experiments.digits", f"--run-dir={run_dir}"]
    command += ["--max-steps=8", "--certify-every=4", *options]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=cores and (lambda: os.sched_setaffinity(0, cores)),
    )
    assert done.returncode == status, done.stderr
    return done.stderr


def _recorded(run_dir: Path) -> int:
    return json.loads((run_dir / "config.json").read_bytes())["config"]["threads"]
