"""What jcnn uses of JAX's internals is still there, and means what it meant."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify, jet
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jcnn import _jax_internals, conv
from jcnn.engine.primitive import convolution_p


def _primitive(lower):
    """Twice an array, as a new primitive."""
    twice = Primitive("jcnn_twice")
    twice.def_impl(lambda x: 2 * x)
    twice.def_abstract_eval(lambda x: x)
    mlir.register_lowering(twice, mlir.lower_fun(lower, multiple_results=False))
    return twice


def test_programs_are_lowered_by_the_rules_of_the_tables():
    rules = _jax_internals.lowering_rules()
    twice = _primitive(lambda x: 2 * x)
    assert rules.of(twice) is rules.for_all[twice] and callable(rules.of(twice).rule)
    mlir.register_lowering(
        twice,
        mlir.lower_fun(lambda x: 3 * x, multiple_results=False),
        platform="cpu",
    )
    assert rules.of(twice) is rules.for_cpus[twice]
    with jax.default_device(jax.devices("cpu")[0]):
        assert jax.jit(twice.bind)(jnp.float32(5)) == 15
        del rules.for_cpus[twice]
        jax.clear_caches()
        assert jax.jit(twice.bind)(jnp.float32(5)) == 10
    del rules.for_all[twice]


def _watched(read):
    """A primitive that returns its operand, and what `read` finds at each lowering."""
    seen = []

    def lower(context, x):
        seen.append(read(context))
        return [x]

    same = Primitive("jcnn_same")
    same.def_abstract_eval(lambda x: x)
    mlir.register_lowering(same, lower)
    return same, seen


def test_metadata_is_that_of_the_operation():
    same, seen = _watched(_jax_internals.metadata)
    with set_xla_metadata(jcnn="7"):
        jax.jit(same.bind).lower(jnp.float32(1))
    jax.jit(lambda x: same.bind(x + 1)).lower(jnp.float32(1))
    assert seen == [{"jcnn": "7"}, {}]


def test_checkpoint_asks_the_rules(monkeypatch):
    rules, asked = _jax_internals.partial_eval_rules(), []
    rule = rules[convolution_p]

    def spy(policy, unknown, available, equation):
        asked.append(equation.primitive)
        return rule(policy, unknown, available, equation)

    monkeypatch.setitem(rules, convolution_p, spy)
    kept = jax.checkpoint(lambda x: jnp.sin(conv(x, jnp.ones((1, 1, 1)))).sum())
    jax.grad(kept)(jnp.ones((1, 3, 1)))
    assert set(asked) == {convolution_p}


def test_a_convolution_has_taylor_coefficients():
    x, kernel = np.random.default_rng(0).normal(size=(2, 1, 5, 1, 1)).astype("f4")
    value, (first,) = jet.jet(lambda x: conv(x, kernel), (x,), ([2 * x],))
    np.testing.assert_allclose(first, 2 * value, rtol=1e-6)


def test_checkify_finds_nan_in_a_convolution():
    checked = checkify.checkify(
        jax.jit(lambda x: conv(x, jnp.ones((1, 1, 1)))), errors=checkify.nan_checks
    )
    error, _ = checked(jnp.full((1, 3, 1), jnp.nan))
    assert "nan" in (error.get() or "")
    assert checked(jnp.ones((1, 3, 1)))[0].get() is None


def test_backends_are_initialized_by_a_computation():
    jnp.zeros(1).block_until_ready()
    assert _jax_internals.backends_are_initialized() is True


def test_operands_of_a_scan_are_constants_what_is_carried_and_slices():
    x, y = jnp.ones((4, 2)), jnp.ones(3)

    def body(carry, a):
        return (carry[0] * y.sum(), carry[1] + 1), a * x.sum()

    jaxpr = jax.make_jaxpr(lambda x: jax.lax.scan(body, (1.0, 2), x))(x)
    scan = next(eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
    constants, carried = _jax_internals.scan_operands(scan.params)
    assert (constants, carried) == (len(scan.invars) - 3, 2) and constants > 0


def test_a_lowering_can_know_the_mesh():
    same, seen = _watched(_jax_internals.mesh_of)
    mesh = jax.make_mesh((2,), ("two",), axis_types=(AxisType.Auto,))
    x = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec("two")))
    jax.jit(lambda x: same.bind(x)).lower(x)
    _jax_internals.lower_with_mesh(same)
    jax.jit(lambda x: same.bind(x + 1)).lower(x)
    _jax_internals.lower_with_mesh(same, False)
    jax.jit(lambda x: same.bind(x + 2)).lower(x)
    assert seen == [None, mesh.abstract_mesh, None]


def test_a_process_of_no_job_is_the_only_one():
    assert _jax_internals.process_of_job() == (0, 1)
    # Of several: tests/runs/test_processes.py.
