"""Find a data set prepared by tensorflow-datasets, without importing the latter."""

import hashlib
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._untrusted import read_object
from .dataset import DataError

_NAME = re.compile(r"([a-zA-Z]\w*)(?:/(\w[\w.+-]*))?(?::(\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_INFO = "dataset_info.json"  # written last: a folder that has it is complete


@dataclass(frozen=True)
class Prepared:
    """A data set in array_record files.

    Attributes:
        name: `name:version` or `name/config:version`.
        folder: absolute path of its files.
        splits: of each split the names of its files, in order, and how many examples
            each has.
    """

    name: str
    folder: Path
    splits: dict[str, dict[str, int]]


def data_root(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The absolute folder of prepared sets: the argument, else the environment's.

    >>> data_root("/data").name
    'data'
    """
    chosen = data_dir or os.environ.get("JCNN_DATA_DIR")
    # The rest is where tensorflow-datasets itself looks.
    chosen = chosen or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser().absolute()


def find(name: str, split: str, root: Path) -> Prepared:
    """Finds `name[/config][:version]` (else its highest version) below `root`.

    Raises:
        ValueError: name is malformed, or the split is unknown.
        DataError: the split is empty, or the files are damaged or not array_record.
        FileNotFoundError: it is not prepared; the message says how to do that.

    >>> find("../mnist", "train", Path("/data"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: name is '../mnist'; it must look like 'mnist', 'mnist:3.0.1' or ...
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"name is {name!r}; it must look like 'mnist', 'mnist:3.0.1' or "
            "'set/config:1.0.0'"
        )
    base, config, version = match.groups()
    parent = root / base / (config or "")
    versions = [path.parent.name for path in parent.glob(f"*/{_INFO}")]
    versions = [v for v in versions if _VERSION.fullmatch(v) and version in (None, v)]
    if not versions:
        raise FileNotFoundError(_not_prepared(name, root))
    version = max(versions, key=lambda v: [int(part) for part in v.split(".")])
    full_name = f"{base}/{config}:{version}" if config else f"{base}:{version}"
    file_format, splits = _read_info(parent / version / _INFO)
    if file_format != "array_record":
        raise DataError(
            f"{parent / version} holds {file_format or 'unknown'} files; jcnn reads "
            "array_record. Remove that folder or choose another data_dir, then:\n"
            f"    {prepare_command(name, root)}"
        )
    if split not in splits:
        raise ValueError(
            f"{full_name} has no split {split!r}; its splits are "
            + (", ".join(map(repr, splits)) or "none at all")
        )
    if not any(splits[split].values()):
        raise DataError(f"split {split!r} of {full_name} is empty")
    return Prepared(full_name, parent / version, splits)


def fingerprint(found: Prepared) -> str:
    """A hash that changes when the names, sizes or times of the files do.

    >>> len(fingerprint(Prepared("mnist:3.0.1", Path(), {})))
    64
    """
    stats = [(path.name, path.stat()) for path in sorted(found.folder.iterdir())]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def prepare_command(name: str, root: Path) -> str:
    """The shell command that downloads and prepares `name` into `root`.

    The `tfds` command line is of no use here: it imports Apache Beam and
    mlcroissant, which tensorflow-datasets does not install.

    >>> prepare_command("mnist", Path("/data"))[:20]
    'uvx --python 3.11 --'
    """
    keywords = f'data_dir={json.dumps(str(root))}, file_format="array_record"'
    code = (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder({json.dumps(name)}, {keywords}).download_and_prepare()"
    )
    packages = ("tensorflow-cpu", "tensorflow-datasets", "importlib-resources")
    options = " ".join(f"--with {package}" for package in packages)
    return f"uvx --python 3.11 {options} python -c {shlex.quote(code)}"


def _not_prepared(name: str, root: Path) -> str:
    if root.is_dir():
        place = f"in {root} (found there: {', '.join(_listing(root)) or 'nothing'})"
    else:
        place = f"in {root} (there is no such folder)"
    return (
        f"the data set {name!r} is not prepared {place}. Set data_dir or "
        "JCNN_DATA_DIR to the folder that has it, or prepare it once (this downloads "
        f"it, and uses TensorFlow):\n    {prepare_command(name, root)}"
    )


def _listing(root: Path) -> list[str]:
    """The full names of the sets below `root`."""
    infos = [*root.glob(f"*/*/{_INFO}"), *root.glob(f"*/*/*/{_INFO}")]
    folders = [path.parent.relative_to(root) for path in infos]
    return sorted(
        f"{folder.parent.as_posix()}:{folder.name}"
        for folder in folders
        if _VERSION.fullmatch(folder.name)
    )


def _read_info(path: Path) -> tuple[str | None, dict[str, dict[str, int]]]:
    """The file format and the files of each split."""
    try:
        info = read_object(path)
        splits = {
            split["name"]: _files(info["name"], split)
            for split in info.get("splits", ())
        }
        return info.get("fileFormat"), splits
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {error!r}") from error


def _files(name: str, split: dict[str, Any]) -> dict[str, int]:
    """Of a split: the names of its files and how many examples each should have."""
    if split.get("filepathTemplate", _TEMPLATE) != _TEMPLATE:
        raise ValueError("its files have other names than usual")
    stem = f"{name}-{split['name']}.array_record"
    if not re.fullmatch(r"\w[\w.+-]*", stem, re.ASCII):  # it is no path
        raise ValueError(f"{stem!r} is no name of a file")
    lengths = [int(length) for length in split.get("shardLengths", ())]
    if min(lengths, default=0) < 0:
        raise ValueError("a file has less than no examples")
    return {
        f"{stem}-{i:05d}-of-{len(lengths):05d}": length
        for i, length in enumerate(lengths)
    }
