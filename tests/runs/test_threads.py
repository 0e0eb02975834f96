"""The number of threads: kept with a run, and what alone its bits depend on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import jax
import pytest

from experiments import digits
from jcnn.runs import main
from jcnn.runs.config import OptionError, RunConfig
from jcnn.runs.store.folder import write_config
from jcnn.runs.threads import use_threads

_BITS = """
import hashlib, os, jax, jax.numpy as jnp
from jcnn.runs.threads import use_threads
assert use_threads(3) == 3
a, b = (jax.random.normal(jax.random.key(i), (5000, 48)) for i in range(2))
c = jax.jit(lambda a, b: (jnp.einsum("pa,pb->ab", a, b), (a * b).sum(0)))(a, b)
print(hashlib.sha256(b"".join(map(bytes, jax.device_get(c)))).hexdigest())
"""
_THREADS_OF_XLA = """
import os, jax
from jcnn.runs.threads import use_threads
assert use_threads(5) == 5
jax.numpy.ones(3) + 1
tasks = "/proc/self/task"
names = [open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks)]
print(sum("XLAEigen" in name for name in names))
"""
_AFFINITY = hasattr(os, "sched_getaffinity")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_xla_makes_as_many_threads_as_it_is_told():
    assert int(_output(["-c", _THREADS_OF_XLA])) == 5


@pytest.mark.skipif(not _AFFINITY, reason="needs affinities")
def test_threads_have_the_same_bits_on_one_core_as_on_all():
    one = {min(os.sched_getaffinity(0))}
    assert _output(["-c", _BITS], cores=one) == _output(["-c", _BITS])


def test_a_run_keeps_its_number_of_threads(tmp_path, monkeypatch, capsys):
    asked = []

    def use(count):
        asked.append(count)
        return count or 4

    def recipe(config):
        raise OptionError("no further")

    monkeypatch.setattr("jcnn.runs.start.use_threads", use)
    write_config(tmp_path, RunConfig(threads=3), experiment=__name__)
    options = [f"--run-dir={tmp_path}"]
    assert main(RunConfig, recipe, options) == 2
    assert asked == [3] and "no further" in capsys.readouterr().err
    assert main(RunConfig, recipe, [*options, "--threads=1"]) == 2
    assert asked == [3, 1] and "--threads: 3 -> 1" in capsys.readouterr().err


def test_threads_cannot_change_once_there_are_some(tmp_path, capsys):
    jax.devices()
    now = use_threads(None)
    with pytest.raises(OptionError, match=f"--threads must be {now}, .* got {now + 1}"):
        use_threads(now + 1)
    arguments = [f"--threads={now + 1}", f"--run-dir={tmp_path / 'run'}"]
    assert main(digits.Config, digits.recipe, arguments) == 2
    error = f"--threads must be {now}, with which this process computes already"
    assert error in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recorded_number_out_of_range_is_refused(tmp_path, capsys):
    config = {"experiment": "experiments.digits", "config": {"threads": 10**9}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(digits.Config, digits.recipe, [f"--run-dir={tmp_path}"]) == 2
    assert (
        "--threads must be at least 1 and at most 1024, got 1000000000"
        in capsys.readouterr().err
    )


def _output(arguments: list[str], *, cores: set[int] | None = None):
    """What Python says, on some cores of all."""
    usable = os.sched_getaffinity(0) if cores else set()
    if cores:
        os.sched_setaffinity(0, cores)  # which the process inherits
    try:
        done = subprocess.run(
            [sys.executable, *arguments], stdout=PIPE, stderr=STDOUT, text=True
        )
    finally:
        if cores:
            os.sched_setaffinity(0, usable)
    assert done.returncode == 0, done.stdout
    return done.stdout
