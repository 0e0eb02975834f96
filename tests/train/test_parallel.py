"""jcnn.train on several devices: the losses of one, and no needless communication."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jcnn.train import data_parallel, shard_batch, state_sharding
from tests.helpers.many_devices import MIN_SIZE, begun


@pytest.fixture(scope="module")
def results():
    """The trainings of a process with eight devices."""
    eight = " --xla_force_host_platform_device_count=8"  # the last one counts
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.many_devices"],
        env=os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"] + eight},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CASES = """2 Auto, 4 Auto, 8 Auto, 8 Explicit, stepped Auto, stepped Explicit,
sharded Auto, sharded Explicit, sharded Auto accumulated""".replace("\n", " ").split(
    ", "
)


@pytest.mark.parametrize("case", CASES)
def test_each_step_has_the_loss_of_one_device(case, results):
    one = results["1 accumulated" if "accumulated" in case else "1"]
    tolerance = {"rtol": 2e-6, "atol": 0}  # of sums over 16 images in another order
    np.testing.assert_allclose(results[case]["losses"], one["losses"], **tolerance)
    for name, value in results[case].get("test", {}).items():
        np.testing.assert_allclose(value, one["test"][name], **tolerance)


@pytest.mark.parametrize("case", ["2 Auto", "4 Auto", "8 Auto", "8 Explicit"])
def test_devices_exchange_sums_over_the_batch_alone(case, results):
    found = results[case]["exchanged"]
    assert found.keys() == {"all-reduce"}
    # The gradients once, and what is no larger than the channels or a scalar.
    sizes = sorted(map(_size, found["all-reduce"]))
    params = sorted(a.size for a in jax.tree.leaves(begun().params))
    assert [size for size in sizes if size > 16] == [p for p in params if p > 16]


@pytest.mark.parametrize("case", [case for case in CASES if "sharded" in case])
def test_of_sharded_states_parameters_alone_are_gathered(case, results):
    found = results[case]["exchanged"]
    assert found.keys() <= {"all-reduce", "all-gather", "reduce-scatter"}
    large = {a.size for a in jax.tree.leaves(begun().params) if a.size >= MIN_SIZE}
    assert {_size(shape) for shape in found["all-gather"]} == large


def _size(shape):
    dims = re.search(r"\[(.*)\]", shape)[1]
    return int(np.prod([int(n) for n in dims.split(",") if n], initial=1))


def test_a_batch_that_the_devices_do_not_divide_is_an_error():
    mesh = jax.make_mesh((2,), ("data",))
    for put in (
        lambda x: shard_batch(x, mesh),
        jax.jit(lambda x: data_parallel(lambda p, s, b: b.sum(), mesh)(0.0, {}, x)),
    ):
        with pytest.raises(ValueError, match="a multiple of 2 examples.* got 5"):
            put(jnp.ones(5))


def test_a_mesh_of_both_types_of_axes_is_an_error():
    types = AxisType.Auto, AxisType.Explicit
    mesh = jax.make_mesh((2, 1), ("a", "b"), axis_types=types)
    with pytest.raises(ValueError, match="mesh must have axes that are all Auto or"):
        data_parallel(lambda params, state, batch: batch, mesh)


def test_the_largest_axis_that_the_devices_divide_is_sharded():
    mesh = jax.make_mesh((2,), ("data",))
    shapes = {"a": (7, 6, 4), "b": (7, 5, 3), "c": (4,), "d": ()}
    tree = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    found = state_sharding(tree, mesh, min_size=5)
    expected = {"a": (None, "data"), "b": (), "c": (), "d": ()}
    assert {k: s.spec for k, s in found.items()} == {
        k: PartitionSpec(*v) for k, v in expected.items()
    }
    assert all(s.spec == PartitionSpec() for s in state_sharding(tree, mesh).values())


def test_moments_lie_as_their_parameters_do():
    mesh = jax.make_mesh((2,), ("data",))
    state = begun()
    found = state_sharding(state, mesh, min_size=MIN_SIZE)
    trace = found.opt_state[0].trace
    assert trace == found.params == found.ema[0]
    assert {len(s.spec) for s in jax.tree.leaves(trace)} > {0}
