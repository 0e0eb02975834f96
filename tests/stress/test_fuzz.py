"""Readers of files from elsewhere; `tests.stress.fuzz` gives them many more files."""

import io
import json
import math
import os
import shutil
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from jcnn._files import write_file
from jcnn._untrusted import parse_json
from jcnn.data import DataError, cache, from_arrays
from jcnn.runs import OptionError, RunConfig, check_config, read_weights
from jcnn.runs.lock import lock
from jcnn.runs.store.checkpoints import CheckpointError, Checkpoints
from jcnn.runs.store.digests import take_snapshot
from jcnn.runs.store.journal import Journal
from tests.stress.fuzz import (
    READERS,
    attack,
    fuzz,
    read_data_set,
    write_data_set,
    write_good,
)


@pytest.mark.stress
@pytest.mark.parametrize("name", READERS)
def test_damaged_and_invented_files(name):
    fuzz(READERS[name], 100, repeatable=True)


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


def _endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _nowhere(path):
    path.unlink()
    path.symlink_to(path.parents[1] / "nowhere")


def _zeros(path):
    """Of 900 MiB, which take no room on the disk."""
    path.write_bytes(b"")
    os.truncate(path, 900 << 20)


@pytest.mark.cover(1)
@pytest.mark.parametrize("damage", [_pipe, _folder, _endless, _nowhere, _zeros])
@pytest.mark.parametrize("name", READERS.keys() - {"images"})
def test_what_is_no_small_file(name, damage, tmp_path):
    good = tmp_path / "good"
    for file in write_good(READERS[name], good)[-3:]:
        attack(READERS[name], good, file, damage)


# JSON


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NaN", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("1e999", "too large a number"),
        ("1" * 5000, "4300 digits"),
        ('{"a": 1, "a": 1}', "'a' occurs twice"),
        ('{"b": [{"a": 1, "b": 2, "a": 1}]}', "'a' occurs twice"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("\ufeff{}", "BOM"),
        ("", "Expecting value"),
    ],
)
def test_what_json_has_not(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text.encode())


def test_what_json_has():
    value = {"a": [1, -0.5, 1e308, None, True, "ü\x00", {}], "b": 10**400}
    assert parse_json(json.dumps(value).encode()) == value
    deep = b"[" * 64 + b"]" * 64
    assert json.dumps(parse_json(deep)).encode() == deep
    assert math.isnan(parse_json(b"NaN", finite=False))
    with pytest.raises(ValueError, match="utf-8"):
        parse_json('"ü"'.encode("latin-1"))


def test_many_names_are_no_matter():
    """Looking for one that occurs twice takes no square of the time."""
    names = ",".join(f'"{i}":0' for i in range(300_000))
    with pytest.raises(ValueError, match="'299999' occurs twice"):
        parse_json(f'{{{names},"299999":0}}'.encode())


def test_options_that_are_no_floats_are_out_of_range():
    with pytest.raises(OptionError, match="--seed: 1000.* is not allowed"):
        check_config(RunConfig(seed=10**400))


# Links


@pytest.fixture
def secret(tmp_path):
    """A file outside of the run folder."""
    path = tmp_path / "secret"
    path.write_text("secret")
    yield path
    assert path.read_text() == "secret"


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_lock_that_is_a_link_is_refused(secret, run_dir):
    (run_dir / ".lock").symlink_to(secret)
    with pytest.raises(OSError, match=r"\.lock"), lock(run_dir):
        pass


def test_a_journal_that_is_a_link_is_refused(secret, run_dir):
    for target in (secret, secret.with_name("new")):
        journal = Journal(run_dir / f"{target.name}.jsonl")
        journal.path.symlink_to(target)
        with pytest.raises(OSError, match=rf"{target.name}\.jsonl"):
            journal.append({"step": 1})
    assert not secret.with_name("new").exists()
    journal = Journal(run_dir / "secret.jsonl")
    journal.restore(b"")
    assert journal.path.read_bytes() == b"" and not journal.path.is_symlink()


def test_no_link_leads_a_written_file_elsewhere(secret, run_dir):
    (run_dir / "a.json").symlink_to(secret)
    (run_dir / f".a.json.{os.getpid()}").symlink_to(secret)
    write_file(run_dir / "a.json", b"new")
    assert [path.name for path in run_dir.iterdir()] == ["a.json"]
    assert (run_dir / "a.json").read_bytes() == b"new"
    assert not (run_dir / "a.json").is_symlink()


