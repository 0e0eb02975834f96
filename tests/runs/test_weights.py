"""Weights can be read where nothing is installed that trains."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from jcnn.runs import write_weights

_READ = """
import sys

for name in ("matplotlib", "orbax", "rich", "tensorstore", "tyro"):
    sys.modules[name] = None  # importing it raises ImportError
import jcnn

before = set(sys.modules)
from jcnn.runs import read_weights

params, state = read_weights(sys.argv[1])
print(params["conv1"]["kernel"].tolist(), state)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - sys.stdlib_module_names - {"jcnn", "numpy"}))
"""


def test_weights_are_read_by_safetensors_and_numpy_alone(tmp_path):
    path = tmp_path / "params.safetensors"
    write_weights(path, {"conv1": {"kernel": np.arange(3, dtype=np.float32)}}, {})
    done = subprocess.run(
        [sys.executable, "-c", _READ, path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[0.0, 1.0, 2.0] {}", "safetensors"]
