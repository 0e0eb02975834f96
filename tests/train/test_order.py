"""The order of the data: permutations, their distribution, and steps far away."""

import itertools
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jcnn.order import batch_indices, host_order

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.cover(2),
]

KEY = jax.random.key(11)
LAST = 2**31 - 1  # the largest step that an int32 holds


@lru_cache(None)
def _compiled(num_examples, batch_size):
    return jax.jit(
        lambda key, step: batch_indices(
            key, step, num_examples=num_examples, batch_size=batch_size
        )
    )


def _batch(step, num_examples, batch_size, key=KEY):
    return np.asarray(_compiled(num_examples, batch_size)(key, np.int32(step)))


def _batches(steps, num_examples, batch_size, key=KEY):
    """The batches of several steps, [len(steps), batch_size]."""
    return np.stack([_batch(step, num_examples, batch_size, key) for step in steps])


def _epochs(number, n):
    """Many epochs by one program, [number, n]."""
    epoch = partial(batch_indices, KEY, num_examples=n, batch_size=n)
    return np.asarray(jax.jit(jax.vmap(epoch))(jnp.arange(number)))


def _stream(num_examples, batch_size, epochs):
    """The first epochs of the stream, put together from batches, [epochs, n]."""
    steps = -(-epochs * num_examples // batch_size)
    stream = _batches(range(steps), num_examples, batch_size).ravel()
    return stream[: epochs * num_examples].reshape(epochs, num_examples)


# --- every epoch is a permutation ---


@pytest.mark.parametrize(
    ("num_examples", "batch_size"),
    [(1, 1), (1, 5), (2, 3), (7, 7), (7, 5), (7, 13), (101, 32), (1000, 1)],
)
def test_every_epoch_is_a_permutation(num_examples, batch_size):
    for epoch in _stream(num_examples, batch_size, epochs=4):
        assert sorted(epoch.tolist()) == list(range(num_examples))


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 9))
def test_every_epoch_is_a_permutation_for_any_sizes(num_examples, batch_size, seed):
    key = jax.random.key(seed)
    steps = -(-3 * num_examples // batch_size)
    stream = _batches(range(steps), num_examples, batch_size, key).ravel()
    for start in range(0, 3 * num_examples, num_examples):
        epoch = stream[start : start + num_examples]
        assert sorted(epoch.tolist()) == list(range(num_examples))


def test_a_large_epoch_is_a_permutation():
    epoch = _batch(5, 60_000, 60_000)
    assert np.array_equal(np.sort(epoch), np.arange(60_000))


def test_an_epoch_of_a_large_set_is_a_permutation_late_in_the_run():
    # 100,000 steps of 50,000 are more than 2^32 examples.
    n, batch = 100_000, 50_000
    epoch = _batches([n - 2, n - 1], n, batch).ravel()
    assert np.array_equal(np.sort(epoch), np.arange(n))


# --- the shuffle is that of the paper ---


def _shuffled(place, n, coins):
    """Figure 1 of Hoang et al. (2012), with integers of Python."""
    for shift, salt in zip(*coins):
        partner = (shift - place) % n
        if _murmur(max(place, partner) ^ salt) % 2:
            place = partner
    return place


def _murmur(bits):
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = (bits ^ bits >> shift) * factor % 2**32
    return bits


@pytest.mark.parametrize("n, batch_size", [(7, 5), (50, 100)])
def test_the_order_is_the_papers(n, batch_size):
    """And so an old run can be repeated: these numbers may never change."""
    stream = []
    for epoch in range(3):
        key = jax.random.fold_in(KEY, epoch)
        coins = jax.random.bits(key, (2, 96), "uint32").tolist()
        stream += [_shuffled(place, n, coins) for place in range(n)]
    steps = len(stream) // batch_size
    got = _batches(range(steps), n, batch_size).ravel()
    assert got.tolist() == stream[: steps * batch_size]


# --- the stream does not depend on how it is cut ---


@pytest.mark.parametrize("batch_size", [1, 5, 13])
def test_the_stream_is_the_same_for_every_batch_size(batch_size):
    expected = _stream(7, 7, epochs=30)
    assert np.array_equal(_stream(7, batch_size, epochs=30), expected)


@pytest.mark.parametrize(
    "step", [0, 1, 2**16, 2**24 + 1, 2**30, 2**30 + 1, LAST - 1, LAST]
)
@pytest.mark.parametrize(
    ("num_examples", "batch_size"),
    [(1, 1), (7, 5), (7, 7), (7, 13), (101, 32)],
)
def test_far_steps_do_not_overflow(num_examples, batch_size, step):
    got = _batch(step, num_examples, batch_size)
    positions = [step * batch_size + j for j in range(batch_size)]  # of any size
    epochs = [position // num_examples for position in positions]
    assert max(epochs) < 2**32
    permutation = {
        e: _epoch(e, num_examples)
        for e in set(epochs)  # each at its beginning, by a step below 2^32
    }
    expected = [permutation[p // num_examples][p % num_examples] for p in positions]
    assert got.tolist() == expected


def _epoch(epoch, num_examples):
    indices = _compiled(num_examples, num_examples)(KEY, jnp.uint32(epoch)).tolist()
    assert sorted(indices) == list(range(num_examples))
    return indices


def test_far_epochs_are_permutations_of_their_own():
    steps = [0, 1, 2**8, 2**16, 2**24, 2**24 + 1, 2**30, LAST - 1, LAST]
    assert len({tuple(_epoch(step, 101)) for step in steps}) == len(steps)


def test_a_batch_of_many_epochs_holds_every_example_as_often():
    for step in (0, 1, LAST):
        assert np.bincount(_batch(step, 3, 36)).tolist() == [12, 12, 12]


# --- epochs differ, and are as likely as one another ---


def test_epochs_keys_and_batches_differ():
    stream = _stream(24, 24, epochs=50)
    assert len({tuple(epoch) for epoch in stream.tolist()}) == 50
    other = _batch(0, 24, 24, jax.random.key(12))
    assert not np.array_equal(other, stream[0])
    again = _batch(0, 24, 24, jax.random.key(11))
    assert np.array_equal(again, stream[0])


def _chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def _limit(degrees):
    """Passed by chance once in some 30,000 draws: Wilson and Hilferty's, at z = 4."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 4 * np.sqrt(spread)) ** 3


@pytest.mark.parametrize(("num_examples", "permutations"), [(2, 2), (3, 6), (4, 24)])
def test_all_permutations_are_equally_likely(num_examples, permutations):
    epochs = 200 * permutations
    stream = _batches(range(epochs), num_examples, num_examples)
    counts = dict.fromkeys(itertools.permutations(range(num_examples)), 0)
    for epoch in stream.tolist():
        counts[tuple(epoch)] += 1
    assert len(counts) == permutations
    statistic = _chi_square(np.array(list(counts.values())), 200)
    assert statistic < _limit(permutations - 1)


def test_all_permutations_are_equally_likely_for_many_keys():
    keys = jax.random.split(jax.random.key(2), 4800)
    orders = np.asarray(jax.vmap(_compiled(4, 4), (0, None))(keys, np.int32(3)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert _chi_square(counts, 200) < _limit(23)


def test_every_example_is_as_likely_everywhere():
    n = 24
    stream = _batches(range(40 * n), n, n)
    for places in ((0,), (n - 1,), range(n)):
        table = np.array([np.bincount(stream[:, p], minlength=n) for p in places])
        # Each row sums to the epochs (and in the whole table each column too).
        degrees = (n - 1) * max(len(places) - 1, 1)
        assert _chi_square(table, 40) < _limit(degrees)


def test_neighbours_in_an_epoch_are_independent():
    n, epochs = 24, 5520
    stream = _epochs(epochs, n)
    pairs = np.zeros((n, n))
    np.add.at(pairs, (stream[:, 0], stream[:, 1]), 1)
    off = ~np.eye(n, dtype=bool)
    assert not pairs[~off].any()
    assert _chi_square(pairs[off], epochs / (n * (n - 1))) < _limit(n * (n - 1) - 1)


def test_the_same_place_in_two_epochs_is_independent():
    n, epochs = 24, 5760
    place = _epochs(epochs + 1, n)[:, 3]
    pairs = np.zeros((n, n))
    np.add.at(pairs, (place[:-1], place[1:]), 1)
    assert _chi_square(pairs, epochs / n**2) < _limit(n**2 - 1)


# --- inside other JAX code ---


def test_a_traced_step_gives_what_a_number_gives():
    options = {"num_examples": 7, "batch_size": 5}
    expected = _batches(range(4), 7, 5)
    assert expected.dtype == np.int32 and expected.shape == (4, 5)

    def body(step, _):
        return step + 1, batch_indices(KEY, step, **options)

    _, scanned = jax.lax.scan(body, jnp.int32(0), length=4)
    mapped = jax.vmap(lambda s: batch_indices(KEY, s, **options))(jnp.arange(4))
    assert np.array_equal(scanned, expected) and np.array_equal(mapped, expected)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_64_bits_change_nothing(dtype):
    # Compiled before, and here outside of jit with wider numbers all around.
    expected = _batch(LAST, 7, 5)
    with jax.enable_x64(True):
        step = jnp.asarray(LAST, dtype)
        got = batch_indices(KEY, step, num_examples=7, batch_size=5)
    assert got.dtype == jnp.int32 and np.array_equal(got, expected)


# --- bad input ---


@pytest.mark.parametrize("name", ["num_examples", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_below_one_are_refused(name, value):
    options = {"num_examples": 5, "batch_size": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        batch_indices(KEY, 0, **options)


@pytest.mark.parametrize("name", ["num_examples", "batch_size"])
@pytest.mark.parametrize("value", [2.0, None, True])
def test_sizes_that_are_no_integers_are_refused(name, value):
    options = {"num_examples": 5, "batch_size": 2, name: value}
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        batch_indices(KEY, 0, **options)


@pytest.mark.parametrize(
    "step, error, message",
    [
        (-1, ValueError, "step must be at least 0, got -1"),
        (np.int64(-3), ValueError, r"step must be at least 0, got np.int64\(-3\)"),
        (2**32, ValueError, "step must be at most 4294967295, got 4294967296"),
        (1.5, TypeError, "step must be an integer, got 1.5"),
        (True, TypeError, "step must be an integer, got True"),
        (None, TypeError, "step must be an integer, got None"),
        (jnp.float32(1), TypeError, "step must be an integer, got float32"),
        (jnp.arange(2), TypeError, "step must be an integer"),
    ],
    ids=str,
)
def test_steps_that_are_refused(step, error, message):
    with pytest.raises(error, match=message):
        batch_indices(KEY, step, num_examples=7, batch_size=5)


def test_a_traced_step_must_be_an_integer():
    function = jax.jit(lambda s: batch_indices(KEY, s, num_examples=7, batch_size=5))
    with pytest.raises(TypeError, match="step must be an integer, got float32"):
        function(1.5)


def test_the_last_step_is_there():
    last = 2**32 - 1
    got = batch_indices(KEY, last, num_examples=7, batch_size=5)
    same = batch_indices(KEY, jnp.uint32(last), num_examples=7, batch_size=5)
    np.testing.assert_array_equal(got, same)


# --- by NumPy ---


@pytest.mark.parametrize(
    ("num_examples", "batch_size"), [(1, 1), (1, 5), (7, 5), (7, 20), (1000, 32)]
)
@pytest.mark.parametrize("step", [0, 1, 13, LAST - 1])
def test_the_order_by_numpy_is_the_same(num_examples, batch_size, step):
    sizes = {"num_examples": num_examples, "batch_size": batch_size}
    order = host_order(KEY, step, **sizes, epochs=3)
    end = min(order.end(), step + 40, LAST)
    assert end > step
    for later in range(step, end):
        found = order(later)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, _batch(later, *sizes.values()))
