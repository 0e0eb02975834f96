"""Checkpoints: everything comes back, damage is found, and the right ones are kept."""

import errno
import math
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcnn.layers import BatchNorm
from jcnn.runs import OptionError
from jcnn.runs.store.checkpoints import CheckpointError, Checkpoints
from jcnn.runs.store.digests import digest_tree, take_snapshot
from jcnn.train import create


def _state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4)).astype(np.float32)),
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "none": jnp.zeros((0, 4)),
    }


def _save(folder, *steps, metrics=None, **options):
    """Each step's arrays are drawn from its number."""
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            metric = metrics[step] if metrics else math.nan
            checkpoints.save(
                step, take_snapshot(_state(step)), {"of": step}, metric=metric
            )


def _restore(folder, tree=None):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(_state() if tree is None else tree)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


class State(NamedTuple):
    key: jax.Array
    inner: tuple
    nothing: None


def test_a_state_comes_back_with_its_structure_and_bits(tmp_path):
    tx = optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 9)))
    train = create(BatchNorm(), tx, jax.random.key(3), jnp.ones((4, 3)))
    tree = State(jax.random.key(7), (train, np.arange(3, dtype=np.int8), 5, 0.25), None)
    notes = {"sum": 0.1 + 0.2, "none": None, "infinite": math.inf}
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        assert checkpoints.restore(tree) is None
        checkpoints.save(12, take_snapshot(tree), notes)
    empty = jax.tree.map(lambda leaf: leaf, tree)._replace(key=jax.random.key(0))
    step, back, restored = _restore(tmp_path / "new" / "folder", empty)
    assert step == 12 and restored == notes
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert digest_tree(back) == digest_tree(tree)
    assert jax.random.uniform(back.key) == jax.random.uniform(tree.key)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert type(a) is type(b) and getattr(a, "dtype", 0) == getattr(b, "dtype", 0)


def test_one_of_version_0_1_is_read_and_its_metric_counts(tmp_path):
    """It was written by Orbax's checkpointer alone, without its manager."""
    shutil.unpack_archive(Path(__file__).with_name("checkpoint_of_0_1.zip"), tmp_path)
    tree = {
        "kernel": jnp.arange(6.0).reshape(2, 3),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "none": jnp.zeros((0, 4)),
    }
    found = _restore(tmp_path, jax.tree.map(jnp.zeros_like, tree))
    assert found.step == 7 and found.notes == {"loss": 0.5}
    assert digest_tree(found.tree) == digest_tree(tree)
    _save(tmp_path, 8, 9, metrics={8: 0.2, 9: 0.3}, keep=1)  # better than its 0.25
    assert _names(tmp_path) == ["0000000008", "0000000009"]


