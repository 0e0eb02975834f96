"""What no library's weights may be: tests that need none of the libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcnn.layers import Dense
from jcnn.weights import from_torch, to_flax

X, Y = np.ones((1, 2), np.float32), np.full((1, 1), 5, np.float32)
WEIGHTS = {"fc.weight": np.float32([[1, 2]]), "fc.bias": np.float32([2])}


def _from_torch(weights=WEIGHTS, x=X, y=Y):
    return from_torch(Dense(1), x, weights, names={"": "fc"}, y=y)


def test_the_case_itself_is_right():
    params, _ = _from_torch()
    assert params["kernel"].ravel().tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64"])
def test_arrays_that_are_no_floats_are_refused(dtype):
    weights = WEIGHTS | {"fc.bias": WEIGHTS["fc.bias"].astype(dtype)}
    with pytest.raises(ValueError, match=rf"not of floats: fc.bias \({dtype}\)$"):
        _from_torch(weights)


@pytest.mark.parametrize("wrong", ["resnet18.safetensors", None])
def test_a_state_dict_is_a_mapping(wrong):
    with pytest.raises(TypeError, match="state_dict must be a mapping, got"):
        _from_torch(wrong)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jax.ShapeDtypeStruct(X.shape, X.dtype), "got float32 ShapeDtypeStruct"),
        (jnp.asarray(X, jnp.bfloat16), "of float32 or float64, .* got bfloat16"),
        (X[:0], r"at least one input, got shape \(0, 2\)"),
    ],
    ids=["shape", "bfloat16", "empty"],
)
def test_outputs_must_be_comparable(x, message):
    with pytest.raises(ValueError, match=f"x must .*{message}"):
        _from_torch(x=x)


def test_outputs_of_zeros_are_compared_too():
    with pytest.raises(ValueError, match="up to 5 where the largest is 0: the arrays"):
        _from_torch(y=0 * Y)


def test_no_part_takes_the_place_of_another():
    """One of them would be lost."""
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.zeros((2, 2))}}
    variables = {"params": {"Dense_0": {"kernel": jnp.zeros((2, 2))}}}
    with pytest.raises(ValueError, match="own module, b/kernel has Dense_0/kernel too"):
        to_flax(params, {}, variables, names={"a": "Dense_0", "b": "Dense_0"})


def test_all_names_can_be_imported_beside_the_libraries():
    names = {}
    exec("from jcnn.weights import *", names)
    assert "from_torch" in names and not {"equinox", "flax", "torch"} & set(names)
