"""Steps that are not finite: what they leave behind, and what is said of them."""

from functools import lru_cache
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jcnn import global_avg_pool, serial
from jcnn.finite import NotFinite, find_fault, require_finite
from jcnn.layers import BatchNorm, Conv, Dense
from jcnn.order import batch_indices
from jcnn.train import (
    TrainState,
    averaged,
    classification,
    create,
    make_scan,
    make_step,
)

pytestmark = pytest.mark.cover(1)

KEY = jax.random.key(3)
N = 11  # examples
TX = optax.adam(0.1)


def _loss(params, model_state, batch, key):
    """Linear regression; NaN or infinite where the batch's "fault" says so.

    1: the loss alone, 2: a gradient alone (of sqrt at 0), 3: both, 4: loss infinite.
    """
    fault = batch["fault"].max()
    error = batch["x"].astype(jnp.float32) @ params["w"].astype(jnp.float32)
    error = error + params["b"].astype(jnp.float32) - batch["y"]
    loss = jnp.mean(error**2)
    # The root of 0 is 0, and its derivative infinite: times 0 it is NaN.
    some = params["w"].astype(jnp.float32)[0] ** 2 + 1
    root = jnp.sqrt(some * jnp.where(fault == 2, 0.0, 1.0))
    loss = loss + 0.1 * root
    wrong = jnp.select([fault == 1, fault == 4], [jnp.nan, jnp.inf], 0.0)
    loss = loss + jax.lax.stop_gradient(wrong)
    loss = loss * jnp.where(fault == 3, jnp.nan, 1.0)
    noise = jax.random.uniform(key)
    new = {
        "calls": model_state["calls"] + 1,
        "seen": model_state["seen"] | (fault > 0),
        "mean": 0.9 * model_state["mean"] + 0.1 * loss + noise,
        "none": None,
    }
    return loss, (new, {"loss": loss})


def _data(rng, fault=()):
    data = {
        "x": jnp.asarray(rng.normal(size=(N, 3)), jnp.float32),
        "y": jnp.asarray(rng.normal(size=N), jnp.float32),
        "fault": jnp.zeros(N, jnp.int32),
    }
    for example, kind in fault:
        data["fault"] = data["fault"].at[example].set(kind)
    return data


def _state(tx=TX, ema=False, dtype=jnp.float32):
    def init(key, x):
        params = {
            "w": jax.random.normal(key, (3,), dtype),
            "b": jnp.ones((), dtype),
            "empty": jnp.zeros((0, 4), dtype),
        }
        state = {
            "calls": jnp.int32(0),
            "seen": jnp.bool_(False),
            "mean": jnp.float32(0),
            "none": None,
        }
        return params, state

    layer = type("", (), {"init": staticmethod(init)})
    return create(layer, tx, KEY, jnp.zeros((1, 3)), ema=ema)  # pyright: ignore


def _copy(tree):
    return jax.tree.map(jnp.copy, tree)


