"""Accumulated gradients against whole batches, and batches of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcnn import flatten, serial
from jcnn.finite import find_fault
from jcnn.layers import BatchNorm, Conv, Dense, Dropout
from jcnn.train import (
    TrainState,
    batch_at,
    classification,
    create,
    gradients,
    make_scan,
    make_step,
)


def _scaled(images, key):
    return images / 255


def _data(rng, n=12):
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, 5, 4, 2)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, n), jnp.int32),
    }


def _begin(layer, tx, data):
    return create(layer, tx, jax.random.key(0), data["image"][:1])


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_give_the_step_of_the_whole_batch(parts, rng):
    layer = serial(conv=Conv(3, 3), relu=jax.nn.relu, flatten=flatten, head=Dense(3))
    loss_fn, _ = classification(layer, _scaled, label_smoothing=0.1)
    data, tx = _data(rng), optax.sgd(0.5, momentum=0.9)
    whole, parted = (
        make_step(loss_fn, tx, accumulate=n)(_begin(layer, tx, data), data)
        for n in (1, parts)
    )
    assert jax.tree.structure(whole) == jax.tree.structure(parted)
    (whole, whole_metrics), (parted, metrics) = whole, parted
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parted.params)):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    for name in ("loss", "accuracy"):
        assert float(metrics[name]) == pytest.approx(float(whole_metrics[name]))
    assert int(parted.step) == 1


def test_batch_norm_takes_statistics_part_by_part(rng):
    """Means of running statistics, one part after the other, by hand."""
    layer = serial(norm=BatchNorm(momentum=0.8), flatten=flatten, head=Dense(3))
    loss_fn, _ = classification(layer, lambda images, key: images)
    data, tx = _data(rng), optax.sgd(0.1)
    state, _ = make_step(loss_fn, tx, accumulate=3)(_begin(layer, tx, data), data)
    mean = np.zeros(2)
    for part in np.split(np.asarray(data["image"], np.float64), 3):
        mean = 0.8 * mean + 0.2 * part.mean((0, 1, 2))
    np.testing.assert_allclose(state.model_state["norm"]["mean"], mean, rtol=1e-5)


def test_metrics_and_gradients_of_any_dtype_are_means():
    def loss_fn(params, model_state, batch, key):
        loss = jnp.sum(params.astype(jnp.float32) * batch.mean())
        seen = {"above": (batch > 0).any(), "count": (batch > 0).sum()}
        return loss, (model_state, seen)

    batch = jnp.array([1.0, 257.0, 3.0, 1.0, -1.0, -5.0])
    params = jnp.ones(2, jnp.bfloat16)
    state = TrainState(jnp.int32(0), jax.random.key(0), params, {}, ())
    (_, (_, metrics)), grads = gradients(loss_fn, state, batch, accumulate=3)
    assert metrics["above"] == pytest.approx(2 / 3) and metrics["count"] == 4 / 3
    assert grads.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads, jnp.full(2, 256 / 6, jnp.bfloat16))


def test_a_fault_is_looked_for_in_the_parts():
    """Here the mean of a part is 0, and that of the batch is not."""

    def loss_fn(params, model_state, batch, key):
        return jnp.sum(params) / batch["x"].mean(), (model_state, {})

    data = {"x": jnp.array([1.0, 1.0, 0.0, 0.0])}
    state = TrainState(jnp.int32(0), jax.random.key(0), jnp.ones(2), {}, ())
    plain, parts = (find_fault(loss_fn, state, data, accumulate=n) for n in (1, 2))
    assert plain.counts["loss"].inf == 0 and parts.counts["loss"].inf == 1


def test_each_part_draws_its_own_dropout(rng):
    layer = serial(flatten=flatten, drop=Dropout(0.5))
    data = jax.tree.map(lambda a: a[:1].repeat(4, axis=0), _data(rng))

    def loss_fn(params, model_state, batch, key):
        y, model_state = layer.apply(
            params, model_state, batch["image"], train=True, key=key
        )
        return y.mean(), (model_state, {"mean": y.mean()})

    tx = optax.sgd(0.1)
    means = {
        parts: float(make_step(loss_fn, tx, accumulate=parts)(state, data)[1]["mean"])
        for parts in (1, 2, 4)
        for state in [_begin(layer, tx, data)]
    }
    assert len(set(means.values())) == 3


@pytest.mark.parametrize(
    "parts, error", [(5, ValueError), (0, ValueError), (1.5, TypeError)]
)
def test_parts_that_are_not_equal_are_rejected(parts, error, rng):
    layer = serial(flatten=flatten, head=Dense(3))
    loss_fn, _ = classification(layer, _scaled)
    data, tx = _data(rng), optax.sgd(0.1)
    with pytest.raises(error, match="accumulate must"):
        make_step(loss_fn, tx, accumulate=parts)(_begin(layer, tx, data), data)


def _first_examples(key, step, data, batch_size):
    """A batch that depends on the step: brighter each time, always the first images."""
    part = jax.tree.map(lambda a: a[:batch_size], data)
    return part | {"image": part["image"] + step}


def test_steps_take_batches_of_ones_own(rng):
    layer = serial(flatten=flatten, head=Dense(3))
    loss_fn, _ = classification(layer, _scaled)
    data, tx = _data(rng), optax.sgd(0.1)
    many = make_scan(loss_fn, tx, batch_size=4, num_steps=3, batch_at=_first_examples)
    found, _ = many(_begin(layer, tx, data), data)
    state, one = _begin(layer, tx, data), make_step(loss_fn, tx)
    for step in range(3):
        state, _ = one(state, _first_examples(None, step, data, 4))
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(state.params)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("own", [False, True])
def test_a_fault_lists_examples_only_of_the_usual_batches(own, rng):
    data, tx = _data(rng), optax.sgd(0.1)

    def loss_fn(params, model_state, batch, key):
        return jnp.log(-params).sum() + batch["image"].sum(), (model_state, {})

    state = create(Dense(3), tx, jax.random.key(0), jnp.zeros((1, 2)))
    state = state._replace(params=jnp.ones(2))
    how = {"batch_at": _first_examples} if own else {}
    fault = find_fault(loss_fn, state, data, batch_size=4, **how)
    expected = batch_at(jax.random.key(0), 0, {"index": jnp.arange(12)}, 4)["index"]
    assert fault.examples == (None if own else expected.tolist())
    assert fault.counts["loss"].nan == 1
