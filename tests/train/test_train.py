"""Training: against NumPy by hand, and bit for bit against itself cut otherwise."""

from functools import lru_cache
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcnn import global_avg_pool, serial
from jcnn.layers import BatchNorm, Conv, Dense, Dropout
from jcnn.models import small_cnn
from jcnn.order import batch_indices
from jcnn.train import (
    batch_at,
    classification,
    create,
    make_evaluate,
    make_scan,
    make_step,
)

KEY = jax.random.key(5)
CLASSES = 4


def _scaled(images, key):
    return images.astype(jnp.float32) / 255


def _mirrored(images, key):
    """Augmentation in training only, and one that rounds nothing."""
    x = images.astype(jnp.float32) / 255
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 0.5, (len(x), 1, 1, 1)), -x, x)


def _child(key, name):
    return jax.random.fold_in(key, crc32(name.encode()))


def _data(rng, n=23, shape=(5, 4, 2)):
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, *shape)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, CLASSES, n), jnp.int32),
    }


def _net():
    """Everything that training has to carry along: state, dropout, several layers."""
    return serial(
        conv=Conv(3, 3),
        norm=BatchNorm(),
        relu=jax.nn.relu,
        drop=Dropout(0.3),
        mean=global_avg_pool,
        head=Dense(CLASSES),
    )


_IMAGE = jax.ShapeDtypeStruct((1, 5, 4, 2), jnp.float32)


@lru_cache(1)
def _pieces():
    """Net, optimiser, loss and metrics, made once so that each is compiled once."""
    net = _net()
    return net, optax.adam(1e-2), *classification(net, _mirrored)


@lru_cache(None)
def _step():
    _, tx, loss_fn, _ = _pieces()
    return make_step(loss_fn, tx)


@lru_cache(None)
def _scan(num_steps, batch_size=7):
    _, tx, loss_fn, _ = _pieces()
    return make_scan(loss_fn, tx, batch_size=batch_size, num_steps=num_steps)


def _fresh(key=KEY):
    net, tx, _, _ = _pieces()
    return create(net, tx, key, _IMAGE)


def _bits(tree):
    """The leaves as bytes; keys as the words they are made of."""

    def words(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return [words(leaf) for leaf in jax.tree.leaves(tree)]


# --- create ---


def test_a_new_state_is_drawn_from_the_runs_key():
    net, tx, _, _ = _pieces()
    state = _fresh()
    params, model_state = net.init(_child(KEY, "init"), _IMAGE)
    assert _bits(state.params) == _bits(params)
    assert _bits(state.model_state) == _bits(model_state)
    assert _bits(state.opt_state) == _bits(tx.init(params))
    assert state.step.dtype == jnp.int32 and state.step.shape == ()
    assert int(state.step) == 0 and _bits(state.key) == _bits(KEY)


def test_create_takes_arrays_and_shapes_alike(rng):
    net, tx, _, _ = _pieces()
    x = jnp.asarray(rng.normal(size=(3, 5, 4, 2)), jnp.float32)
    from_array = create(net, tx, KEY, x)
    assert _bits(from_array) == _bits(_fresh())
    shapes = jax.eval_shape(lambda key: create(net, tx, key, _IMAGE), KEY)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, from_array)


def test_other_keys_are_other_runs(rng):
    data = _data(rng)
    first, _ = _scan(3)(_fresh(), data)
    other, _ = _scan(3)(_fresh(jax.random.key(6)), data)
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(other.params)):
        assert not np.array_equal(a, b)


# --- a step, by hand ---