def _bits(tree):
    def words(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return [words(leaf) for leaf in jax.tree.leaves(tree)]


@lru_cache(None)
def _examples(step, batch_size):
    key = jax.random.fold_in(KEY, crc32(b"order"))
    return batch_indices(key, step, num_examples=N, batch_size=batch_size).tolist()


def _batch(data, step):
    return {name: a[np.array(_examples(step, 4))] for name, a in data.items()}


STEPS = {
    policy: make_step(_loss, TX, not_finite=policy)
    for policy in ("stop", "skip", "ignore")
}


# --- what is left behind ---


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_step_that_is_not_finite_changes_nothing(policy, kind, rng):
    step = STEPS[policy]
    good, bad = _data(rng), _data(rng, [(0, kind)])
    state, metrics = step(_state(), good)
    assert metrics["finite"] and metrics["finite"].dtype == bool
    before = _copy(state)
    state, metrics = step(state, bad)
    assert not metrics["finite"]
    # Gradients alone have no effect on the loss: it is their NaN that was found.
    assert np.isfinite(metrics["loss"]) == (kind == 2)
    assert int(state.step) == 1 + (policy == "skip")
    assert _bits(state._replace(step=before.step)) == _bits(before)
    assert int(state.model_state["calls"]) == 1 and not state.model_state["seen"]
    state, metrics = step(state, good)
    assert metrics["finite"] and _bits(state) != _bits(before)
    assert int(state.step) == 2 + (policy == "skip")


def test_ignored_faults_are_in_the_parameters(rng):
    state, metrics = STEPS["ignore"](_state(), _data(rng, [(4, 3)]))
    assert list(metrics) == ["loss"] and int(state.step) == 1
    assert np.isnan(state.params["w"]).all()


def test_all_policies_are_the_same_while_all_is_finite(rng):
    data = _data(rng)
    states = {policy: _state() for policy in STEPS}
    for _ in range(3):
        for policy, step in STEPS.items():
            states[policy], _ = step(states[policy], data)
    assert _bits(states["stop"]) == _bits(states["skip"])
    for stop, ignore in zip(
        jax.tree.leaves(states["stop"].params), jax.tree.leaves(states["ignore"].params)
    ):
        np.testing.assert_allclose(stop, ignore, rtol=1e-6)


@given(st.integers(0, N - 1), st.sampled_from([1, 2, 3, 4]), st.booleans())
def test_scans_are_steps_to_the_bit(example, kind, skip):
    """The example of the fault decides in which steps it is met."""
    policy = "skip" if skip else "stop"
    data = _data(np.random.default_rng(0), [(example, kind)])
    expected, finite = _state(), []
    for k in range(6):
        at = int(expected.step)
        assert at == k or not skip
        bad = example in _examples(at, 4)
        expected, metrics = STEPS[policy](expected, _batch(data, at))
        finite.append(bool(metrics["finite"]))
        assert finite[-1] != bad
    if not skip:  # the first fault is met again and again
        first = next((k for k in range(6) if example in _examples(k, 4)), 6)
        assert int(expected.step) == first and finite == [k < first for k in range(6)]
    for chunks in (1, 2):
        state, found = _state(), []
        for _ in range(chunks):
            state, metrics = SCANS[policy, 6 // chunks](state, data)
            found.extend(metrics["finite"].tolist())
        assert _bits(state) == _bits(expected) and found == finite


SCANS = {
    (policy, k): make_scan(_loss, TX, batch_size=4, num_steps=k, not_finite=policy)
    for policy in ("stop", "skip")
    for k in (3, 6)
}


def test_batch_norm_keeps_its_statistics(rng):
    net = serial(conv=Conv(3, 3), norm=BatchNorm(), mean=global_avg_pool, head=Dense(2))
    loss_fn, _ = classification(net, lambda images, key: images)
    state = create(net, TX, KEY, jnp.zeros((1, 5, 5, 1)))
    image = rng.normal(size=(4, 5, 5, 1)).astype(np.float32)
    batch = {"image": jnp.asarray(image), "label": jnp.zeros(4, jnp.int32)}
    step = make_step(loss_fn, TX, not_finite="skip")
    state, _ = step(state, batch)
    before = _copy(state)
    image[2, 1, 1, 0] = np.inf
    state, metrics = step(state, batch | {"image": jnp.asarray(image)})
    assert not metrics["finite"]
    assert _bits(state.model_state) == _bits(before.model_state)
    assert _bits(state.opt_state) == _bits(before.opt_state)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_narrow_parameters_and_the_average_stay_too(dtype, policy, rng):
    step = make_step(_loss, TX, not_finite=policy, ema_decay=0.5)
    state, metrics = step(_state(ema=True, dtype=dtype), _data(rng))
    assert metrics["finite"] and state.ema[0]["w"].dtype == jnp.float32
    before = _copy(state)
    state, metrics = step(state, _data(rng, [(1, 3)]))
    assert not metrics["finite"]
    assert _bits(state._replace(step=before.step)) == _bits(before)


def test_the_largest_numbers_are_finite(rng):
    """No sum overflows: what is looked at are the numbers."""
    big = float(np.finfo(np.float32).max)

    def loss_fn(params, model_state, batch, key):
        return jnp.sum(params * batch), (model_state, {})

    tx = optax.sgd(0.0)
    state = TrainState(jnp.int32(0), jnp.copy(KEY), jnp.zeros(100), {}, tx.init(0.0))
    step = make_step(loss_fn, tx)
    state, metrics = step(state, jnp.full(100, big))
    assert metrics["finite"]
    state, metrics = step(state, jnp.full(100, -big).at[99].set(jnp.inf))
    assert not metrics["finite"]


def test_it_works_under_vmap(rng):
    """Two members of an ensemble: one stops, the other goes on."""
    good, bad = _data(rng), _data(rng, [(0, 1)])
    batch = jax.tree.map(lambda *a: jnp.stack(a), good, bad)
    states = jax.tree.map(lambda *a: jnp.stack(a), _state(), _state())
    step = make_step(_loss, TX)
    states, metrics = jax.vmap(step)(states, batch)
    assert metrics["finite"].tolist() == [True, False]
    assert states.step.tolist() == [1, 0]
    alone, _ = step(_state(), good)
    for one, two in zip(jax.tree.leaves(alone.params), jax.tree.leaves(states.params)):
        np.testing.assert_allclose(two[0], one, rtol=1e-6)
    second = jax.tree.map(lambda a: a[1], states)
    assert _bits(second) == _bits(_state())


# --- what is said of it ---


def test_the_message_names_step_arrays_and_examples(rng):
    data = _data(rng, [(7, 2)])
    state, metrics = SCANS["stop", 6](_state(), data)
    step = next(k for k in range(6) if 7 in _examples(k, 4))
    with pytest.raises(NotFinite) as caught:
        require_finite(metrics["finite"], _loss, state, data, batch_size=4)
    examples = _examples(step, 4)
    assert caught.value.fault.step == step and caught.value.fault.examples == examples
    assert isinstance(caught.value, ArithmeticError)
    assert str(caught.value) == (
        f"step {step} is not finite: gradients/w (1 NaN of 3); "
        f"its batch is examples {examples}"
    )


def test_finite_calls_pass(rng):
    state, metrics = SCANS["stop", 3](_state(), _data(rng))
    require_finite(metrics["finite"], _loss, state, None, batch_size=4)


def test_counts_are_those_of_numpy(rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    x[1, 2], x[2, 0], x[3, 0] = np.nan, np.inf, -np.inf
    batch = {"x": jnp.asarray(x), "label": jnp.arange(4)}

    def loss_fn(params, model_state, batch, key):
        return jnp.sum(batch["x"] * params), (model_state, {})

    params = jnp.ones((4, 3))
    state = TrainState(jnp.int32(5), KEY, params, {"m": jnp.array([jnp.inf])}, ())
    fault = find_fault(loss_fn, state, batch)
    assert fault.step == 5 and fault.examples is None
    assert fault.counts == {
        "loss": (1, 0, 1),
        "gradients": (1, 2, 12),
        "params": (0, 0, 12),
        "model_state/m": (0, 1, 1),
        "new_model_state/m": (0, 1, 1),
        "batch/x": (1, 2, 12),
    }
    assert "gradients (1 NaN and 2 inf of 12)" in str(NotFinite(fault))


def test_long_lists_are_cut():
    def loss_fn(params, model_state, batch, key):
        return sum(jnp.log(p) for p in params.values()), (model_state, {})

    params = {f"p{i}": jnp.float32(i > 7) for i in range(9)}
    state = TrainState(jnp.int32(0), KEY, params, {}, ())
    text = str(NotFinite(find_fault(loss_fn, state, None)))
    named = "; ".join(f"gradients/p{i} (inf)" for i in range(6))
    assert text == (
        f"step 0 is not finite: loss (inf); {named} and others, 8 of 9 gradients"
    )


def test_a_skipped_step_can_be_looked_at(rng):
    data = _data(rng, [(e, 3) for e in range(N)])
    state, metrics = STEPS["skip"](_state(), _batch(data, 0))
    fault = find_fault(_loss, state._replace(step=state.step - 1), data, batch_size=4)
    assert fault.step == 0 and fault.examples == _examples(0, 4)
    assert fault.counts["loss"].nan == 1


def test_a_state_without_fault_says_so(rng):
    text = str(NotFinite(find_fault(_loss, _state(), _data(rng), batch_size=4)))
    assert "not reproducible outside the compiled steps" in text


# --- the average of the parameters ---


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_is_that_of_numpy(decay, rng):
    data = _data(rng)
    step = make_step(_loss, TX, ema_decay=decay)
    state, history = _state(ema=True), []
    for k in range(7):
        state, _ = step(state, _batch(data, k))
        history.append(np.asarray(state.params["w"], np.float64))
        weights = decay ** np.arange(k + 1)[::-1].astype(np.float64)
        expected = (weights[:, None] * history).sum(0) / weights.sum()
        np.testing.assert_allclose(state.ema[0]["w"], expected, rtol=1e-5, atol=1e-6)
    again = averaged(state)
    assert _bits((again.params, again.model_state)) == _bits(state.ema)
    rest = {"params": {}, "model_state": {}}
    assert _bits(again._replace(**rest)) == _bits(state._replace(**rest))


def test_statistics_are_averaged_too_and_integers_are_the_last_ones(rng):
    decay, data = 0.8, _data(rng)
    step = make_step(_loss, TX, ema_decay=decay)
    state, history = _state(ema=True), []
    for k in range(5):
        state, _ = step(state, _batch(data, k))
        history.append(float(state.model_state["mean"]))
    weights = decay ** np.arange(5)[::-1]
    expected = weights @ history / weights.sum()
    found = averaged(state).model_state
    assert len(set(history)) > 1 and found["calls"] == state.model_state["calls"] == 5
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5)


# Without optimizations jaxlib 0.12 rounds a loop's steps in another way.
@pytest.mark.usefixtures("full_compilation")
def test_a_scan_averages_as_steps_do_and_goes_on_to_the_bit(rng):
    data = _data(rng)
    step = make_step(_loss, TX, ema_decay=0.9)
    expected = _state(ema=True)
    for k in range(6):
        expected, _ = step(expected, _batch(data, k))
    steps = make_scan(_loss, TX, batch_size=4, num_steps=3, ema_decay=0.9)
    state, _ = steps(_state(ema=True), data)
    stored = jax.tree.map(
        np.asarray, state._replace(key=jax.random.key_data(state.key))
    )
    state = jax.tree.map(jnp.asarray, stored)
    state, _ = steps(state._replace(key=jax.random.wrap_key_data(state.key)), data)
    assert _bits(state) == _bits(expected)


def test_bfloat16_parameters_are_averaged_in_float32(rng):
    data = _data(rng)
    step = make_step(_loss, optax.sgd(0.01), ema_decay=0.99)
    state, history = _state(optax.sgd(0.01), ema=True, dtype=jnp.bfloat16), []
    for k in range(9):
        state, _ = step(state, _batch(data, k))
        history.append(np.asarray(state.params["w"], np.float64))
    weights = 0.99 ** np.arange(9)[::-1]
    expected = (weights[:, None] * history).sum(0) / weights.sum()
    np.testing.assert_allclose(state.ema[0]["w"], expected, rtol=1e-5)
    assert averaged(state).params["w"].dtype == jnp.bfloat16


# --- bad input ---


@pytest.mark.parametrize("make", [make_step, make_scan])
def test_options_that_are_not_allowed_are_refused(make):
    sizes = {"batch_size": 2, "num_steps": 2} if make is make_scan else {}
    with pytest.raises(ValueError, match="not_finite must be .* got 'halt'"):
        make(_loss, TX, not_finite="halt", **sizes)
    for decay in (0.0, 1.0, -0.5, 2, float("nan")):
        with pytest.raises(ValueError, match=f"ema_decay must be .* got {decay}"):
            make(_loss, TX, ema_decay=decay, **sizes)


def test_an_average_goes_with_its_decay(rng):
    data = _data(rng)
    with pytest.raises(ValueError, match="state.ema is None, ema_decay is 0.9"):
        make_step(_loss, TX, ema_decay=0.9)(_state(), data)
    with pytest.raises(ValueError, match="state.ema is there, ema_decay is None"):
        STEPS["stop"](_state(ema=True), data)
    with pytest.raises(ValueError, match="state.ema must not be None"):
        averaged(_state())


def test_a_loss_with_a_metric_finite_is_refused(rng):
    def loss_fn(params, model_state, batch, key):
        loss, (model_state, metrics) = _loss(params, model_state, batch, key)
        return loss, (model_state, metrics | {"finite": loss})

    with pytest.raises(ValueError, match='has a metric "finite"'):
        make_step(loss_fn, TX)(_state(), _data(rng))
    _, metrics = make_step(loss_fn, TX, not_finite="ignore")(_state(), _data(rng))
    assert metrics["finite"] == metrics["loss"]
