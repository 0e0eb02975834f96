"""A tiny experiment, to be started as users start theirs."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

# Its pixels and its rate stand in files beside it, for tests to change.
EXPERIMENT = '''
"""A tiny experiment."""
import dataclasses
import os
import signal
import sys
from functools import partial
from pathlib import Path
import numpy as np
import optax
from jcnn import flatten, serial
from jcnn.data import from_arrays
from jcnn.runs import Count, Recipe, RunConfig, fit, main
from jcnn.layers import Conv, Dense
from jcnn.train import classification

@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 3
    batch_size: Count = 8

def recipe(config):
    data = from_arrays(np.load("pixels.npy"), np.arange(20) % 3, 3)
    layer = serial(conv=Conv(2, 3, impl=config.impl), flatten=flatten, head=Dense(3))
    losses = classification(layer, lambda images, key: images.astype("float32") / 255)
    rate = float(Path("rate.txt").read_text())
    return Recipe(layer, optax.adam(rate), *losses, train=data, test=data)

def stop(line):
    if str(line["step"]) == os.environ.get("STOP_AT") and "interrupted" not in line:
        signal.raise_signal(signal.SIGTERM)

if __name__ == "__main__":
    quick = partial(fit, steps_per_call=1, report=False, on_metrics=stop)
    sys.exit(main(Config, recipe, fit=quick))
'''


class InThisProcess:
    """In the place of `subprocess.Popen`: JAX need not be imported anew."""

    def __init__(self, command, **_):
        _, _, name, *options = command
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *options])
            patch.syspath_prepend(Path.cwd())
            try:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
                self._status = 0
            except SystemExit as end:
                self._status = end.code

    def wait(self):
        return self._status

    def poll(self):
        return self._status


def write_experiment(folder, name="tiny.py"):
    """The experiment and its data, in an existing folder."""
    rng = np.random.default_rng(0)
    np.save(folder / "pixels.npy", rng.integers(0, 256, (20, 6, 6, 1)).astype(np.uint8))
    (folder / "rate.txt").write_text("0.01")
    (folder / name).write_text(EXPERIMENT)


def stop_at_step_3(patch):
    """Let the experiment above get SIGTERM after its third step."""
    patch.setenv("STOP_AT", "3")