def _softmax_regression(params, x, labels):
    """Loss, accuracy and gradients in NumPy."""
    logits = x @ params["kernel"] + params["bias"]
    logits = logits - logits.max(1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(len(x))
    loss = -np.log(p[rows, labels]).mean()
    accuracy = (logits.argmax(1) == labels).mean()
    p[rows, labels] -= 1
    return loss, accuracy, {"kernel": x.T @ p / len(x), "bias": p.mean(0)}


def _sgd(grads, memory, t):
    memory = {k: g + 0.9 * memory.get(k, 0) for k, g in grads.items()}
    return {k: -0.1 * m for k, m in memory.items()}, memory


def _adam(grads, memory, t):
    updates, new = {}, {}
    for k, g in grads.items():
        m, v = memory.get(k, (0, 0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        new[k] = m, v
        m, v = m / (1 - 0.9**t), v / (1 - 0.999**t)
        updates[k] = -0.05 * m / (np.sqrt(v) + 1e-8)
    return updates, new


@pytest.mark.parametrize(
    ("tx", "rule"),
    [(optax.sgd(0.1, momentum=0.9), _sgd), (optax.adam(0.05), _adam)],
    ids=["sgd", "adam"],
)
def test_steps_are_those_of_a_loop_in_numpy(tx, rule, rng):
    layer = Dense(CLASSES)
    loss_fn, _ = classification(layer, lambda x, key: x)
    step = make_step(loss_fn, tx)
    state = create(layer, tx, KEY, jnp.zeros((1, 3)))
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params)
    memory = {}
    for t in range(1, 7):
        x = rng.normal(size=(8, 3))
        labels = rng.integers(0, CLASSES, 8)
        batch = {"image": jnp.asarray(x, jnp.float32), "label": jnp.asarray(labels)}
        state, metrics = step(state, batch)
        loss, accuracy, grads = _softmax_regression(params, x, labels)
        updates, memory = rule(grads, memory, t)
        params = {k: params[k] + updates[k] for k in params}
        # Metrics are those before the update. A few roundings of float32 a step.
        assert sorted(metrics) == ["accuracy", "finite", "loss"]
        assert int(state.step) == t and metrics["finite"]
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)
        for k in params:
            np.testing.assert_allclose(state.params[k], params[k], rtol=1e-5, atol=1e-5)


def test_float64_parameters_are_trained_in_float64(rng):
    with jax.enable_x64(True):
        layer = Dense(1, param_dtype=jnp.float64)
        x, target = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))

        def loss_fn(params, model_state, batch, key):
            y, model_state = layer.apply(params, model_state, batch["x"])
            loss = jnp.mean((y - batch["y"]) ** 2)
            return loss, (model_state, {"loss": loss})

        tx = optax.sgd(0.1)
        state = create(layer, tx, KEY, jnp.asarray(x))
        params = jax.tree.map(np.array, state.params)
        data = {"x": jnp.asarray(x), "y": jnp.asarray(target)}
        # A batch of everything: its order does not matter.
        steps = make_scan(loss_fn, tx, batch_size=8, num_steps=5)
        state, metrics = steps(state, data)
        for t in range(5):
            error = x @ params["kernel"] + params["bias"] - target
            np.testing.assert_allclose(metrics["loss"][t], np.mean(error**2))
            params["kernel"] -= 0.1 * 2 * x.T @ error / 8
            params["bias"] -= 0.1 * 2 * error.mean(0)
        assert state.params["kernel"].dtype == jnp.float64
        assert state.step.dtype == jnp.int32 and int(state.step) == 5
        for k in params:
            np.testing.assert_allclose(state.params[k], params[k], rtol=1e-12)


def test_a_step_gets_the_key_of_its_number(rng):
    def loss_fn(params, model_state, batch, key):
        seen = {"key": jax.random.key_data(key), "sum": batch["label"].sum()}
        return jnp.sum(params["kernel"] ** 2), (
            {"calls": model_state["calls"] + 1},
            seen,
        )

    tx, data = optax.sgd(0.1), _data(rng)
    state = create(Dense(2), tx, KEY, jnp.zeros((1, 3)))
    state = state._replace(model_state={"calls": jnp.int32(0)})
    state, seen = make_scan(loss_fn, tx, batch_size=5, num_steps=4)(state, data)
    for k in range(4):
        expected = jax.random.key_data(jax.random.fold_in(KEY, k))
        assert np.array_equal(seen["key"][k], expected)
        assert seen["sum"][k] == batch_at(KEY, k, data, 5)["label"].sum()
    assert int(state.model_state["calls"]) == 4
    assert len(np.unique(seen["key"], axis=0)) == 4