def test_what_is_saved_is_what_was_there_when_the_snapshot_was_taken(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda a: a + 1, tree), donate_argnums=0)
    tree = {"kernel": jnp.arange(300_000, dtype=jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, take_snapshot(tree), {})
        for _ in range(5):
            tree = step(tree)
    back = _restore(tmp_path, tree)
    np.testing.assert_array_equal(back.tree["kernel"], np.arange(300_000))


def test_the_last_ones_and_the_best_one_are_kept(tmp_path):
    metrics = {1: 0.9, 2: 0.2, 3: 0.5, 4: math.nan, 5: 0.4}
    _save(tmp_path, 1, 2, 3, 4, 5, metrics=metrics)
    assert _names(tmp_path) == ["0000000002", "0000000004", "0000000005"]
    # Another process knows the metrics of those that are there.
    _save(tmp_path, 6, 7, metrics={6: 0.3, 7: math.nan}, keep=1)
    assert _names(tmp_path) == ["0000000002", "0000000007"]
    _save(tmp_path, 8, metrics={8: 0.1}, keep=1)
    assert _names(tmp_path) == ["0000000008"]


def test_without_a_metric_the_last_ones_are_kept(tmp_path):
    _save(tmp_path, 1, 2, 3, keep=2)
    assert _names(tmp_path) == ["0000000002", "0000000003"]


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_checkpoint_never_passes_for_a_good_one(
    damage, tmp_path, rng, capsys
):
    """Whichever file is damaged: what comes back is a state that was saved."""
    _save(tmp_path / "good", 1, 2)
    fallen_back = 0
    files = _files(tmp_path / "good" / "0000000002")
    assert len(files) > 5
    for index, file in enumerate(files):
        folder = tmp_path / str(index)
        shutil.copytree(tmp_path / "good", folder)
        path = folder / file.relative_to(tmp_path / "good")
        if damage == "flip" and path.stat().st_size:
            _flip(path, rng)
        elif damage == "truncate":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "remove":
            path.unlink()
        found = _restore(folder)
        message = capsys.readouterr().err
        assert found is not None
        assert found.notes == {"of": found.step}
        assert digest_tree(found.tree) == digest_tree(_state(found.step))
        if found.step == 1:
            fallen_back += 1
            assert message.count("\n") == 1
            assert f"{folder / '0000000002'} is damaged and renamed" in message
            assert _names(folder) == ["0000000001", "0000000002.damaged"]
        else:
            assert message == ""
    assert fallen_back >= 2


def test_each_flipped_bit_of_the_arrays_is_found(tmp_path, rng, capsys):
    tree = {"kernel": rng.normal(size=10_000).astype(np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, take_snapshot(tree), {})
    data = max(_files(tmp_path), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    assert len(whole) > 30_000
    for _ in range(10):
        _flip(data, rng)
        with pytest.raises(OptionError, match="all checkpoints are damaged:\n .*0001"):
            _restore(tmp_path, tree)
        assert _names(tmp_path) == ["0000000001"]
        data.write_bytes(whole)
    assert _restore(tmp_path, tree).step == 1


def test_good_arrays_that_are_not_those_that_were_saved_are_found(tmp_path, capsys):
    """Orbax's own checksums are right: only the digests can tell."""
    _save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "0000000002" / "arrays")
    shutil.copytree(
        tmp_path / "0000000001" / "arrays", tmp_path / "0000000002" / "arrays"
    )
    assert _restore(tmp_path).step == 1
    assert "half differs from its digest" in capsys.readouterr().err


def test_without_a_good_one_nothing_is_renamed(tmp_path, capsys):
    _save(tmp_path, 1, 2)
    (tmp_path / "0000000003.orbax-checkpoint-tmp").mkdir()
    for file in _files(tmp_path):
        file.write_bytes(b"\0")
    with pytest.raises(OptionError, match="give --begin-anew") as raised:
        _restore(tmp_path)
    assert all(f"{tmp_path / f'000000000{n}'}: " in str(raised.value) for n in (1, 2))
    assert capsys.readouterr().err == ""
    assert len(_names(tmp_path)) == 3


def test_damaged_ones_are_put_aside_and_none_is_overwritten(tmp_path):
    _save(tmp_path, 1)
    for _ in range(2):
        _save(tmp_path, 2)
        for file in _files(tmp_path / "0000000002"):
            file.write_bytes(b"\0")
        assert _restore(tmp_path).step == 1
    assert _names(tmp_path) == [
        "0000000001",
        "0000000002.damaged",
        "0000000002.damaged-2",
    ]


def test_half_written_and_half_removed_ones_are_cleared_away(tmp_path):
    _save(tmp_path, 1)
    half = tmp_path / "0000000002.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "0000000001", half)
    shutil.copytree(tmp_path / "0000000001", tmp_path / ".removed" / "0000000000")
    assert _restore(tmp_path).step == 1
    assert half.exists() and Checkpoints(tmp_path).was_saving()
    _save(tmp_path, 3)
    assert not Checkpoints(tmp_path).was_saving()
    assert _names(tmp_path) == ["0000000001", "0000000003"]


def test_a_state_of_another_model_is_refused_by_name(tmp_path, capsys):
    _save(tmp_path, 1, 2)
    other = _state() | {"kernel": jnp.zeros((3, 3, 2, 5)), "more": jnp.zeros(2)}
    with pytest.raises(OptionError, match="0002 is of another model") as raised:
        _restore(tmp_path, other)
    assert str(raised.value).splitlines()[1:3] == [
        "  kernel: float32[3, 3, 2, 4] there, float32[3, 3, 2, 5] here",
        "  more: absent there, float32[2] here",
    ]
    assert _names(tmp_path) == ["0000000001", "0000000002"]
    assert capsys.readouterr().err == ""
    assert _restore(tmp_path).step == 2


def test_one_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jcnn.runs.store.checkpoints.FORMAT", 1)
    _save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(OptionError, match="0001 has format 1, .* reads format 2"):
        _restore(tmp_path)


FOR_THE_MOMENT = ["EACCES", "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT"]


@pytest.mark.parametrize("name", FOR_THE_MOMENT)
def test_one_that_cannot_be_read_now_is_not_called_damaged(
    name, tmp_path, monkeypatch, capsys
):
    """As TensorStore says it, and as Python does."""
    _save(tmp_path, 1, 2)
    number = getattr(errno, name)

    def by_tensorstore(*arguments, **options):
        raise ValueError(f"NOT_FOUND: reading [os_error_code='{number}']")

    def by_python(*arguments, **options):
        raise OSError(number, os.strerror(number), "content")

    for fail in (by_tensorstore, by_python):
        with monkeypatch.context() as patch:
            patch.setattr("tensorstore.open", fail)
            with pytest.raises(OptionError, match="0002 cannot be read now") as raised:
                _restore(tmp_path)
        assert os.strerror(number) in str(raised.value)
    assert _names(tmp_path) == ["0000000001", "0000000002"]
    assert capsys.readouterr().err == ""
    assert _restore(tmp_path).step == 2


def test_a_file_that_cannot_be_read_to_its_end_is_found(tmp_path, monkeypatch):
    """Whatever the reader makes of it."""
    _save(tmp_path, 1)
    usual = open

    def failing(path, *arguments, **options):
        if "0000000001" in str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return usual(path, *arguments, **options)

    def confused(*arguments, **options):
        raise KeyError("arrays")

    monkeypatch.setattr("tensorstore.open", confused)
    monkeypatch.setattr("builtins.open", failing)
    with pytest.raises(OptionError, match="cannot be read now: .*Input/output error"):
        _restore(tmp_path)


def test_one_that_cannot_be_looked_at_now_is_no_damaged_one_either(
    tmp_path, monkeypatch
):
    """Neither its files nor the folder of all."""
    _save(tmp_path, 1, 2)
    usual = Path.lstat

    def failing(path):
        if path.name == "_CHECKPOINT_METADATA":
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return usual(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", failing)
        with pytest.raises(OptionError, match="cannot be read now: Stale file handle"):
            _restore(tmp_path)

    def denied(path):
        monkeypatch.undo()  # Orbax lists it too, at its end
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(OptionError, match="cannot be read now: Permission denied"):
        _restore(tmp_path)
    assert _restore(tmp_path).step == 2


def test_one_whose_metric_cannot_be_read_is_kept(tmp_path):
    """It may be the best."""
    _save(tmp_path, 1, 2, metrics={1: 0.1, 2: 0.5}, keep=1)
    (tmp_path / "0000000001" / "content" / "metadata").write_bytes(b"{")
    _save(tmp_path, 3, metrics={3: 0.4}, keep=1)
    assert _names(tmp_path) == ["0000000001", "0000000003"]


def test_saving_is_due_when_it_has_had_its_share_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Checkpoints(tmp_path, share=0.25) as checkpoints:
        assert checkpoints.due()
        committed = checkpoints._committed
        checkpoints.save(1, take_snapshot(_state()), {})
        checkpoints.wait()
        checkpoints._began = 98.0  # as if it had taken two seconds
        committed()
        assert not checkpoints.due()
        now[0] = 107.9
        assert not checkpoints.due()
        now[0] = 108.1
        assert checkpoints.due()


def test_a_checkpoint_that_cannot_be_written_leaves_those_before(tmp_path, monkeypatch):
    _save(tmp_path, 1)

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.AsyncCheckpointer.save", fail)
    with pytest.raises(CheckpointError, match="0000000002 .*No space left"):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(2, take_snapshot(_state()), {})
    assert _restore(tmp_path).step == 1


def test_a_failed_write_is_reported_when_the_next_one_could_be_due(
    tmp_path, monkeypatch
):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    _save(tmp_path, 1)
    monkeypatch.setattr("orbax.checkpoint.JsonCheckpointHandler.finalize", fail)
    with pytest.raises(CheckpointError, match="0000000002 .*No space left"):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(2, take_snapshot(_state()), {})
            while not checkpoints.due():
                time.sleep(0.01)
            pytest.fail("the error is lost")
    assert _restore(tmp_path).step == 1
