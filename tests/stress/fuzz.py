"""Gives every reader of files from elsewhere damaged and invented ones.

Each file of a run folder, of a data set and of the cache is changed in random ways; its
reader must give a value or say in one kind of error which file is wrong, in little
memory and time, and write nothing anywhere else.
"""

import hashlib
import io
import json
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jcnn.data import cache, from_arrays, prepared
from jcnn.data.decode import decode
from jcnn.runs import (
    Count,
    OptionError,
    RunConfig,
    check_config,
    read_config,
    read_metrics,
    read_weights,
    refuses,
    write_weights,
)
from jcnn.runs.program import Program, program_files
from jcnn.runs.store.checkpoints import Checkpoints
from jcnn.runs.store.digests import digest_tree, take_snapshot
from jcnn.runs.store.folder import read_record, write_config, write_json
from jcnn.runs.store.journal import Journal
from jcnn.runs.store.record import Progress, Record
from jcnn.runs.verify.certificate import (
    check_data,
    data_line,
    find_divergence,
    read_certificate,
)
from jcnn.runs.verify.compare import describe_distance
from jcnn.runs.verify.resume import check_unchanged, last_step, note_environment
from jcnn.runs.verify.source import compare_source, recorded_source, unpack_source
from tests.helpers.prepared import encode, write_set

MOST_MEMORY = 64 << 20  # bytes that reading a small file may take
PATIENCE = 20  # seconds after which reading one hangs

Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Config:
    examples: Count = 2000
    """How many files each reader gets; the slow ones get a tenth."""


class Reader(NamedTuple):
    """What is given files.

    Attributes:
        write: Fills a folder with files that are good.
        read: Reads them again; an assertion in it says what must come of it.
        files: Patterns of those that are damaged.
        names: What an error may name: the file, its folder or the data set.
        slow: Whether it takes more than some milliseconds.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    names: str
    slow: bool = False


class Hangs(BaseException):
    """Reading a file has no end."""


def main(config: Config) -> int:
    if refuses(config):
        return 2
    total = 0
    for name, reader in READERS.items():
        total += (count := fuzz(reader, config.examples))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"{name}: {count} inputs, none failed ({peak} MiB so far)", flush=True)
    print(f"{total} inputs for {len(READERS)} readers, none failed")
    return 0


def fuzz(reader: Reader, examples: int, *, repeatable: bool = False) -> int:
    """Give a reader that many files.

    Args:
        reader: One of `READERS`.
        examples: How many; a slow one gets a tenth.
        repeatable: Whether these are the same each time.

    Returns:
        How many it got.

    Raises:
        AssertionError: With the smallest file found that it does not stand.
    """
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder, "good")
        files = write_good(reader, good)

        @settings(
            max_examples=max(1, examples // 10) if reader.slow else examples,
            deadline=None,
            database=None,
            derandomize=repeatable,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.large_base_example,
            ],
        )
        @given(st.data())
        def check(data):
            nonlocal count
            count += 1
            file = data.draw(st.sampled_from(files))
            content = data.draw(damaged((good / file).read_bytes()))
            attack(reader, good, file, lambda path: write_content(path, content))

        check()
    return count


def write_good(reader: Reader, good: Path) -> list[Path]:
    """Fill a folder, see that it can be read, and name the files to be damaged."""
    good.mkdir()
    reader.write(good)
    paths = [path for pattern in reader.files for path in good.glob(pattern)]
    files = sorted(path.relative_to(good) for path in paths if path.is_file())
    assert files
    attack(reader, good, files[0], lambda path: None)
    return files


def attack(reader: Reader, good: Path, file: Path, damage: Damage) -> None:
    """Damage a file of a copy of a folder, and let it be read."""
    folder = good.with_name("work")
    shutil.copytree(good, folder)
    damage(folder / file)
    around = sorted(good.parent.iterdir())

    def hang(*_):
        raise Hangs

    usual = signal.signal(signal.SIGALRM, hang)
    signal.alarm(PATIENCE)
    tracemalloc.start()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            reader.read(folder)
    except (ValueError, OSError) as error:
        assert type(error).__name__ not in ("UnicodeDecodeError", "JSONDecodeError")
        assert re.search(reader.names, str(error)), f"{error!r} names no file"
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)
        shutil.rmtree(folder)
    assert peak < MOST_MEMORY, f"it took {peak} bytes"
    assert sorted(good.parent.iterdir()) == [p for p in around if p != folder]


def write_content(path: Path, content: bytes) -> None:
    path.write_bytes(content)


# --- files ---

_NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**12, 10**400, 1e308, 0.5]
_TEXTS = [
    "",
    "..",
    "../../x",
    "/etc/passwd",
    "\0",
    "\ud800",
    "a" * 5000,
    "\x1b[2J",
    "{",
]
_JUNK = st.sampled_from(
    [*_NUMBERS, *_TEXTS, None, True, [], {}, [[]], {"": {}}, float("nan"), float("inf")]
) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda any: st.lists(any, max_size=3) | st.dictionaries(st.text(), any, max_size=3),
    max_leaves=6,
)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Files that are made of a good one, or of nothing."""
    kinds = [st.binary(max_size=300), _edited(content), _renumbered(content), _nested()]
    lines = content.splitlines(keepends=True)
    for prefix, text, suffix in (
        (b"", content, b""),
        *((b"".join(lines[:i]), lines[i], b"".join(lines[i + 1 :])) for i in (0, -1)),
    ):
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict | list):
            changed = _changed(value).map(_dumped)
            end = b"\n" if text.endswith(b"\n") else b""
            kinds.append(changed.map(lambda c, p=prefix, s=end + suffix: p + c + s))
            break
    if content[8:9] == b"{":  # safetensors: length of the header, header, arrays
        (size,) = struct.unpack("<Q", content[:8])
        header = _changed(json.loads(content[8 : 8 + size])).map(_dumped)
        arrays = content[8 + size :]
        kinds.append(header.map(lambda h: struct.pack("<Q", len(h)) + h + arrays))
    return st.one_of(kinds)