def test_the_model_state_is_that_of_the_training_pass(rng):
    net, _, _, _ = _pieces()
    state, data = _fresh(), _data(rng)
    images = _mirrored(data["image"], _child(jax.random.fold_in(KEY, 0), "prepare"))
    h = np.asarray(Conv(3, 3).apply(state.params["conv"], {}, images)[0], np.float64)
    state, _ = _step()(state, data)
    expected = 0.9 + 0.1 * h.var((0, 1, 2))
    np.testing.assert_allclose(state.model_state["norm"]["var"], expected, rtol=1e-5)


# --- the same run, bit for bit ---


def test_steps_are_the_same_bits_however_they_are_cut(rng):
    data = _data(rng)
    state = _fresh()
    losses = []
    for k in range(8):
        state, metrics = _step()(state, batch_at(KEY, k, data, 7))
        losses.append(metrics["loss"])
    expected = _bits(state)
    for chunks in ((8,), (5, 3), (1,) * 8, (3, 5)):
        state, found = _fresh(), []
        for num_steps in chunks:
            state, metrics = _scan(num_steps)(state, data)
            assert metrics["loss"].shape == metrics["accuracy"].shape == (num_steps,)
            found.extend(metrics["loss"])
        assert _bits(state) == expected
        assert _bits(found) == _bits(losses)
    assert int(state.step) == 8


def test_a_state_that_was_stored_goes_on_as_if_nothing_happened(rng):
    data = _data(rng)
    state, _ = _scan(3)(_fresh(), data)
    stored = jax.tree.map(
        np.asarray, state._replace(key=jax.random.key_data(state.key))
    )
    expected, _ = _scan(5)(state, data)
    state = jax.tree.map(jnp.asarray, stored)
    state = state._replace(key=jax.random.wrap_key_data(state.key))
    got, _ = _scan(5)(state, data)
    assert _bits(got) == _bits(expected)


def test_two_runs_are_the_same_bits(rng):
    data = _data(rng)
    first, metrics = _scan(5)(_fresh(), data)
    second, again = _scan(5)(_fresh(), data)
    assert _bits(first) == _bits(second) and _bits(metrics) == _bits(again)
    loss = np.asarray(metrics["loss"])
    assert len(set(loss.tolist())) == 5 and np.isfinite(loss).all()


def test_the_old_state_is_donated_and_the_callers_key_is_not(rng):
    data = _data(rng)
    key = jax.random.key(9)
    for advance in (lambda s: _step()(s, data), lambda s: _scan(3)(s, data)):
        old = _fresh(key)
        new, _ = advance(old)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(data))
        assert not key.is_deleted()
    assert jax.random.normal(key, 2).shape == (2,)
    assert _bits(_fresh(key).key) == _bits(key)


# --- batches ---


def test_a_batch_is_what_the_order_says(rng):
    data = _data(rng) | {"nested": {"more": jnp.arange(23.0)}}
    for step in (0, 1, 4, 1000):
        batch = batch_at(KEY, step, data, 6)
        indices = np.asarray(
            batch_indices(_child(KEY, "order"), step, num_examples=23, batch_size=6)
        )
        assert jax.tree.structure(batch) == jax.tree.structure(data)
        for got, whole in zip(jax.tree.leaves(batch), jax.tree.leaves(data)):
            assert got.dtype == whole.dtype
            assert np.array_equal(got, np.asarray(whole)[indices])


def test_batches_of_an_epoch_hold_every_example_once():
    data = {"label": jnp.arange(21)}
    batches = [batch_at(KEY, k, data, 7)["label"] for k in range(3)]
    assert sorted(np.concatenate(batches).tolist()) == list(range(21))


# --- evaluate ---


