"""Sums over runs of axes: their values, derivatives, bits and compiled programs."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from jcnn.engine.sums import broadcast, total
from tests.helpers.stress import few_of

pytestmark = pytest.mark.usefixtures("full_compilation")

CASES = [
    ((128, 16, 16, 16), (0, 1, 2)),
    ((8, 31, 3), (0, 1)),
    ((4, 49, 5), (1,)),
    ((4, 6, 5, 2), (1, 3)),
    ((4, 6, 5, 2), (0, 2)),
    ((1009, 2), (0,)),
    ((3, 7), (1,)),
    ((0, 3), (0,)),
]


@pytest.mark.parametrize("shape, axes", CASES)
def test_sums_are_numpys(shape, axes, rng):
    x = rng.normal(size=shape).astype("float32")
    expected = x.astype("float64").sum(axes, keepdims=True)
    for sum_ in (total, jax.jit(total, static_argnums=1)):
        got = sum_(jnp.asarray(x), axes)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    sums = expected.astype("float32")
    np.testing.assert_array_equal(
        broadcast(jnp.asarray(sums), shape), np.broadcast_to(sums, shape)
    )


@pytest.mark.parametrize("shape, axes", [((4, 6, 2), (0, 1)), ((2, 3, 2), (1, 2))])
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_derivatives_of_all_orders(shape, axes, mode, rng):
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=shape))

        def f(x):
            return jnp.sin(broadcast(jnp.cos(total(x, axes)), shape) * x)

        check_grads(jax.jit(f), (x,), order=2, modes=(mode,))


def test_maps_are_loops(rng):
    x = jnp.asarray(rng.normal(size=(16, 5, 8, 3)), "float32")
    expected = np.stack([total(x[:, i], (0, 1)) for i in range(5)])
    for f in (jax.vmap, lambda *args: jax.jit(jax.vmap(*args))):
        got = f(lambda x: total(x, (0, 1)), 1)(x)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_taylor_series(rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), "float32")
    _, (first, second) = jet.jet(
        lambda x: broadcast(total(x, (0,)), x.shape), (x,), ((x, 2 * x),)
    )
    np.testing.assert_allclose(2 * first, second, rtol=1e-6)


def test_ynnpack_takes_no_part():
    text = _compiled(jnp.ones((64, 32, 32, 16)))
    assert "__ynn_fusion" not in text


def test_a_batch_in_shards_is_not_gathered():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    text = _compiled(jax.device_put(jnp.ones((64, 32, 32, 16)), sharding))
    assert "all-reduce" in text and "all-gather" not in text


def _compiled(x):
    gradient = jax.jit(jax.grad(lambda b, x: jnp.sin(broadcast(b, x.shape) * x).sum()))
    forward = jax.jit(partial(total, axes=(0, 1, 2)))
    b = jnp.ones((1, 1, 1, 16))
    # The loss's own sum is not ours, and its value is not asked for.
    programs = gradient.lower(b, x), forward.lower(x)
    return "".join(str(program.compile().as_text()) for program in programs)


PROGRAM = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from jcnn import batch_norm

shape = 32, 24, 24, 16
x, t = jax.random.normal(jax.random.key(0), (2, *shape)) + 3
c = jnp.ones(16)

@jax.jit
def step(x, t):
    f = lambda x, s, b: batch_norm(x, s, b, c, c, train=True)
    y, vjp, = jax.vjp(lambda *args: jax.nn.relu(f(*args)[0]), x, c, c)
    return y, vjp(t), f(x, c, c)

arrays = jax.tree.leaves(step(x, t))
print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest())
"""


@pytest.mark.parametrize("counts", few_of([(1, 3), (1, 2, 3, 8)], 1), ids=str)
def test_the_number_of_threads_changes_no_bits(counts):
    bits = set()
    for threads in counts:
        environment = os.environ | {"NPROC": str(threads)}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        bits.add(done.stdout)
    assert len(bits) == 1
