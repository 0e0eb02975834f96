"""What XLA makes of convolutions in programs that it divides among devices.

That the results are right is tested in tests/functions/test_transformations.py.
"""

import re
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jcnn
from jcnn.engine.onednn.support import is_default

pytestmark = pytest.mark.usefixtures("full_compilation")

CALL = "__onednn$convolution"
BATCH, FEATURES, INPUTS = P("two"), P(None, None, None, "two"), P(None, None, "two")


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("two",), axis_types=(AxisType.Auto,))


def _arrays(rng, *shapes):
    return [jnp.asarray(rng.normal(size=shape), "float32") for shape in shapes]


def _divided(mesh, arrays, specs):
    return [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs)]


def _compiled(function, mesh, arrays, specs):
    """Return the program, after its results were compared with one device's."""
    program = jax.jit(function).lower(*_divided(mesh, arrays, specs)).compile()
    expected = jax.tree.leaves(jax.jit(function)(*arrays))
    results = jax.tree.leaves(program(*_divided(mesh, arrays, specs)))
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
    return program.as_text() or ""


def _moved(text):
    """Return what each collective operation moves: its name and the arrays' shapes."""
    found = re.findall(
        r"= (\(.*?\)|\S+) (all-[a-z-]+|collective-[a-z]+|reduce-scatter)\(", text
    )
    return sorted(
        (name, shape)
        for shapes, name in found
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
    )


def _by_lax(x, kernel, strides=1):
    strides = (strides, strides)
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, "SAME", None, None, layout)


def _gradients(conv):
    def loss(x, first, second):
        return jnp.square(conv(jax.nn.relu(conv(x, first, strides=2)), second)).sum()

    return jax.grad(loss, (1, 2))


@pytest.mark.parametrize("by", ("auto", "onednn", "im2col", "matmul", "accelerate"))
def test_a_divided_batch_is_not_gathered(by, mesh, rng):
    size = 1 if by == "matmul" else 3
    arrays = _arrays(rng, (8, 9, 8, 4), (size, size, 4, 6), (size, size, 6, 6))
    accelerated = by == "accelerate"
    if by == "onednn" and not is_default():
        pytest.skip("oneDNN's convolution is not there")
    conv = _by_lax if accelerated else partial(jcnn.conv, impl=by)
    with jcnn.accelerate() if accelerated else nullcontext():
        jax.clear_caches()
        text = _compiled(_gradients(conv), mesh, arrays, (BATCH, P(), P()))
    kernels = [",".join(map(str, a.shape)) for a in arrays[1:]]
    assert _moved(text) == sorted(("all-reduce", kernel) for kernel in kernels)
    assert (CALL in text) == (by not in ("im2col", "matmul") and is_default())


def test_divided_kernels_are_gathered_and_images_are_not(mesh, rng):
    arrays = _arrays(rng, (8, 9, 8, 4), (3, 3, 4, 6), (3, 3, 6, 6))
    specs = (BATCH, FEATURES, FEATURES)
    moved = _moved(_compiled(_gradients(jcnn.conv), mesh, arrays, specs))
    assert "all-gather" in dict(moved)
    assert {shape for _, shape in moved} <= {"3,3,4,6", "3,3,6,6", "3,3,6,3", "3,3,4,3"}


def test_divided_features_stay_divided(mesh, rng):
    arrays = _arrays(rng, (4, 7, 8, 4), (3, 3, 4, 6))
    text = _compiled(jcnn.conv, mesh, arrays, (P(), FEATURES))
    assert _moved(text) == []


def test_sums_over_divided_channels_are_reduced(mesh, rng):
    arrays = _arrays(rng, (4, 7, 8, 4), (3, 3, 4, 6))
    text = _compiled(jcnn.conv, mesh, arrays, (FEATURES, INPUTS))
    assert _moved(text) == [("all-reduce", "4,7,8,6")]


@pytest.mark.parametrize("layer", ("groups", "depthwise", "dense", "transposed", "1d"))
def test_no_layer_gathers_its_batch(layer, mesh, rng):
    image, kernel = {
        "groups": ((8, 7, 6, 4), (3, 3, 2, 6)),
        "depthwise": ((8, 7, 6, 4), (3, 3, 1, 8)),
        "dense": ((8, 6), (6, 4)),
        "transposed": ((8, 5, 4, 3), (2, 2, 3, 4)),
        "1d": ((8, 20, 4), (5, 4, 6)),
    }[layer]
    function = {
        "groups": partial(jcnn.conv, feature_group_count=2),
        "depthwise": jcnn.depthwise_conv,
        "dense": jcnn.dense,
        "transposed": partial(jcnn.conv_transpose, strides=2),
        "1d": jcnn.conv,
    }[layer]

    def gradients(x, kernel):
        return jax.grad(lambda *ab: jnp.sin(function(*ab)).sum(), (0, 1))(x, kernel)

    text = _compiled(gradients, mesh, _arrays(rng, image, kernel), (BATCH, P()))
    ((name, shape),) = _moved(text)  # the kernel's, perhaps with its axes in turn
    assert name == "all-reduce"
    assert sorted(map(int, shape.split(","))) == sorted(kernel)


def test_gradients_of_each_example_are_not_gathered(mesh, rng):
    def loss(kernel, x):
        return jnp.sin(jcnn.conv(x[None], kernel)).sum()

    def gradients(x, kernel):
        return jax.vmap(jax.grad(loss), (None, 0))(kernel, x)

    arrays = _arrays(rng, (6, 8, 7, 3), (3, 3, 3, 5))
    assert _moved(_compiled(gradients, mesh, arrays, (BATCH, P()))) == []


def test_in_loops_and_branches_too(mesh, rng):
    def function(x, kernel):
        def body(x, _):
            return lax.cond(x.sum() > 0, lambda x: jcnn.conv(x, kernel), jnp.sin, x), 0

        return lax.scan(body, x, length=3)[0]

    arrays = _arrays(rng, (4, 7, 6, 3), (3, 3, 3, 3))
    assert "all-gather" not in _compiled(function, mesh, arrays, (BATCH, P()))


def test_with_two_axes_of_a_mesh(rng):
    mesh = jax.make_mesh((2, 1), ("two", "one"), axis_types=(AxisType.Auto,) * 2)
    arrays = _arrays(rng, (8, 9, 8, 4), (3, 3, 4, 6), (3, 3, 6, 6))
    specs = (P(("one", "two")), P(), P())
    text = _compiled(_gradients(jcnn.conv), mesh, arrays, specs)
    assert set(dict(_moved(text))) == {"all-reduce"}


def test_what_is_exported_is_laxs(mesh, rng):
    arrays = _divided(mesh, _arrays(rng, (4, 7, 6, 3), (3, 3, 3, 3)), (BATCH, P()))
    text = jax.export.export(jax.jit(jcnn.conv))(*arrays).mlir_module()
    assert "CustomSPMDPartitioning" not in text and "stablehlo.convolution" in text
