"""Optimizers of the command line, against NumPy loops from their definitions."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro

from jcnn.layers import Dense
from jcnn.runs import (
    SGD,
    AdamW,
    Muon,
    OptionError,
    RunConfig,
    by_path,
    make_schedule,
)
from jcnn.runs.config_json import config_from_json, config_to_json
from jcnn.runs.optimizers import Optimizer
from jcnn.train import classification, create, make_step, mask_by_path

STEPS = 5


@pytest.fixture
def params(rng):
    shapes = {
        "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "head": {"kernel": (4, 3), "bias": (3,)},
    }
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


@pytest.fixture
def grads(params, rng):
    return [
        jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
        for _ in range(STEPS)
    ]


def trained(tx, params, grads):
    state = tx.init(params)
    for grad in grads:
        updates, state = jax.jit(tx.update)(grad, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return jax.tree.map(np.asarray, params)


def by_hand(params, grads, update):
    """Apply `update(path, param, grad, memory, step) -> param` to each parameter."""

    def of(path, param, *grads):
        name, memory = jax.tree_util.keystr(path, simple=True, separator="/"), {}
        param = param.astype(np.float64)
        for step, grad in enumerate(grads):
            param = update(name, param, grad.astype(np.float64), memory, step)
        return param

    return jax.tree.map_with_path(of, params, *grads)


def assert_close(found, expected, tolerance=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_sgd(params, grads):
    def update(name, param, grad, memory, step):
        rate = 0.3 * (1 - step / STEPS)
        if name.endswith("kernel"):
            grad = grad + 0.1 * param
        memory["m"] = 0.8 * memory.get("m", 0) + grad
        return param - rate * (grad + 0.8 * memory["m"])

    sgd = SGD(0.3, weight_decay=0.1, schedule="linear", warmup=0.0, momentum=0.8)
    assert_close(trained(sgd(STEPS), params, grads), by_hand(params, grads, update))


def corrected(beta, mean, grad, step, nesterov):
    """Return the mean of gradients without its bias; Nesterov's looks a step ahead."""
    if not nesterov:
        return mean / (1 - beta ** (step + 1))
    ahead = beta * mean / (1 - beta ** (step + 2))
    return ahead + (1 - beta) * grad / (1 - beta ** (step + 1))


def adamw(rate, decay, decayed, b1=0.9, b2=0.99, nesterov=False):
    def update(name, param, grad, memory, step):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * grad
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * grad**2
        m, v = corrected(b1, m, grad, step, nesterov), v / (1 - b2 ** (step + 1))
        own = decay if decayed in name else 0
        return param - rate * (m / (np.sqrt(v) + 1e-8) + own * param)

    return update


def test_adamw_decays_what_is_named(params, grads):
    adam = AdamW(
        0.1, weight_decay=0.2, decayed="bias", schedule="constant", warmup=0, b2=0.99
    )
    expected = by_hand(params, grads, adamw(0.1, 0.2, "bias"))
    assert_close(trained(adam(STEPS), params, grads), expected)


def test_muon_orthogonalizes_kernels_as_matrices(params, grads):
    rate, decay, beta = 0.1, 0.2, 0.9
    a, b, c = 3.4445, -4.7750, 2.0315

    def muon(name, param, grad, memory, step):
        m = memory["m"] = beta * memory.get("m", 0) + (1 - beta) * grad
        m = corrected(beta, m, grad, step, nesterov=True)
        x = m.reshape(-1, m.shape[-1])
        x = x / (np.linalg.norm(x) + 1e-8)
        for _ in range(3):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = 0.2 * np.sqrt(max(x.shape)) * x.reshape(param.shape)
        return param - rate * (x + decay * param)

    adam = adamw(rate, decay, "kernel", b2=0.999, nesterov=True)

    def update(name, *rest):
        return (muon if name == "conv/kernel" else adam)(name, *rest)

    tx = Muon(
        rate,
        weight_decay=decay,
        schedule="constant",
        warmup=0.0,
        momentum=beta,
        iterations=3,
    )(STEPS)
    expected = by_hand(params, grads, update)
    assert_close(trained(tx, params, grads), expected, tolerance=1e-4)


def test_lookahead_goes_back_half_of_the_way(params, grads):
    period = 2

    def update(name, param, grad, memory, step):
        memory.setdefault("slow", param)
        param = param - 0.3 * grad
        if (step + 1) % period == 0:
            memory["slow"] = param = 0.5 * (param + memory["slow"])
        return param

    sgd = SGD(0.3, schedule="constant", warmup=0.0, momentum=0.0, lookahead=period)
    expected = by_hand(params, grads, update)
    assert_close(trained(sgd(STEPS), params, grads), expected)


def test_gradients_are_clipped_together(params, grads):
    norms = [np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(g))) for g in grads]
    clipped = [
        jax.tree.map(lambda g, n=n: g * min(1, 4.0 / n), grad)
        for grad, n in zip(grads, norms, strict=True)
    ]
    assert min(norms) > 4
    plain = SGD(0.1)
    clipping = dataclasses.replace(plain, clip_norm=4.0)
    found = trained(clipping(STEPS), params, grads)
    assert_close(found, trained(plain(STEPS), params, clipped))


