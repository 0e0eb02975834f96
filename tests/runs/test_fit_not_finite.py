"""Runs whose loss stops being finite: what they say, and what they leave."""

import io
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jcnn import flatten, serial
from jcnn.data import from_arrays
from jcnn.finite import NotFinite
from jcnn.layers import BatchNorm, Dense
from jcnn.runs import Recipe, fit, read_metrics
from jcnn.train import classification

IMAGES, BATCH = 40, 8  # 5 steps an epoch
POISON = 17  # the image that spoils every batch that it is in


def _recipe(rng, poison=POISON):
    image = rng.integers(0, 200, (IMAGES, 4, 4, 1)).astype(np.uint8)
    label = rng.integers(0, 3, IMAGES)
    if poison is not None:
        image[poison, 0, 0, 0] = 255
    data = from_arrays(image, label, 3)
    layer = serial(flatten=flatten, norm=BatchNorm(), head=Dense(3))
    loss_fn, metrics = classification(
        layer, lambda images, key: images.astype("float32") / 255
    )

    def spoiled(params, model_state, batch, key):
        loss, rest = loss_fn(params, model_state, batch, key)
        return jnp.where((batch["image"] == 255).any(), jnp.nan, loss), rest

    return Recipe(layer, optax.adam(1e-2), spoiled, metrics, data, data)


def _fit(recipe, run_dir, **options):
    run_dir.mkdir(exist_ok=True)
    quiet = Console(file=io.StringIO())
    return fit(
        recipe,
        run_dir,
        seed=3,
        epochs=2,
        batch_size=BATCH,
        console=quiet,
        **options,
    )


def test_a_run_stops_at_the_last_good_state(rng, tmp_path):
    recipe = _recipe(rng)
    with pytest.raises(NotFinite, match=r"step \d+ is not finite: loss") as caught:
        _fit(recipe, tmp_path / "run")
    fault = caught.value.fault
    assert POISON in fault.examples and len(set(fault.examples)) == BATCH
    assert fault.counts["loss"].nan == 1 and 0 <= fault.step < 5
    # The same command finds the checkpoint, and stops at the same step.
    with pytest.raises(NotFinite) as again:
        _fit(recipe, tmp_path / "run")
    assert again.value.fault == fault


def test_the_last_good_state_is_always_kept(rng, tmp_path):
    """Also where it is that of an earlier call, here of one step."""
    with pytest.raises(NotFinite) as caught:
        _fit(_recipe(rng), tmp_path, certify_every=1)
    step = caught.value.fault.step
    assert step > 0  # else there is nothing to keep
    assert (tmp_path / "checkpoints" / f"{step:010d}").is_dir()
    lines = (tmp_path / "certificate.jsonl").read_text().splitlines()
    _, *good, last = map(json.loads, lines)
    assert [line["step"] for line in good] == [*range(1, step + 1)]
    assert last == good[-1] | {"not_finite": str(caught.value)}


def test_a_run_skips_the_steps_and_counts_them(rng, tmp_path):
    state = rng.bit_generator.state
    result = _fit(_recipe(rng), tmp_path / "run", not_finite="skip")
    lines = read_metrics(tmp_path / "run")
    assert int(result.state.step) == 10
    assert sum(line.get("skipped", 0) for line in lines) == 2  # once an epoch
    ends = [line for line in lines if line["step"] in (5, 10) and "loss" in line]
    assert all(np.isfinite(line["loss"]) for line in ends)
    assert int(result.state.opt_state[0].count) == 8
    rng.bit_generator.state = state
    _fit(_recipe(rng, poison=None), tmp_path / "well")
    assert all("skipped" not in line for line in read_metrics(tmp_path / "well"))


def test_a_first_step_that_is_not_finite_leaves_the_first_state(rng, tmp_path):
    recipe = _recipe(rng)
    image = np.full_like(recipe.train.image, 255)
    recipe = recipe._replace(train=from_arrays(image, recipe.train.label, 3))
    for _ in range(2):
        with pytest.raises(NotFinite, match="step 0 is not finite"):
            _fit(recipe, tmp_path / "run")
    certificate = (tmp_path / "run" / "certificate.jsonl").read_text().splitlines()
    _, line = map(json.loads, certificate)
    assert line["step"] == 0 and "step 0 is not finite: loss" in line["not_finite"]
    assert not (tmp_path / "run" / "checkpoints").exists()
