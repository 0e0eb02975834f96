"""JAX's transformations of programs under `accelerate()`, and of `jcnn.conv`.

tests/functions/test_transformations.py has more of jcnn's functions: policies of
`checkpoint`, strides and groups under `jet`, `hessian` and `shard_map`, in float64.
"""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.jet import jet
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jcnn import conv

from .small import assert_close, assert_same_both_ways, by_lax

SHAPES = {"first": (3, 3, 3, 4), "second": (1, 1, 4, 5)}  # 1x1: no platform's is lax's


def _mesh():
    return jax.make_mesh((2,), ("two",), axis_types=(AxisType.Auto,))


def _hessian(network, loss, params, x):
    return jax.hessian(loss)(params, x)


def _jacfwd(network, loss, params, x):
    return jax.jacfwd(network)(params, x)


def _jet(network, loss, params, x):
    leaves, treedef = jax.tree.flatten(params)
    return jet(
        lambda *leaves: network(treedef.unflatten(leaves), x),
        leaves,
        [[jnp.cos(leaf), leaf**2] for leaf in leaves],
    )


def _checkpoint(network, loss, params, x):
    return jax.grad(jax.checkpoint(loss), (0, 1))(params, x)


def _linearize(network, loss, params, x):
    y, linear = jax.linearize(network, params, x)
    return y, linear(jax.tree.map(jnp.cos, params), x)


def _shard_map(network, loss, params, x):
    def of_shard(params, x):
        return network(params, x), jax.grad(loss, (0, 1))(params, x)

    split = P("two")
    return jax.shard_map(
        of_shard,
        mesh=_mesh(),
        in_specs=(P(), split),
        out_specs=(split, (P(), split)),
    )(params, x)


def _spmd_axis_name(network, loss, params, x):
    """Of a function that says how its own arrays lie on the other axis.

    Without gradients to the kernels, which XLA gets wrong (see below).
    """
    mesh = jax.make_mesh((2, 1), ("two", "one"), axis_types=(AxisType.Auto,) * 2)

    def run(params, x):
        x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P("one")))
        return network(params, x), jax.grad(loss, 1)(params, x)

    return jax.vmap(run, (None, 0), spmd_axis_name="two")(params, x[:, None])


def _per_example(network, loss, params, x):
    return jax.vmap(jax.grad(loss), (None, 0))(params, x[:, None])


@pytest.mark.parametrize(
    "transform",
    (
        _hessian,
        _jacfwd,
        _jet,
        _checkpoint,
        _linearize,
        _shard_map,
        _spmd_axis_name,
        _per_example,
    ),
)
def test_it_gives_what_lax_gives(transform, rng):
    params = {
        name: jnp.asarray(rng.normal(size=s), "float32") for name, s in SHAPES.items()
    }
    x = jnp.asarray(rng.normal(size=(4, 5, 6, 3)), "float32")

    def run(convolve, params, x):
        def network(params, x):
            return convolve(jnp.sin(convolve(x, params["first"])), params["second"])

        def loss(params, x):
            return jnp.sum(jnp.sin(network(params, x)))

        return transform(network, loss, params, x)

    assert_same_both_ways(run, params, x, sharded=transform is _spmd_axis_name)


_XLAS_FAULT = pytest.mark.xfail(
    version("jaxlib") == "0.10.2", reason="XLA divides groups wrongly", strict=True
)


@pytest.mark.parametrize(
    ("convolve", "size", "examples"),
    (
        (conv, 1, 1),
        (conv, 1, 2),
        (conv, 3, 1),
        (conv, 3, 2),
        pytest.param(by_lax, 1, 2, marks=_XLAS_FAULT),
        pytest.param(by_lax, 3, 1, marks=_XLAS_FAULT),
    ),
)
def test_vmap_over_what_two_devices_share_gives_what_each_gives(
    convolve, size, examples, rng
):
    """See "divided groups" in jcnn/engine/xla_faults.py."""
    kernels = jnp.asarray(rng.normal(size=(4, size, size, 3, 4)), "float32")
    x = jnp.asarray(rng.normal(size=(4, examples, 5, 6, 3)), "float32")

    def run(kernel, x):
        def loss(kernel, x):
            return jnp.sum(jnp.sin(convolve(x, kernel)))

        return convolve(x, kernel), jax.grad(loss, (0, 1))(kernel, x)

    def check(got, each):
        expected = jax.tree.map(lambda *a: jnp.stack(a), *each)
        assert_close(got, expected)

    divided = NamedSharding(_mesh(), P("two"))
    batch, of_batch = jax.device_put((x, kernels), divided)
    got = jax.jit(jax.vmap(run, (None, 0)))(kernels[0], batch)
    check(got, [run(kernels[0], one) for one in x])
    got = jax.jit(jax.vmap(run))(of_batch, batch)
    check(got, list(map(run, kernels, x)))


def test_gradients_per_example_are_those_of_each(rng):
    """Each by itself, without `vmap`."""
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), "float32")
    x = jnp.asarray(rng.normal(size=(4, 5, 6, 3)), "float32")

    def gradient(kernel, x):
        return jax.grad(lambda kernel: jnp.sum(jnp.sin(conv(x[None], kernel))))(kernel)

    together = jax.jit(jax.vmap(gradient, (None, 0)))(kernel, x)
    assert_close(together, jnp.stack([gradient(kernel, image) for image in x]))
