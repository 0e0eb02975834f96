"""NumPyro: a model whose likelihood has convolutions, by SVI and by HMC."""

import jax
import jax.numpy as jnp
import pytest

from .small import assert_same_both_ways

numpyro = pytest.importorskip("numpyro")


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


def _model(convolve):
    from numpyro import distributions as dist

    def model(x, y):
        first = numpyro.sample("first", dist.Normal().expand((3, 3, 2, 3)).to_event())
        second = numpyro.sample("second", dist.Normal().expand((1, 1, 3, 2)).to_event())
        mean = convolve(jnp.tanh(convolve(x, first)), second)
        numpyro.sample("y", dist.Normal(mean, 0.5).to_event(), obs=y)

    return model


@pytest.fixture
def data(rng):
    sizes = ((3, 5, 4, 2), (3, 5, 4, 2))
    return [jnp.asarray(rng.normal(size=size), "float32") for size in sizes]


def test_variational_inference_is_laxs(data):
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def losses(convolve, x, y):
        model = _model(convolve)
        guide = AutoNormal(model)
        svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
        return svi.run(jax.random.key(0), 10, x, y, progress_bar=False).losses

    losses = assert_same_both_ways(losses, *data)
    assert losses[-1] < losses[0]


def test_hamiltonian_monte_carlo_is_laxs(data):
    from numpyro.infer import HMC, MCMC

    fixed = {"step_size": 1e-3, "num_steps": 5, "trajectory_length": None}

    def samples(convolve, x, y):
        kernel = HMC(_model(convolve), **fixed, adapt_mass_matrix=False)
        mcmc = MCMC(kernel, num_warmup=2, num_samples=3, progress_bar=False)
        mcmc.run(jax.random.key(0), x, y)
        return mcmc.get_samples()

    # Every step of the path adds its rounding.
    first, *_, last = assert_same_both_ways(samples, *data, tolerance=1e-4)["first"]
    assert (first != last).any()
