"""Find a data set that tensorflow-datasets has prepared, without importing it."""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import expand_home, read_object
from .dataset import DataError
from .splits import check_split
from .streamed import TooLarge

_NAME = re.compile(r"([a-zA-Z]\w*)(?:/(\w[\w.+-]*))?(?::(\d+\.\d+\.\d+))?", re.ASCII)
_INFO = "dataset_info.json"  # written last: a folder that has it is complete
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_FORMATS = ("array_record", "tfrecord")


@dataclass(frozen=True)
class Prepared:
    """One split of a data set in array_record or TFRecord files.

    Attributes:
        name: `name:version` or `name/config:version`.
        split: Name of the split.
        folder: Absolute path of the files.
        files: Names of the split's files, in order, each with its number of examples.
    """

    name: str
    split: str
    folder: Path
    files: dict[str, int]


def data_root(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the absolute folder of prepared sets: the argument or the environment's.

    Raises:
        FileNotFoundError: If it is in the home folder of a user who has none.

    >>> data_root("/data").name
    'data'
    """
    chosen = data_dir or os.environ.get("JCNN_DATA_DIR")
    # The rest is where tensorflow-datasets itself looks.
    chosen = chosen or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expand_home(Path(chosen)).absolute()


def find(name: str, split: str, root: Path) -> Prepared:
    """Find a split of `name[/config][:version]` (by default the highest version).

    Raises:
        TypeError: If name is not a str.
        ValueError: If name is malformed or the split is unknown.
        FileNotFoundError: If the set is not prepared.
        DataError: If the split is empty, or its files are not there.

    >>> find("../mnist", "train", Path("/data"))
    Traceback (most recent call last):
    ValueError: name must be like 'mnist', 'mnist:3.0.1' or 'set/config:1.0.0', got
    '../mnist'
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            "name must be like 'mnist', 'mnist:3.0.1' or 'set/config:1.0.0', got "
            f"{name!r}"
        )
    base, config, version = match.groups()
    title = f"{base}/{config}" if config else base
    available = _sets(root, title)
    wanted = [n for n in available if version is None or n == f"{title}:{version}"]
    if not wanted:
        raise FileNotFoundError(_not_prepared(name, root))
    full_name = max(wanted, key=_version)
    folder = available[full_name]
    with reading(full_name, folder):
        info = read_object(folder / _INFO)
        descriptions = {d["name"]: d for d in info.get("splits", ())}
    check_split(split, descriptions, full_name)
    with reading(full_name, folder):
        files = _files(folder, info, descriptions[split])
    if not any(files.values()):
        raise DataError(f"{full_name} must have examples in {split!r}, got none")
    return Prepared(full_name, split, folder, files)


@contextlib.contextmanager
def reading(name: str, folder: Path) -> Iterator[None]:
    """Turn the many errors that damaged files cause into one.

    Raises:
        DataError: If anything but an import fails inside.

    >>> with reading("mnist:3.0.1", Path("data")):
    ...     raise KeyError("image")
    Traceback (most recent call last):
    jcnn.data.dataset.DataError: the prepared files of mnist:3.0.1 cannot be read:
    KeyError: 'image'. If they are damaged, move data away and prepare the set again
    """
    try:
        yield
    except (ImportError, DataError, TooLarge):
        raise
    except Exception as error:
        raise DataError(
            f"the prepared files of {name} cannot be read: {type(error).__name__}: "
            f"{str(error)[:500]}. If they are damaged, move {folder} away and prepare "
            "the set again"
        ) from error


def _not_prepared(name: str, root: Path) -> str:
    """Return the error message, whose last line is the command that prepares the set.

    The command `tfds` imports Apache Beam and mlcroissant, which tensorflow-datasets
    does not install.
    """
    keywords = f'data_dir={json.dumps(str(root))}, file_format="array_record"'
    code = (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder({json.dumps(name)}, {keywords}).download_and_prepare()"
    )
    packages = ("tensorflow-cpu", "tensorflow-datasets", "importlib-resources")
    options = " ".join(f"--with {package}" for package in packages)
    found = ", ".join(sorted({*_sets(root, "*"), *_sets(root, "*/*")})) or "nothing"
    content = f"found there: {found}" if root.is_dir() else "there is no such folder"
    return (
        f"the data set {name!r} is not prepared in {root} ({content}). Set data_dir or "
        "JCNN_DATA_DIR to the folder that has it, or prepare it once (this downloads "
        "it, and uses TensorFlow):\n"
        f"    uvx --python 3.11 {options} python -c {shlex.quote(code)}"
    )


def _sets(root: Path, title: str) -> dict[str, Path]:
    """Return the folder of each complete version of a set, which may have wildcards."""
    folders = [path.parent for path in root.glob(f"{title}/*/{_INFO}")]
    names = [f"{f.parent.relative_to(root).as_posix()}:{f.name}" for f in folders]
    return {n: f for n, f in zip(names, folders) if _NAME.fullmatch(n)}


def _version(full_name: str) -> list[int]:
    return [int(number) for number in full_name.partition(":")[2].split(".")]


def _files(
    folder: Path, info: dict[str, Any], description: dict[str, Any]
) -> dict[str, int]:
    """Return the files of a split, in the first format of which all are there."""
    lengths = [int(length) for length in description.get("shardLengths", ())]
    if (template := description.get("filepathTemplate", _TEMPLATE)) != _TEMPLATE:
        raise ValueError(f"filepathTemplate must be {_TEMPLATE!r}, got {template!r}")
    stem = f"{info['name']}-{description['name']}"
    if not re.fullmatch(r"\w[\w.+-]*", stem, re.ASCII):
        raise ValueError(f"files must lie in the set's folder, got {stem!r}")
    shards = [f"{i:05d}-of-{len(lengths):05d}" for i in range(len(lengths))]
    for form in _FORMATS:
        names = [f"{stem}.{form}-{shard}" for shard in shards]
        if all((folder / name).is_file() for name in names):
            return dict(zip(names, lengths))
    raise FileNotFoundError(
        f"{' or '.join(_FORMATS)} files of {stem} must be there, all {len(shards)}; "
        f"dataset_info.json says {info.get('fileFormat', 'tfrecord')}"
    )