def _example_metrics_by_hand(state, data):
    """Of every example by itself, without augmentation, with the running statistics."""
    net, _, _, _ = _pieces()
    x = np.asarray(data["image"], np.float32) / np.float32(255)
    y = net.apply(state.params, state.model_state, jnp.asarray(x))[0]
    logits = np.asarray(y, np.float64)
    labels = np.asarray(data["label"])
    top = logits.max(1)
    loss = np.log(np.exp(logits - top[:, None]).sum(1)) + top
    loss -= logits[np.arange(len(labels)), labels]
    return loss, logits.argmax(1) == labels


@pytest.mark.parametrize("n", [1, 13, 24])
def test_every_example_counts_and_counts_once(n, rng):
    _, _, _, example_metrics = _pieces()
    state, _ = _scan(3)(_fresh(), _data(rng))
    data = _data(rng, n)
    loss, correct = _example_metrics_by_hand(state, data)
    for batch_size in (1, 5, 8, 13, 100):
        evaluate = make_evaluate(example_metrics, batch_size=batch_size)
        means = evaluate(state, data)
        assert sorted(means) == ["accuracy", "loss"]
        assert all(type(value) is float for value in means.values())
        assert means["accuracy"] == correct.sum() / n
        np.testing.assert_allclose(means["loss"], loss.mean(), rtol=2e-6)


def test_evaluation_leaves_the_state_as_it_was(rng):
    _, _, _, example_metrics = _pieces()
    state = _fresh()
    before = _bits(state)
    make_evaluate(example_metrics, batch_size=8)(state, _data(rng))
    assert _bits(state) == before


def test_the_mean_of_many_examples_is_taken_in_float64():
    # 1 + 2^-13 a third of the time: float32 sums would lose the last digits.
    values = jnp.tile(jnp.array([1.0, 1.0, 1.0 + 2**-13]), 40_000)

    def example_metrics(params, model_state, batch):
        return {"value": batch["value"]}

    evaluate = make_evaluate(example_metrics, batch_size=1000)
    mean = evaluate(_fresh(), {"value": values})["value"]
    assert abs(mean - (1 + 2**-13 / 3)) < 1e-12


def test_metrics_of_each_example_are_by_hand(rng):
    net, _, _, example_metrics = _pieces()
    state, data = _fresh(), _data(rng)
    metrics = example_metrics(state.params, state.model_state, data)
    loss, correct = _example_metrics_by_hand(state, data)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5, atol=1e-6)
    assert np.array_equal(metrics["accuracy"], correct)
    assert metrics["loss"].dtype == metrics["accuracy"].dtype == jnp.float32


# --- classification ---


def test_prepare_has_a_key_in_training_only(rng):
    seen = []

    def prepare(images, key):
        seen.append(key)
        return images.astype(jnp.float32)

    loss_fn, example_metrics = classification(Dense(CLASSES), prepare)
    params, state = Dense(CLASSES).init(KEY, jnp.zeros((1, 3)))
    batch = _data(rng, 6, (3,))
    example_metrics(params, state, batch)
    loss_fn(params, state, batch, KEY)
    assert seen[0] is None
    assert _bits(seen[1]) == _bits(_child(KEY, "prepare"))


def test_steps_in_bfloat16_keep_every_dtype_and_train_as_in_float32(rng):
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))
    data, found = _data(rng), {}
    for dtype in ("float32", "bfloat16"):
        net = serial(conv=Conv(3, 3), norm=BatchNorm(), mean=global_avg_pool)
        net = serial(body=net, head=Dense(CLASSES))
        loss_fn, example_metrics = classification(
            net, lambda images, key, dtype=dtype: _scaled(images, key).astype(dtype)
        )
        state = create(net, tx, KEY, _IMAGE, ema=True)
        dtypes = jax.tree.map(lambda a: a.dtype, state)
        narrow = [d for d in jax.tree.leaves(dtypes) if d == jnp.bfloat16]
        step = make_step(loss_fn, tx, ema_decay=0.9)
        for _ in range(3):
            state, metrics = step(state, data)
        assert jax.tree.map(lambda a: a.dtype, state) == dtypes and not narrow
        assert metrics["loss"].dtype == jnp.float32 and metrics["finite"]
        tested = make_evaluate(example_metrics, batch_size=9)(state, data)
        found[dtype] = float(metrics["loss"]), tested["loss"]
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=1e-2)
    assert found["bfloat16"] != found["float32"]


