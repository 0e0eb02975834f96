"""Digests of arrays and trees, and the certificate of a run, by hashlib on bytes."""

import hashlib
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jcnn.data import from_arrays
from jcnn.layers import BatchNorm, Dense
from jcnn.runs.config import OptionError
from jcnn.runs.store.digests import (
    describe_array,
    digest_tree,
    host_arrays,
    take_snapshot,
)
from jcnn.runs.verify.certificate import check_data, data_line, state_line
from jcnn.train import create


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_arrays_digest_is_that_of_its_bytes():
    assert describe_array(np.array([1, 256], ">i2")) == {
        "dtype": "int16",
        "shape": [2],
        "sha256": _sha256(b"\x01\x00\x00\x01"),
    }
    turned = np.array([[1, 2], [3, 4]], np.uint8).T
    assert describe_array(turned)["sha256"] == _sha256(bytes([1, 3, 2, 4]))
    half = np.array(1, ml_dtypes.bfloat16)
    assert describe_array(half) == {
        "dtype": "bfloat16",
        "shape": [],
        "sha256": _sha256(b"\x80\x3f"),
    }
    assert describe_array(np.zeros((0, 3)))["sha256"] == _sha256(b"")


def test_a_trees_digest_is_that_of_sorted_lines(rng):
    kernel = rng.normal(size=(2, 3)).astype(np.float32)
    tree = {"b": (jnp.asarray(kernel), np.int32(7)), "a": True}
    lines = [
        ["a", "bool", [], _sha256(b"\x01")],
        ["b/0", "float32", [2, 3], _sha256(kernel.tobytes())],
        ["b/1", "int32", [], _sha256(b"\x07\x00\x00\x00")],
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert digest_tree(tree) == _sha256(text.encode())


def test_digests_tell_names_dtypes_shapes_and_values_apart():
    trees = [
        {"a": np.zeros(2, np.float32)},
        {"b": np.zeros(2, np.float32)},
        {"a": np.zeros(2, np.int32)},
        {"a": np.zeros((2, 1), np.float32)},
        {"a": np.array([0, -0.0], np.float32)},
        {"a": np.zeros(2, np.float32), "b": np.zeros(0, np.float32)},
        {"a": {"b": np.zeros(2, np.float32)}},
        {},
    ]
    assert len({digest_tree(tree) for tree in trees}) == len(trees)


def test_a_key_counts_by_its_data():
    key = jax.random.key(5)
    assert digest_tree({"k": key}) == digest_tree({"k": jax.random.key_data(key)})
    assert digest_tree({"k": key}) != digest_tree({"k": jax.random.key(6)})


def test_the_copy_is_nobody_elses(rng):
    array = rng.normal(size=3)
    copy = host_arrays({"a": array})["a"]
    array += 1
    assert not np.array_equal(copy, array)


@pytest.mark.parametrize("leaf", ["text", np.array(["text"]), np.array([{}]), object()])
def test_what_is_no_number_is_refused(leaf):
    with pytest.raises(TypeError, match="a/0"):
        host_arrays({"a": [leaf]})


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'a/b'"):
        host_arrays({"a": {"b": 1}, "a/b": 2})


def test_a_line_has_a_digest_for_each_part_of_the_state():
    tx = optax.adam(1e-3)
    state = create(BatchNorm(), tx, jax.random.key(0), jnp.zeros((4, 3)))
    line = state_line(take_snapshot(state).descriptions, step=9, epoch=1.5)
    parts = ("params", "model_state", "opt_state")
    digests = {part: digest_tree(getattr(state, part)) for part in parts}
    assert line == {"step": 9, "epoch": 1.5} | digests
    assert len(set(digests.values())) == 3
    state = create(Dense(2), tx, jax.random.key(0), jnp.zeros((4, 3)), ema=True)
    line = state_line(
        take_snapshot(state).descriptions, step=9, epoch=1.5, not_finite="why"
    )
    assert line["ema"] == digest_tree(state.ema) == digest_tree((state.params, {}))
    assert line["model_state"] == digest_tree({}) and line["not_finite"] == "why"


def _data(rng, count=5):
    image = rng.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    return from_arrays(image, rng.integers(0, 3, count), 3)


def test_other_data_are_refused_and_named(tmp_path, rng):
    train, test = _data(rng), _data(rng)
    line = data_line(train, test)
    path = tmp_path / "certificate.jsonl"
    check_data(path, line)
    path.write_text(json.dumps(line) + "\n")
    check_data(path, line)
    pixels = train.image.copy()
    pixels[0, 0, 0, 0] ^= 1
    other = data_line(from_arrays(pixels, train.label, 3), test)
    with pytest.raises(OptionError, match="train/image: uint8") as error:
        check_data(path, other)
    assert "label" not in str(error.value) and "test/" not in str(error.value)
    path.write_text(json.dumps(line | {"format": 99}) + "\n")
    with pytest.raises(OptionError, match="format must be 1, got 99"):
        check_data(path, line)
    path.write_text('{"format": 1, "data": 3}\n')
    with pytest.raises(OptionError, match="nothing"):
        check_data(path, line)
    path.write_text("no JSON\n")
    check_data(path, line)