def test_checkpoints_are_not_those_of_another_run(run_dir, tmp_path):
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(1, take_snapshot({"a": np.ones(2)}), {})
    (run_dir / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is a link"):
        Checkpoints(run_dir / "checkpoints")


def test_a_checkpoint_that_leads_elsewhere_is_refused(run_dir, tmp_path):
    with Checkpoints(run_dir) as checkpoints:
        checkpoints.save(1, take_snapshot({"a": np.ones(2)}), {})
    content = run_dir / "0000000001" / "content"
    content.rename(tmp_path / "content")
    content.symlink_to(tmp_path / "content")
    with Checkpoints(run_dir) as checkpoints:
        with pytest.raises(OptionError, match="content is neither a file nor a folder"):
            checkpoints.restore({"a": np.ones(2)})


# More than there is


def test_an_array_of_a_few_bytes_is_not_read(run_dir, tmp_path):
    """The list of the arrays is right, their files are of another shape."""
    small, large = ({"a": np.zeros(size, np.int8)} for size in (2, 1 << 28))
    for folder, tree in ((run_dir, small), (tmp_path / "large", large)):
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(1, take_snapshot(tree), {})
    arrays = run_dir / "0000000001" / "arrays"
    shutil.rmtree(arrays)
    shutil.copytree(tmp_path / "large" / "0000000001" / "arrays", arrays)
    with Checkpoints(run_dir) as checkpoints:
        with pytest.raises(OptionError, match=r"a has shape \(268435456,\)"):
            checkpoints.restore(small)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"params/a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, ""),
        ({"params/a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**50]}}, ""),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "no name"),
        ({"params": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "no name"),
        (
            {
                "params/" + "a/" * 65: {
                    "dtype": "U8",
                    "shape": [],
                    "data_offsets": [0, 1],
                }
            },
            "no name",
        ),
        (
            {
                "params/a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
                "params/a/b": {"dtype": "U8", "shape": [], "data_offsets": [1, 2]},
            },
            "within another",
        ),
        (2**60, "header of 1152921504606846976 bytes"),
    ],
)
def test_weights_that_are_not_there(header, words, tmp_path):
    text = b"{}" if isinstance(header, int) else json.dumps(header).encode()
    size = header if isinstance(header, int) else len(text)
    data = bytes(2 if "within" in words else 1 if "65" in str(header) else 4)
    if "a/a/a" in str(header):
        data = bytes(1)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", size) + text + data)
    with pytest.raises(ValueError, match=f"a.safetensors: .*{words}"):
        read_weights(tmp_path / "a.safetensors")


def _png(width, height):
    """The beginning of an image of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99)))):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    return content


def _read_images(root, *images):
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    write_data_set(folder, list(images))
    read_data_set(root)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (30_000, 30_000)])
def test_an_image_of_a_few_bytes_is_not_decoded(size, tmp_path):
    with pytest.raises(DataError, match="tiny:1.0.0 cannot be read: .*bomb"):
        _read_images(tmp_path, _png(*size))


def test_more_images_than_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jcnn.data.decode._memory", lambda: 1e6)
    with pytest.raises(DataError, match=r"\[2, 800, 1000, 1\] take 1.6e\+06 bytes"):
        _read_images(tmp_path, _png(1000, 800), _png(1000, 800))


def test_pillow_starts_no_program(tmp_path, monkeypatch):
    def start(*args, **options):
        raise AssertionError("a program is started")

    monkeypatch.setattr("subprocess.check_call", start)
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "EPS")
    with pytest.raises(DataError, match="cannot identify image"):
        _read_images(tmp_path, file.getvalue())


def test_a_cache_that_is_compressed_is_not_read(tmp_path):
    dataset = from_arrays(np.zeros((2, 99, 99, 1), np.uint8), [0, 1], 2)
    cache.write(tmp_path / "a.npz", "source", dataset)
    assert cache.read(tmp_path / "a.npz", "source") is not None
    with np.load(tmp_path / "a.npz") as arrays:
        np.savez_compressed(tmp_path / "b.npz", **arrays)
    assert cache.read(tmp_path / "b.npz", "source") is None


# What a data set names


def _change(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture
def data_set(tmp_path):
    folder = tmp_path / "data" / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    write_data_set(folder)
    read_data_set(tmp_path / "data")
    return folder


def test_modules_that_a_data_set_names_are_not_imported(
    data_set, tmp_path, monkeypatch
):
    (tmp_path / "evil.py").write_text("raise SystemExit('it runs')")
    monkeypatch.syspath_prepend(tmp_path)

    def name(features, info):
        features["pythonClassName"] = "evil.Features"
        label = features["featuresDict"]["features"]["label"]
        label["pythonClassName"] = "evil.Label"

    _change(data_set / "features.json", lambda values: name(values, None))
    _change(data_set / "dataset_info.json", lambda v: v.update(moduleName="evil"))
    with pytest.raises(DataError, match="no image-classification set"):
        read_data_set(data_set.parents[1])
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "change",
    [
        lambda info: info.update(name="../2.0.0/tiny"),
        lambda info: info.update(name="/etc/tiny"),
        lambda info: info["splits"][0].update(name="../train"),
        lambda info: info["splits"][0].update(name="train\0"),
        lambda info: info["splits"][0].update(filepathTemplate="../{SPLIT}"),
        lambda info: info["splits"][0].update(shardLengths=["-2"]),
        lambda info: info["splits"][0].update(shardLengths=[1e300, -1e300, 2]),
    ],
)
def test_files_that_a_data_set_cannot_have(change, data_set):
    _change(data_set / "dataset_info.json", change)
    with pytest.raises(DataError, match="dataset_info.json is damaged"):
        read_data_set(data_set.parents[1])


@pytest.mark.parametrize("count", [1, 3, 10**12, 10**400])
def test_another_number_of_examples_is_refused(count, data_set):
    _change(
        data_set / "dataset_info.json",
        lambda info: info["splits"][0].update(shardLengths=[str(count)]),
    )
    with pytest.raises(DataError, match=f"has 2 examples, not {count}"):
        read_data_set(data_set.parents[1])
