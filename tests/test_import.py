"""What `import jcnn` does and leaves alone, seen from a process of its own."""

import json
import subprocess
import sys
from functools import lru_cache

import numpy as np

import jcnn
from jcnn.runs import write_weights

_EXTRAS = {
    "PIL",
    "array_record",
    "importlib_resources",
    "matplotlib",
    "rich",
    "safetensors",
    "sklearn",
    "tensorflow",
    "tensorboardX",
    "tensorflow_datasets",
    "torch",
    "tyro",
}

_PROGRAM = """
import json, os, sys, threading
import jax
from jax._src import xla_bridge

def seen():
    settings = {name: repr(value) for name, value in jax.config.values.items()}
    return {
        "settings": settings,
        "environment": dict(os.environ),
        "threads": threading.active_count(),
        "backend": xla_bridge.backends_are_initialized(),
        "modules": sorted(sys.modules),
    }

before = seen()
import jcnn
alone = seen()
import jcnn.layers, jcnn.models, jcnn.train
after = seen()
jax.numpy.zeros(1)
jax.config.update("jax_enable_x64", True)
print(json.dumps([before, alone, after, seen()]))
"""


@lru_cache(1)
def _seen():
    """Before `import jcnn`, after it, after its modules, and after JAX was used."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout)


def test_import_loads_none_of_the_extras():
    before, alone, after, _ = (set(seen["modules"]) for seen in _seen())
    assert "jcnn._conv" in alone - before and "jcnn.train" in after - alone
    packages = {name.split(".")[0] for name in after}
    assert "jax" in packages and not _EXTRAS & packages


def test_modules_are_there_and_imported_when_asked_for():
    _, alone, _, _ = (set(seen["modules"]) for seen in _seen())
    assert not {"jcnn.data", "jcnn.runs", "jcnn.models"} & alone
    program = "import jcnn; jcnn.models.vgg, jcnn.train.create, jcnn.data.load; " + (
        "jcnn.layers, jcnn.augment, jcnn.finite, jcnn.runs.main; "
        "from jcnn import models, data; assert models is jcnn.models; "
        "assert {'data', 'models', 'train', 'conv'} <= set(dir(jcnn)); jcnn.nothing"
    )
    done = _run(program)
    assert "module 'jcnn' has no attribute 'nothing'" in done.stderr.splitlines()[-1]


def _run(program, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )


def test_weights_are_read_without_what_training_needs(tmp_path):
    path = tmp_path / "params.safetensors"
    write_weights(path, {"conv": {"kernel": np.ones((3, 3, 1, 2), "f4")}}, {})
    names = ("tyro", "rich", "matplotlib", "orbax", "PIL", "tensorflow_datasets")
    hidden = f"import sys; sys.modules.update(dict.fromkeys({names})); "
    read = "from jcnn.runs import read_weights as r; " + (
        f"print(jcnn.runs.read_weights({str(path)!r})[0]['conv']['kernel'].shape)"
    )
    done = _run(f"{hidden}import jcnn; {read}")
    assert done.stdout == "(3, 3, 1, 2)\n", done.stderr
    done = _run(f"{hidden}from jcnn.runs import main")
    last = done.stderr.splitlines()[-1]
    assert "belongs to jcnn's extra experiments: pip install" in last
    assert all(p in last for p in ("tyro", "orbax-checkpoint", "scikit-learn", "rich"))
    done = _run("import jcnn.runs as e; print(e.fit, e.Recipe); e.nothing")
    assert done.stdout.startswith("<function fit")
    assert "has no attribute 'nothing'" in done.stderr


def test_the_command_tells_the_version():
    done = subprocess.run(
        [sys.executable, "-m", "jcnn", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"jcnn {jcnn.__version__}\n")


def test_import_starts_no_backend():
    before, alone, after, used = (seen["backend"] for seen in _seen())
    assert not (before or alone or after)
    assert used  # the question can be answered the other way


def test_import_leaves_settings_environment_and_threads_alone():
    before, alone, after, used = _seen()
    for name in ("settings", "environment", "threads"):
        assert before[name] == alone[name] == after[name]
    assert used["settings"] != before["settings"]
    assert len(before["settings"]) > 50


def test_what_is_public_is_documented():
    names = [name for name in vars(jcnn) if not name.startswith("_")]
    public = [name for name in names if callable(getattr(jcnn, name))]
    assert {"conv", "max_pool", "batch_norm", "serial", "summarize"} <= set(public)
    assert {"accelerate", "explain", "conv_general_dilated"} <= set(public)
    assert all(getattr(jcnn, name).__doc__ for name in public)
    assert jcnn.__version__.count(".") == 2
