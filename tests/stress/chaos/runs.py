"""The runs that are killed: of `lenet`, an experiment on a small data set of their own.

They run copies of this library, as they were when chaos began. So nobody edits their
source but chaos itself.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.several_processes import options_of_each

from .data_set import FORMATS, write_data_set
from .job import Job

PATIENCE = 120.0  # seconds after which a run hangs
# Copies of the library: of which file a line is another one, and how.
SOURCES = {
    "source": None,
    "other source": (
        "experiments/lenet.py",
        "(jnp.float32) / 255",
        "(jnp.float32) / 256",
    ),
    "other model": ("jcnn/models/plain.py", "conv1=Conv(6, 5,", "conv1=Conv(7, 5,"),
}
# Root may open any file. It gives up these rights, for good, before it is the run.
_WITHOUT_PRIVILEGES = """
import ctypes, os, sys
drop, may_override, may_search = 24, 1, 2  # as Linux numbers them
if os.geteuid() == 0:
    for right in may_override, may_search:
        ctypes.CDLL(None).prctl(drop, right)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@dataclass
class Run:
    """A run that can be started again and again.

    Attributes:
        place: What `write_place` has filled.
        name: That of its folder.
        epochs: How many it has.
        data_dir: Where its data set is now.
        processes: How many train it.
    """

    place: Path
    name: str
    epochs: int
    data_dir: Path
    processes: int = 1

    @property
    def folder(self) -> Path:
        return self.place / self.name

    @property
    def log(self) -> Path:
        """What all its starts have printed."""
        return self.place / f"{self.name}.log"

    def start(
        self, *options: str, source: str = "source", privileged: bool = True
    ) -> Job:
        """Begin the run, or go on with it.

        Args:
            options: Of the command line, beside those that each start has.
            source: Which one of `SOURCES` runs.
            privileged: Whether root may read files that nobody may read.
        """
        # Compiled programs and byte code are kept: a start takes two seconds, not ten.
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(self.place / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPYCACHEPREFIX": str(self.place / "bytecode"),
            "TMPDIR": str(self.place),  # what killed processes leave goes with it
            "XDG_CACHE_HOME": str(self.place / "cache"),
            # Each source is a repository of its own, wherever temporary folders are.
            "GIT_CEILING_DIRECTORIES": str(self.place),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = ["-m", "experiments.lenet", "--epochs", str(self.epochs)]
        command += ["--run-dir", str(self.folder), "--data-dir", str(self.data_dir)]
        of_each: list[list[str]] = [[]]
        if self.processes > 1:
            command += ["--devices", "all", "--shard-parameters", "1000"]
            of_each = options_of_each(self.processes)
        first = [] if privileged else ["-c", _WITHOUT_PRIVILEGES]
        with open(self.log, "ab") as log:
            return Job(
                *(
                    subprocess.Popen(
                        [sys.executable, *first, *command, *options, *own],
                        cwd=self.place / source,
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                    for own in of_each
                )
            )

    def move_data(self) -> None:
        """The data set's folder gets another name, and the old one is there no more."""
        self.data_dir = self.data_dir.rename(f"{self.data_dir}-moved")

    def remove(self) -> None:
        shutil.rmtree(self.folder)
        shutil.rmtree(self.data_dir)
        self.log.unlink()


def write_place(place: Path) -> None:
    """Fill a folder with `SOURCES`, and with the data set in all formats."""
    here = Path(__file__).parents[3]
    for name, change in SOURCES.items():
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(here / "jcnn", place / name / "jcnn", ignore=without)
        (place / name / "experiments").mkdir()
        (place / name / "experiments" / "__init__.py").touch()
        lenet = Path(__file__).with_name("lenet.py")
        shutil.copy(lenet, place / name / "experiments" / "lenet.py")
        if change is not None:
            file, old, new = change
            text = (place / name / file).read_text()
            if text.count(old) != 1:
                raise ValueError(f"{file} has not one {old!r}")
            (place / name / file).write_text(text.replace(old, new))
    for form in FORMATS:
        write_data_set(place / form, form)


def new_run(
    place: Path, name: str, form: str, *, epochs: int, processes: int = 1
) -> Run:
    """One with a data set of its own, in that format."""
    data_dir = place / f"{name}-data"
    shutil.copytree(place / form, data_dir)
    return Run(place, name, epochs, data_dir, processes)