@st.composite
def _edited(draw: st.DrawFn, content: bytes) -> bytes:
    """A few bits, bytes or parts are others, elsewhere or gone."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        end = draw(st.integers(place, len(content)))
        kind = draw(st.sampled_from(["flip", "cut", "remove", "put", "number", "copy"]))
        if kind == "flip" and place < len(content):
            bit = bytes([content[place] ^ 1 << draw(st.integers(0, 7))])
            content = content[:place] + bit + content[place + 1 :]
        elif kind == "cut":
            content = content[:place]
        elif kind == "remove":
            content = content[:place] + content[end:]
        elif kind == "put":
            content = content[:place] + draw(st.binary(max_size=9)) + content[place:]
        elif kind == "number":
            number = draw(st.sampled_from([0, 2**31 - 1, 2**40, 2**63 - 1, 2**64 - 1]))
            content = content[:place] + struct.pack("<Q", number) + content[place + 8 :]
        elif kind == "copy":
            to = draw(st.integers(0, len(content)))
            content = content[:to] + content[place:end] + content[to:]
    return content


@st.composite
def _renumbered(draw: st.DrawFn, content: bytes) -> bytes:
    """A number that is written out is another one."""
    numbers = list(re.finditer(rb"\d+", content))
    if not numbers:
        return content
    number = draw(st.sampled_from(numbers))
    other = draw(st.sampled_from(_NUMBERS) | st.integers(0, 300))
    return content[: number.start()] + str(other).encode() + content[number.end() :]


def _nested() -> st.SearchStrategy[bytes]:
    openings = st.sampled_from([b"[", b'{"a":', b'{"config":{"a":[', b'[{"step":'])
    depths = st.sampled_from([50, 500, 990, 5000, 100_000])
    return st.builds(lambda opening, depth: opening * depth, openings, depths)


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with something else somewhere in it."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 9)):
            other = draw(st.text(max_size=9) | st.sampled_from([*_TEXTS, *value]))
            return value | {other: value[name]}
        if not draw(st.integers(0, 9)):
            return {k: v for k, v in value.items() if k != name}
        return value | {name: draw(_changed(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(_changed(value[place])), *value[place + 1 :]]
    return draw(_JUNK)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


# --- readers ---

_ARRAYS = {
    "conv": {"kernel": np.arange(6, dtype=np.float32), "bias": np.ones((), np.int8)},
    "none": np.zeros((0, 3), np.float32),
}


def _write_config(folder: Path) -> None:
    config = RunConfig(data_dir=Path("data"))
    write_config(folder, config, experiment="some.module")
    values = json.loads((folder / "config.json").read_text())
    values["lengthened"] = [{"epochs": 3, "max_steps": None, "step": 30}]
    write_json(folder / "config.json", values)


def _read_config(folder: Path) -> None:
    config = read_config(folder, RunConfig)
    check_config(config)
    assert type(config.seed) is int and type(config.keep_memory) is bool


def _read_record(folder: Path) -> None:
    if (record := read_record(folder)) is None:
        assert not (folder / "config.json").exists()
        return
    try:
        program_files(record["experiment"])
    except OptionError as error:
        assert str(error).startswith("config.json: ") and str(error).isprintable()
    assert last_step(folder, record) is None
    try:
        check_unchanged(record, RunConfig(), experiment="some.module")
    except OptionError as error:
        assert str(error).startswith("--run-dir: ")
        assert all(line.isprintable() for line in str(error).split("\n"))


def _write_source(folder: Path) -> None:
    files = {
        name: {"module": "a", "sha256": hashlib.sha256(text).hexdigest()}
        | {"text": text.decode(errors="surrogateescape")}
        for name, text in (
            ("tests/stress/fuzz.py", b"import sys\n\nsys.exit()\n"),
            ("jcnn/__init__.py", b"\xe9\t\r\n"),
        )
    }
    source = {"program": "tests/stress/fuzz.py", "folder": ".", "path": ["."]}
    source["files"] = files
    write_json(folder / "source.json", source)


def _read_source(folder: Path) -> None:
    if (source := recorded_source(folder)) is None:
        return
    program = Program("tests.stress.fuzz", Path(__file__))
    lines = compare_source(source, program)
    assert all(line.isprintable() for line in lines)
    with tempfile.TemporaryDirectory() as around:
        below = Path(around, "a", "b")
        try:
            unpack_source(source, folder, below)
        finally:
            assert sorted(Path(around).iterdir()) in ([], [below.parent])
            assert not below.parent.exists() or sorted(below.parent.iterdir()) == [
                below
            ]


def _write_environment(folder: Path) -> None:
    write_json(folder / "environment.json", {"jax": "1", "device": {"count": 1}})


def _read_environment(folder: Path) -> None:
    note_environment(folder, {"jax": "2", "device": {"kind": "cpu"}}, 3)
    assert (folder / "resumed.jsonl").exists()


def _write_journals(folder: Path) -> None:
    metrics = Journal(folder / "metrics.jsonl")
    certificate = Journal(folder / "certificate.jsonl")
    certificate.append(data_line(_dataset(), _dataset()))
    for step in (2, 4):
        metrics.append({"step": step, "loss": 0.5, "interrupted": False})
        certificate.append({"step": step, "epoch": step / 2, "params": "3f" * 32})
    write_weights(
        folder / "params.safetensors", _ARRAYS, {"norm": {"mean": np.ones(2)}}
    )


def _read_metrics(folder: Path) -> None:
    assert isinstance(last_step(folder, {"lengthened": []}), int | None)
    for line in read_metrics(folder):
        assert isinstance(line, dict)


def _read_certificate(folder: Path) -> None:
    line = data_line(_dataset(), _dataset())
    path = folder / "certificate.jsonl"
    try:
        check_data(path, line)
    except OptionError as error:
        assert "certificate.jsonl" in str(error)
        assert str(error).isprintable()
    lines = read_certificate(path)
    find_divergence(lines, [line, {"step": 2, "epoch": 1.0, "params": "3f" * 32}])


def _read_weights(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as other:
        _write_journals(Path(other))
        assert describe_distance(folder, Path(other))
        assert describe_distance(Path(other), folder)
    params, state = read_weights(folder / "params.safetensors")
    assert isinstance(params, dict) and isinstance(state, dict)


def _write_checkpoints(folder: Path) -> None:
    record = _record(folder)
    with record:
        for step in (1, 2):
            record.add_metrics({"step": step})
            progress = Progress(step, {"loss": 0.5}, 1.0)
            record.save(take_snapshot(_ARRAYS), progress, metric=0.5)


def _read_checkpoints(folder: Path) -> None:
    before = digest_tree(_ARRAYS)
    with _record(folder) as record:
        try:
            state, progress = record.restore(_ARRAYS)  # pyright: ignore
        except OptionError as error:
            assert "--run-dir" in str(error)
            return
        assert digest_tree(state) == before and progress.step in (0, 1, 2)
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        # This looks at the metrics of those before.
        checkpoints.save(9, take_snapshot(_ARRAYS), {})


def _record(folder: Path) -> Record:
    return Record(folder, {"format": 1, "data": {}})


def _dataset():
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    return from_arrays(pixels, [0, 1], 2)


def write_data_set(
    folder: Path, images: list[bytes] | None = None, *, form: str = "array_record"
) -> None:
    """A prepared set of images that are encoded already."""
    images = images or [encode(image) for image in _dataset().image]
    pairs = [(image, label) for label, image in enumerate(images)]
    write_set(folder.parents[1], {"train": pairs}, form=form, shape=(4, 4, 1))


def _write_data_set(folder: Path, form: str = "array_record") -> None:
    write_data_set(folder / "tiny" / "1.0.0", form=form)


def read_data_set(root: Path) -> None:
    found = prepared.find("tiny", "train", root)
    for name in found.files:
        assert (found.folder / name).parent == found.folder
    decode(found)


def _write_images(folder: Path) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        pixels = Image.fromarray(_dataset().image[1, :, :, 0])
        pixels.save(folder / f"image.{kind}", kind)


def _read_images(folder: Path) -> None:
    images = [path.read_bytes() for path in sorted(folder.iterdir())]
    root = folder / "data"
    (root / "tiny" / "1.0.0").mkdir(parents=True)
    write_data_set(root / "tiny" / "1.0.0", images)
    read_data_set(root)


def _write_cache(folder: Path) -> None:
    cache.write(folder / "set.npz", _dataset())


def _read_cache(folder: Path) -> None:
    dataset = cache.read(folder / "set.npz")
    if dataset is not None:
        np.testing.assert_array_equal(dataset.image, _dataset().image)
        np.testing.assert_array_equal(dataset.label, _dataset().label)


READERS = {
    "config": Reader(_write_config, _read_config, ("config.json",), "config.json"),
    "record": Reader(_write_config, _read_record, ("config.json",), "config.json"),
    "source": Reader(_write_source, _read_source, ("source.json",), "source"),
    "environment": Reader(
        _write_environment, _read_environment, ("environment.json",), "never"
    ),
    "metrics": Reader(
        _write_journals, _read_metrics, ("metrics.jsonl",), "metrics.jsonl"
    ),
    "certificate": Reader(
        _write_journals, _read_certificate, ("certificate.jsonl",), "certificate.jsonl"
    ),
    "weights": Reader(
        _write_journals, _read_weights, ("*.safetensors",), "params.safetensors"
    ),
    "checkpoints": Reader(
        _write_checkpoints,
        _read_checkpoints,
        ("checkpoints/0000000002/**/*", "*.jsonl"),
        r"checkpoints|\.jsonl",
        slow=True,
    ),
    "data set": Reader(
        _write_data_set,
        read_data_set,
        ("tiny/1.0.0/*",),
        "tiny/1.0.0|tiny:1.0.0|'tiny' is not prepared",
    ),
    "TFRecord": Reader(
        partial(_write_data_set, form="tfrecord"),
        read_data_set,
        ("tiny/1.0.0/*tfrecord*", "tiny/1.0.0/dataset_info.json"),
        "tiny/1.0.0|tiny:1.0.0|'tiny' is not prepared|tiny-train.tfrecord",
    ),
    "images": Reader(_write_images, _read_images, ("*",), "tiny:1.0.0"),
    "cache": Reader(_write_cache, _read_cache, ("set.npz",), "never"),
}


if __name__ == "__main__":
    program = "python -m tests.stress.fuzz"
    sys.exit(main(tyro.cli(Config, prog=program, description=__doc__)))
