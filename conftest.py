"""Two CPU devices, no silent promotion, and random numbers for the tests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Data sets that tests prepare do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_forgotten():
    """A module's compiled programs go with it: all together they take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def strict_promotion():
    """For a module's tests, dtypes that meet must be equal. Optax does not allow it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers that depend on the test's name only."""
    return np.random.default_rng(list(request.node.name.encode()))
