"""jcnn.runs.compiled: programs kept for the next start."""

import json
import os
import subprocess
import sys

import pytest

from jcnn.engine.onednn.support import unavailable_reason

SCRIPT = """
import jax, json
from jcnn.runs.compiled import keep_programs
folder = keep_programs()
import jax.numpy as jnp
def f(x):
    for _ in range(12):
        x = jnp.tanh(x @ x) + jnp.sort(x, axis=-1)
    return x
y = jax.jit(jax.grad(lambda x: f(x).sum()))(jnp.linspace(0.0, 1.0, 400).reshape(20, 20))
print(json.dumps([folder and str(folder), jax.device_get(y).tobytes().hex()]))
"""


def _run(cache, **variables):
    # Without oneDNN, since programs that call it cannot be kept.
    without = {"ONEDNN_MAX_CPU_ISA": "AVX2", "XDG_CACHE_HOME": str(cache)}
    settings = os.environ | without | variables
    environment = {k: v for k, v in settings.items() if v is not None}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_programs_are_kept_the_same_and_a_damaged_one_does_no_harm(tmp_path):
    folder, fresh = _run(tmp_path)
    assert folder.startswith(str(tmp_path))
    kept = [f for f in os.listdir(folder) if f.endswith("-cache")]
    assert kept
    assert _run(tmp_path) == [folder, fresh]
    for name in kept:
        path = os.path.join(folder, name)
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
    assert _run(tmp_path) == [folder, fresh]


def test_jaxs_own_settings_come_first(tmp_path):
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}
    for variables in ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, own):
        assert _run(tmp_path, **variables)[0] is None
        assert not (tmp_path / "jcnn").exists()


@pytest.mark.skipif(
    unavailable_reason("float32") is not None, reason="this jaxlib has no oneDNN"
)
def test_with_onednn_nothing_is_kept(tmp_path):
    assert _run(tmp_path, ONEDNN_MAX_CPU_ISA=None)[0] is None


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "jcnn").write_text("in the way")
    assert _run(tmp_path)[0] is None
