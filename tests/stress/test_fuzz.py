"""Readers of files from elsewhere; `tests.stress.fuzz` gives them many more files."""

import json
import os
import shutil
import struct

import numpy as np
import pytest

from jcnn._files import parse_object, write_file
from jcnn.runs import OptionError, RunConfig, check_config, read_weights
from jcnn.runs.lock import lock
from jcnn.runs.store.checkpoints import CheckpointError, Checkpoints
from jcnn.runs.store.digests import take_snapshot
from jcnn.runs.store.journal import Journal
from tests.stress.fuzz import (
    READERS,
    attack,
    fuzz,
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
@pytest.mark.parametrize("name", sorted(READERS.keys() - {"images"}))
def test_what_is_no_small_file(name, damage, tmp_path):
    good = tmp_path / "good"
    for file in write_good(READERS[name], good)[-3:]:
        attack(READERS[name], good, file, damage)


# JSON


@pytest.mark.parametrize("text", ["", "3", "[]", "\ufeff{}", "[" * 100_000, "{} {}"])
def test_what_is_no_json_object(text):
    with pytest.raises(ValueError, match="^a.json: "):
        parse_object(text.encode(), "a.json")


def test_options_that_are_no_floats_are_out_of_range():
    with pytest.raises(OptionError, match="--seed must be at least 0 .*, got 1000"):
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
    with pytest.raises(CheckpointError, match="not a symbolic link"):
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
        with pytest.raises(OptionError, match=r"got shape \(268435456,\)"):
            checkpoints.restore(small)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"params/a": {"shape": [10**12], "data_offsets": [0, 4]}}, ""),
        ({"params/a": {"shape": [1], "data_offsets": [0, 2**50]}}, ""),
        ({"a": {"shape": [4], "data_offsets": [0, 4]}}, "unexpected array 'a'"),
        ({"params": {"shape": [4], "data_offsets": [0, 4]}}, "unexpected array"),
        (
            {
                "params/a": {"shape": [2], "data_offsets": [0, 2]},
                "params/a/b": {"shape": [2], "data_offsets": [2, 4]},
            },
            "unexpected array",
        ),
        (2**60, ""),
    ],
)
def test_weights_that_are_not_there(header, words, tmp_path):
    text, size = b"{}", header
    if isinstance(header, dict):
        arrays = {name: {"dtype": "U8"} | array for name, array in header.items()}
        text = json.dumps(arrays).encode()
        size = len(text)
    content = struct.pack("<Q", size) + text + bytes(4)
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.safetensors: .*{words}"):
        read_weights(tmp_path / "a.safetensors")
