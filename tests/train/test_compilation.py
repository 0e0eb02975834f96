"""jcnn.compilation: XLA's options for whole programs, and programs inside others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcnn import compilation
from jcnn.layers import Dense
from jcnn.train import classification, create, make_evaluate, make_scan, make_step

UNKNOWN = {"xla_no_such_option": True}


def test_the_options_are_known_to_the_xla_that_is_tested():
    assert compilation.default_options()


def test_options_that_xla_does_not_know_are_left_away(monkeypatch):
    monkeypatch.setattr(compilation, "_CPU", UNKNOWN)
    compilation._known.cache_clear()
    try:
        assert compilation.default_options() == {}
        assert compilation.jit(jnp.sin)(0.0) == 0
    finally:
        monkeypatch.undo()
        compilation._known.cache_clear()


def test_gpus_can_be_made_to_repeat_their_bits(monkeypatch):
    assert compilation.default_options(deterministic=True) == (
        compilation.default_options()  # a CPU's always do
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.default_options() == {}
    options = compilation.default_options(deterministic=True)
    # XLA knows all platforms' options on each, and refuses those that it does not.
    assert jax.jit(jnp.cos, compiler_options=options)(0.0) == 1


def test_a_function_works_inside_of_every_transformation(rng):
    f = compilation.jit(lambda x: jnp.sin(x) ** 2)
    x = jnp.asarray(rng.standard_normal(5), "float32")
    expected = np.sin(np.asarray(x, "float64")) ** 2
    slope = np.sin(2 * np.asarray(x, "float64"))

    def scanned(x):
        return jax.lax.scan(lambda c, row: (c, f(row)), 0, x)[1]

    for g in (f, jax.jit(f), jax.vmap(f), scanned, jax.checkpoint(f)):
        np.testing.assert_allclose(g(x), expected, rtol=1e-5, atol=1e-6)
    for g in (jax.grad(lambda x: f(x).sum()), jax.jit(jax.vmap(jax.grad(f)))):
        np.testing.assert_allclose(g(x), slope, rtol=1e-5, atol=1e-6)


def test_the_options_reach_the_compiler_of_all_training_functions():
    loss_fn, metrics = classification(Dense(2), lambda images, key: images)
    tx = optax.sgd(0.1)
    state = create(Dense(2), tx, jax.random.key(0), jnp.zeros((1, 3)))
    data = {"image": jnp.ones((4, 3)), "label": jnp.zeros(4, jnp.int32)}
    for call in (
        make_step(loss_fn, tx, compiler_options=UNKNOWN),
        make_scan(loss_fn, tx, batch_size=2, num_steps=2, compiler_options=UNKNOWN),
        make_evaluate(metrics, batch_size=2, compiler_options=UNKNOWN),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
            call(state, data)


def test_a_training_step_can_be_part_of_another_program():
    loss_fn, _ = classification(Dense(2), lambda images, key: images)
    tx = optax.sgd(0.1)
    step = make_step(loss_fn, tx)
    batch = {"image": jnp.ones((4, 3)), "label": jnp.zeros(4, jnp.int32)}

    def state():
        return create(Dense(2), tx, jax.random.key(0), jnp.zeros((1, 3)))

    twice, _ = jax.jit(lambda s: step(step(s, batch)[0], batch))(state())
    one_by_one, _ = step(step(state(), batch)[0], batch)
    np.testing.assert_allclose(
        twice.params["kernel"], one_by_one.params["kernel"], rtol=1e-6
    )


def test_it_is_a_stage_of_jax():
    assert isinstance(compilation.jit(jnp.sin), jax.stages.Wrapped)


@pytest.mark.parametrize("jit", [jax.jit, compilation.jit])
def test_what_is_made_of_it_is_lowered_as_a_whole(jit):
    """And not as the function that it is made of, which knows no other shapes."""
    total = compilation.jit(lambda x: jnp.sum(x))
    assert total.__name__ == "<lambda>"
    lowered = jit(jax.vmap(total)).lower(jax.ShapeDtypeStruct((3, 4), jnp.float32))
    assert lowered.out_info.shape == (3,)
    assert jit(jax.vmap(total)).trace(jnp.ones((3, 4))).out_info.shape == (3,)
