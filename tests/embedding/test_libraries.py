"""A network in each library: unmodified under `accelerate()`, and with jcnn inside."""

from importlib import import_module

import jax
import numpy as np
import pytest

from experiments.benchmarks.peers import PEERS
from jcnn import accelerate

from .small import (
    STEPS,
    assert_as_close,
    assert_by_jcnn,
    assert_close,
    everything,
    outcome,
    wide,
)

LIBRARIES = ("flax_nnx", "flax_linen", "equinox", "haiku", "keras")


@pytest.fixture(params=LIBRARIES)
def library(request):
    peer = PEERS[request.param]
    if not peer.installed:
        pytest.skip(f"{peer.package} is not installed")
    with jax.numpy_rank_promotion("allow"):
        yield import_module(f"tests.embedding.{peer.module}")


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_results_and_gradients(library, dtype):
    apply, params, x = library.pure(library.OWN, dtype)
    laxs = outcome(everything(apply), params, x)
    with accelerate():
        accelerated = outcome(everything(apply), params, x)
    apply, its_params, x = library.pure(library.JCNNS, dtype)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(its_params), strict=True)
    assert all((a == b).all() for a, b in pairs)
    inside = outcome(everything(apply), its_params, x)
    if dtype == "bfloat16":
        apply, *_ = library.pure(library.OWN, "float32")
        exact = outcome(everything(apply), wide(params), wide(x)).values
    for got in (accelerated, inside):
        assert_by_jcnn(got, laxs, dtype)
        if dtype == "float32":
            assert_close(got.values, laxs.values)
        else:
            assert_as_close(got.values, laxs.values, exact)


# Of the loss; rounding grows from step to step.
OF_LOSSES = {"float32": 2e-5, "bfloat16": 5e-2}


@pytest.mark.parametrize("dtype", OF_LOSSES)
def test_training(library, dtype):
    def losses(layers):
        step = library.step(layers, dtype)
        return np.array([step.run() for _ in range(STEPS)])

    laxs = losses(library.OWN)
    assert laxs[-1] < 0.9 * laxs[0]
    with accelerate():
        accelerated = losses(library.OWN)
    for got in (accelerated, losses(library.JCNNS)):
        assert (got != laxs).any()  # lax would give every bit
        np.testing.assert_allclose(got, laxs, rtol=OF_LOSSES[dtype])
