"""The gradient of a network's loss as a program that JAX alone serves anywhere."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jcnn import serial
from jcnn.layers import ConvTranspose, DepthwiseConv, MaxPool
from jcnn.models import conv_norm_relu

_SERVE = """
import sys
import jax, numpy as np
from jax import export
call = export.deserialize(bytearray(open("loss.jaxexport", "rb").read())).call
arrays = np.load("arrays.npz")
params = [arrays[f"a{i}"] for i in range(len(arrays) - 1)]
(loss, new), grads = call(params, arrays["x"])
leaves = jax.tree.leaves((loss, new, grads))
np.savez("found.npz", **{f"a{i}": leaf for i, leaf in enumerate(leaves)})
assert not [name for name in sys.modules if name.startswith("jcnn")]
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_gradient_is_served_without_jcnn(dtype, tmp_path, rng):
    net = serial(
        unit=conv_norm_relu(8, padding="VALID"),
        pool=MaxPool(2),
        depthwise=DepthwiseConv(1, 3, padding_mode="REFLECT"),
        up=ConvTranspose(3, 4, strides=2),
    )
    x = rng.normal(size=(6, 14, 14, 3)).astype("float32")
    params, state = net.init(jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(params)

    def gradients(leaves, x):
        def loss(leaves):
            params = tree.unflatten(leaves)
            y, new = net.apply(params, state, x.astype(dtype), train=True)
            return jnp.mean(jnp.sin(y.astype("float32"))), new

        return jax.value_and_grad(loss, has_aux=True)(leaves)

    (number,) = export.symbolic_shape("number")
    shape = jax.ShapeDtypeStruct((number, *x.shape[1:]), x.dtype)
    platforms = ["cpu", "cuda", "tpu"]
    program = export.export(jax.jit(gradients), platforms=platforms)(leaves, shape)
    (tmp_path / "loss.jaxexport").write_bytes(program.serialize())
    arrays = {f"a{i}": leaf for i, leaf in enumerate(leaves)}
    np.savez(tmp_path / "arrays.npz", x=x, **arrays)
    subprocess.run([sys.executable, "-c", _SERVE], cwd=tmp_path, check=True)
    expected = jax.tree.leaves(jax.jit(gradients)(leaves, x))
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]  # a few roundings
    with np.load(tmp_path / "found.npz") as found:
        assert len(found) == len(expected)
        for i, array in enumerate(expected):
            scale = tolerance * max(np.abs(array).max(), 1e-3)
            np.testing.assert_allclose(found[f"a{i}"], array, rtol=0, atol=scale)
