"""The wheel and the source distribution: their files, and their use on their own.

They are built, or taken from the folder that JCNN_DIST names, and installed into
environments that hold nothing else, with the versions that pyproject.toml pins.
"""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from shutil import copy
from zipfile import ZipFile

import numpy as np
import pytest

from .helpers.prepared import encode, write_set

pytestmark = pytest.mark.packaging

_ROOT = Path(__file__).parents[1]
_ALONE = {"absl-py", "jax", "jaxlib", "jcnn", "ml-dtypes", "numpy", "opt-einsum"}
_ALONE |= {"optax", "scipy"}

_TRAINING = """
import jax, jcnn, optax
from jcnn import train
from jcnn.layers import Conv, Dense
model = jcnn.serial(conv=Conv(4, 3), flatten=jcnn.flatten, head=Dense(3))
key, tx = jax.random.key(0), optax.adam(1e-2)
images, labels = jax.random.normal(key, (9, 6, 6, 1)), jax.numpy.arange(9) % 3
batch = {"image": images, "label": labels}
step = train.make_step(train.classification(model, lambda images, key: images)[0], tx)
state, losses = train.create(model, tx, key, images), []
for _ in range(30):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
assert losses[-1] < losses[0] / 2, losses
"""

_DATA = """
from jcnn.data import load, load_folder
assert len(load("digits", "test").label) == 360
for name in ("records", "examples"):
    assert load(name, "train", data_dir="sets").label.tolist() == [0, 1, 2]
assert load_folder("pictures", size=4).dataset.image.shape == (2, 4, 4, 3)
"""

_NETWORK = """
import jcnn
images = jcnn.data.load("digits", "test").image
assert jcnn.runs.load("run").logits(images).shape == (360, 10)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, made of the source distribution, and that."""
    folder = Path(os.environ.get("JCNN_DIST") or tmp_path_factory.mktemp("dist"))
    if not any(folder.glob("*.whl")):
        _call("uv", "build", "--out-dir", folder, _ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel.resolve(), source


def _call(*command, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class _Environment:
    """A new environment with the wheel and some of its extras."""

    def __init__(self, folder, wheel, extra=""):
        self.folder, self._bin = folder, folder / ".venv" / "bin"
        settings = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["uv"]
        pins = folder / "pins.txt"
        pins.write_text("\n".join(settings["constraint-dependencies"]))
        _call("uv", "venv", "--python", sys.executable, folder / ".venv")
        wanted = f"jcnn{extra} @ {wheel.as_uri()}"
        _call(
            "uv", "pip", "install", "--python", self._bin / "python", "-c", pins, wanted
        )

    def packages(self):
        found = _call(
            "uv", "pip", "list", "--python", self._bin / "python", "--format", "json"
        )
        return {package["name"] for package in json.loads(found)}

    def run(self, program, *arguments):
        """Run a program of the environment in its folder; warnings are errors."""
        own = ("PATH", "HOME", "TMPDIR")
        environment = {name: os.environ[name] for name in own if name in os.environ}
        environment |= {"PYTHONWARNINGS": "error", "XDG_CACHE_HOME": "cache"}
        return _call(self._bin / program, *arguments, cwd=self.folder, env=environment)


def test_the_wheel_holds_the_library_and_its_licences(built):
    names = set(ZipFile(built[0]).namelist())
    info = next(name for name in names if name.endswith("/METADATA")).split("/")[0]
    assert {name.split("/")[0] for name in names} == {"jcnn", info}
    tracked = _call("git", "ls-files", "jcnn", cwd=_ROOT).split()
    assert {name for name in names if name.startswith("jcnn/")} == set(tracked)
    assert {"jcnn/py.typed", "jcnn/runs/report/uPlot.iife.min.js"} <= names
    licences = {"LICENSE", "jcnn/runs/report/uPlot.LICENSE"}
    assert {f"{info}/licenses/{name}" for name in licences} <= names


def test_the_source_distribution_holds_what_the_wheel_is_made_of(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    others = {name for name in names if not name.startswith("jcnn/")}
    described = {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"}
    assert others == {"PKG-INFO", "pyproject.toml", ".gitignore"} | described


def test_the_wheel_alone_trains(built, tmp_path):
    alone = _Environment(tmp_path, built[0])
    assert alone.packages() == _ALONE
    alone.run("python", "-c", _TRAINING)
    assert alone.run("jcnn", "--version").startswith("jcnn ")


def test_the_extra_data_reads_data_sets(built, tmp_path):
    pixels = np.zeros((3, 5, 5, 3), np.uint8)
    examples = {"train": [(encode(image), label) for label, image in enumerate(pixels)]}
    for name, form in (("records", "array_record"), ("examples", "tfrecord")):
        write_set(tmp_path / "sets", examples, name=f"{name}/1.0.0", form=form)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "1.png").write_bytes(encode(pixels[0]))
    data = _Environment(tmp_path, built[0], "[data]")
    data.run("python", "-c", _DATA)
    assert not {"matplotlib", "orbax-checkpoint", "tyro"} & data.packages()


@pytest.mark.parametrize("extra", ["experiments", "tensorboard"])
def test_the_extras_of_experiments_train_report_and_load(built, tmp_path, extra):
    copy(_ROOT / "experiments" / "digits.py", tmp_path)
    environment = _Environment(tmp_path, built[0], f"[{extra}]")
    assert ("tensorboardx" in environment.packages()) == (extra == "tensorboard")
    options = ["--max-steps=2", "--run-dir=run"]
    options += ["--tensorboard"] if extra == "tensorboard" else []
    environment.run("python", "digits.py", *options)
    run = tmp_path / "run"
    assert (run / "report.html").stat().st_size > 50_000
    assert any(run.glob("tensorboard/*")) == (extra == "tensorboard")
    environment.run("jcnn", "report", "run")
    environment.run("python", "-c", _NETWORK)