@pytest.mark.parametrize("optimizer", [SGD(), AdamW(), Muon(lookahead=2)])
def test_rates_and_decays_may_be_traced(optimizer, params, grads):
    def last(rate, decay):
        chosen = dataclasses.replace(optimizer, learning_rate=rate, weight_decay=decay)
        return trained_jax(chosen(STEPS), params, grads)

    def trained_jax(tx, params, grads):
        state = tx.init(params)
        for grad in grads[:2]:
            updates, state = tx.update(grad, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    rates, decays = jnp.array([0.01, 0.1]), jnp.array([0.3, 0.0])
    together = jax.jit(jax.vmap(last))(rates, decays)
    for i in range(2):
        alone = last(float(rates[i]), float(decays[i]))
        assert_close(jax.tree.map(lambda a, i=i: a[i], together), alone)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_schedules_by_formula(name, warmup):
    steps, peak = 40, 0.5
    rate = make_schedule(name, peak, steps, warmup=warmup)
    rising = int(steps * warmup)
    for step in (0, 1, rising, rising + 7, steps - 1, steps):
        t = (step - rising) / (steps - rising)
        after = {"constant": 1, "linear": 1 - t, "cosine": (1 + np.cos(np.pi * t)) / 2}
        expected = peak * (step / rising if step < rising else after[name])
        assert float(rate(step)) == pytest.approx(expected, abs=1e-6)


def test_masks_are_by_path(params):
    assert mask_by_path("^conv/|bias$")(params) == {
        "conv": {"kernel": True, "bias": True},
        "head": {"kernel": False, "bias": True},
    }


@pytest.mark.parametrize(
    "optimizer, named",
    [
        (SGD(decayed="("), "decayed"),
        (Muon(orthogonalized="["), "orthogonalized"),
        (AdamW(schedule="step"), "schedule"),  # pyright: ignore
    ],
)
def test_bad_options_are_named(optimizer, named):
    with pytest.raises(OptionError, match=named):
        optimizer(STEPS)


@pytest.mark.parametrize("optimizer", [SGD(), AdamW(), Muon()])
def test_steps_with_lookahead_can_donate_their_state(optimizer, rng):
    chosen = dataclasses.replace(optimizer, lookahead=2)
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    batch = {"image": x, "label": jnp.array([0, 1, 1, 0])}
    loss_fn, _ = classification(Dense(2), lambda images, key: images)
    state = create(Dense(2), chosen(STEPS), jax.random.key(0), x)
    step = make_step(loss_fn, chosen(STEPS))
    for _ in range(3):
        state, metrics = step(state, batch)
    assert metrics["finite"] and int(state.step) == 3


def test_a_pattern_that_fits_no_parameter_is_an_error(params):
    words = "pattern must fit.*'haed'.*conv/bias, conv/kernel, head/bias, head/kernel$"
    for tx in (
        by_path({"haed": optax.sgd(1.0), "": optax.sgd(2.0)}),
        optax.masked(optax.sgd(1.0), mask_by_path("haed")),
        AdamW(decayed="haed")(STEPS),
        Muon(orthogonalized="haed")(STEPS),
    ):
        with pytest.raises(ValueError, match=words):
            tx.init(params)
    with pytest.raises(OptionError, match="^decayed: pattern"):
        SGD(decayed="haed", lookahead=2)(STEPS).init(params)
    many = {f"part{i}": jnp.zeros(1) for i in range(9)}
    with pytest.raises(ValueError, match="part0, .*part5 and 3 more$"):
        mask_by_path("kernel")(many)
    # What a rule before it has taken, it fits all the same.
    rules = {"^conv": optax.sgd(1.0), "conv/bias": optax.sgd(2.0), "": optax.sgd(3.0)}
    by_path(rules).init(params)


@pytest.mark.parametrize("optimizer", [SGD(), AdamW(), Muon()])
def test_default_patterns_may_fit_nothing(optimizer, rng):
    params = {"w": rng.normal(size=(3, 2)).astype(np.float32)}
    assert mask_by_path("kernel", missing_ok=True)(params) == {"w": False}
    assert trained(optimizer(STEPS), params, [params])["w"].shape == (3, 2)


@pytest.mark.parametrize("path", ["head", "body/head", "overhead"])
def test_muon_leaves_heads_to_adam_wherever_they_are(path, rng):
    kernel = {"kernel": jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)}
    params = functools.reduce(lambda p, n: {n: p}, path.split("/")[::-1], kernel)
    tx = Muon(1.0, weight_decay=0.0, schedule="constant", warmup=0.0)(STEPS)
    update = jax.tree.leaves(tx.update(params, tx.init(params), params)[0])[0]
    signs = np.abs(np.abs(update) - np.abs(update).mean()).max() < 1e-3
    assert signs == (path != "overhead")  # Adam's first update is a sign


@dataclass(frozen=True)
class Config(RunConfig):
    optimizer: Optimizer = SGD(0.2)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], SGD(0.2)),
        (["--optimizer.momentum", "0.5"], SGD(0.2, momentum=0.5)),
        (["optimizer:muon", "--optimizer.iterations", "3"], Muon(iterations=3)),
        (["optimizer:adam-w", "--optimizer.clip-norm", "1"], AdamW(clip_norm=1.0)),
    ],
)
def test_command_line_and_json_choose_an_optimizer(arguments, expected):
    config = tyro.cli(Config, args=arguments, config=(tyro.conf.CascadeSubcommandArgs,))
    assert config.optimizer == expected
    assert config_from_json(Config, config_to_json(config)) == config