def test_the_loss_is_the_mean_over_the_batch_in_float32(rng):
    loss_fn, example_metrics = classification(
        Dense(CLASSES), lambda images, key: images.astype(jnp.bfloat16)
    )
    params, state = Dense(CLASSES).init(KEY, jnp.zeros((1, 3)))
    batch = _data(rng, 6, (3,))
    loss, (new, metrics) = loss_fn(params, state, batch, KEY)
    each = example_metrics(params, state, batch)
    assert loss.dtype == jnp.float32 and new == {}
    assert loss == metrics["loss"]
    np.testing.assert_allclose(loss, np.mean(each["loss"]), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["accuracy"], np.mean(each["accuracy"]), rtol=1e-6
    )


def test_dropout_and_augmentation_have_keys_of_their_own(rng):
    layer = Dropout(0.5)
    seen = []

    def prepare(images, key):
        seen.append(key)
        return images

    loss_fn, _ = classification(layer, prepare)
    x = jnp.asarray(rng.normal(size=(6, CLASSES)), jnp.float32)
    labels = jnp.zeros(6, jnp.int32)
    loss, _ = loss_fn({}, {}, {"image": x, "label": labels}, KEY)
    logits, _ = layer.apply({}, {}, x, train=True, key=_child(KEY, "layer"))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert loss == expected
    assert _bits(seen[0]) != _bits(_child(KEY, "layer"))


# --- bad input ---


@pytest.mark.parametrize("value", [0, -1])
def test_numbers_below_one_are_refused(value):
    _, tx, loss_fn, example_metrics = _pieces()
    with pytest.raises(ValueError, match=f"num_steps must be at least 1, got {value}"):
        make_scan(loss_fn, tx, batch_size=4, num_steps=value)
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {value}"):
        make_evaluate(example_metrics, batch_size=value)
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {value}"):
        batch_at(KEY, 0, {"label": jnp.arange(3)}, value)


@pytest.mark.parametrize("value", [1.0, None, True])
def test_numbers_that_are_no_integers_are_refused(value):
    _, tx, loss_fn, example_metrics = _pieces()
    with pytest.raises(TypeError, match="num_steps must be an integer"):
        make_scan(loss_fn, tx, batch_size=4, num_steps=value)
    with pytest.raises(TypeError, match="batch_size must be an integer"):
        make_evaluate(example_metrics, batch_size=value)


@pytest.mark.parametrize(
    "data",
    [
        {"image": jnp.zeros((3, 2)), "label": jnp.zeros(4, jnp.int32)},
        {"image": jnp.zeros((0, 2)), "label": jnp.zeros(0, jnp.int32)},
        {"image": jnp.zeros((3, 2)), "label": jnp.int32(0)},
        {},
    ],
)
def test_data_of_several_lengths_or_none_are_refused(data):
    _, _, _, example_metrics = _pieces()
    state = _fresh()
    for use in (
        lambda: batch_at(KEY, 0, data, 2),
        lambda: _scan(3)(state, data),
        lambda: make_evaluate(example_metrics, batch_size=2)(state, data),
    ):
        with pytest.raises(ValueError, match="data must be arrays of one length"):
            use()
    assert not state.step.is_deleted()


# --- the whole of it ---


@pytest.mark.stress
def test_handwritten_digits_are_learnt():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = np.uint8(digits.images[..., None] * (255 / 16))
    labels = np.int32(digits.target)
    train = {"image": jnp.asarray(images[:1400]), "label": jnp.asarray(labels[:1400])}
    test = {"image": jnp.asarray(images[1400:]), "label": jnp.asarray(labels[1400:])}
    net, tx = small_cnn(widths=(8, 16), hidden=32, dropout=0.1), optax.adam(3e-3)
    loss_fn, example_metrics = classification(net, _scaled)
    steps = make_scan(loss_fn, tx, batch_size=64, num_steps=75)
    evaluate = make_evaluate(example_metrics, batch_size=100)
    state = create(net, tx, KEY, jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    before = evaluate(state, test)
    for _ in range(4):
        state, metrics = steps(state, train)
    after = evaluate(state, test)
    assert before["accuracy"] < 0.4 and after["accuracy"] > 0.9
    assert after["loss"] < before["loss"]
    assert np.mean(metrics["accuracy"]) > 0.95 and int(state.step) == 300


def test_metrics_of_pixels_are_means_over_all_pixels(rng):
    """A flattened metric would mix pixels of the first images with nothing else."""
    image = rng.normal(size=(10, 6, 5)).astype(np.float32)

    def metrics(params, model_state, batch):
        return {"mean": batch["image"], "rows": batch["image"].mean(-1)}

    state = create(Dense(2), optax.sgd(0.1), KEY, jnp.zeros((1, 3)))
    for batch_size in (1, 4, 10, 16):
        means = make_evaluate(metrics, batch_size=batch_size)(state, {"image": image})
        for value in means.values():
            np.testing.assert_allclose(value, image.mean(dtype="f8"), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (1, 4), (5,)])
def test_metrics_without_an_entry_for_each_example_are_refused(shape):
    def metrics(params, model_state, batch):
        return {"odd": jnp.zeros(shape)}

    state = create(Dense(2), optax.sgd(0.1), KEY, jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"\[4, …\].*got odd of shape"):
        make_evaluate(metrics, batch_size=4)(state, {"image": np.zeros((10, 3), "f4")})


def test_means_over_pixels_are_not_rounded_to_narrow_dtypes():
    """Of 1, and 2^-7 more in one of four pixels: 1 + 2^-9 is no bfloat16."""
    values = jnp.tile(jnp.array([1, 1, 1, 1 + 2**-7], jnp.bfloat16), (6, 5, 1))

    def metrics(params, model_state, batch):
        return {"value": batch["value"]}

    state = create(Dense(2), optax.sgd(0.1), KEY, jnp.zeros((1, 3)))
    means = make_evaluate(metrics, batch_size=4)(state, {"value": values})
    assert means["value"] == pytest.approx(1 + 2**-9, abs=1e-6)


def test_pixels_are_classified_as_examples_are(rng):
    """Labels [N, H, W] give what the pixels as examples [N * H * W] give."""
    layer = Dense(CLASSES)
    losses = classification(layer, lambda x, key: x)
    state = create(layer, optax.sgd(0.1), KEY, jnp.zeros((1, 3)))
    x = jnp.asarray(rng.normal(size=(4, 5, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, (4, 5)))
    whole = {"image": x, "label": labels}
    flat = {"image": x.reshape(20, 3), "label": labels.reshape(20)}
    for one in (losses[1], lambda *args: losses[0](*args, KEY)[1][1]):
        found, expected = (one(state.params, {}, batch) for batch in (whole, flat))
        for name in ("loss", "accuracy"):
            flattened = jnp.ravel(found[name])
            np.testing.assert_allclose(flattened, jnp.ravel(expected[name]), rtol=1e-6)


def test_an_optimizer_may_keep_the_parameters():
    """optax's SAM does; a step gives its whole state away."""
    tx = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05))
    loss_fn, _ = classification(Dense(CLASSES), lambda images, key: images)
    state = create(Dense(CLASSES), tx, KEY, jnp.zeros((1, 3)))
    batch = {"image": jnp.ones((4, 3)), "label": jnp.zeros(4, jnp.int32)}
    step, losses = make_step(loss_fn, tx), []
    for _ in range(9):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
