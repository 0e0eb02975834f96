"""Two CPU devices, no silent promotion, random numbers, and which cases are drawn."""

import os
from collections import Counter, defaultdict
from importlib.metadata import version
from itertools import combinations

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Optimizing programs takes most of the tests' time, also in processes that they start.
# JAX_DISABLE_MOST_OPTIMIZATIONS=false tests the programs that users have.
_QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true") == "true"
_UNOPTIMIZED = " --xla_cpu_parallel_codegen_split_count=1"
_EMITTERS = version("jaxlib").startswith("0.10.")  # later ones always use them
_UNOPTIMIZED += " --xla_cpu_use_fusion_emitters=false" * _EMITTERS
_FLAGS = os.environ.get("XLA_FLAGS", "").replace(_UNOPTIMIZED, "")  # of pytest-xdist
_FLAGS += " --xla_force_host_platform_device_count=2"
os.environ["XLA_FLAGS"] = _FLAGS + _UNOPTIMIZED * _QUICK

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from jax._src import compiler  # noqa: E402

settings.register_profile("few", max_examples=5, derandomize=True, deadline=None)
settings.register_profile(
    "stress", parent=settings.get_profile("few"), max_examples=200
)
settings.load_profile("few")

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="of the tests that are marked stress, run every N-th only",
    )


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(config, items):
    _mark_what_is_covered(items)
    every = config.getoption("every")
    stress = [item for item in items if item.get_closest_marker("stress")]
    left_out = set(stress) - set(stress[::every])
    items[:] = [item for item in items if item not in left_out]


def _mark_what_is_covered(items):
    """Mark cases as stress whose combinations of parameters other cases have.

    For tests marked `cover(n)`: as many cases stay as hold every combination of
    values of n parameters that any case has. Arguments of one `parametrize` are one
    parameter.
    """
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker("cover") and hasattr(item, "callspec"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        strength = cases[0].get_closest_marker("cover").args[0]
        for case in set(cases) - _covering(strength, cases):
            case.add_marker("stress")


def _covering(strength, cases):
    """Few cases that hold every combination of `strength` values that any has."""
    values = {case: _values(case) for case in cases}
    combined = {
        case: set(combinations(held, min(strength, len(held))))
        for case, held in values.items()
    }
    missing, uses, chosen = set().union(*combined.values()), Counter(), set()

    def gain(case):
        """New combinations first, then values that were seldom used."""
        return len(combined[case] & missing), -sum(uses[v] for v in values[case])

    while missing:
        best = max(cases, key=gain)
        chosen.add(best)
        uses.update(values[best])
        missing -= combined[best]
    return chosen


def _values(case):
    """Name and identity of each parameter's value."""
    parameters = case.callspec.params.copy()
    values = []
    for mark in case.iter_markers("parametrize"):
        names = mark.args[0]
        names = names.split(",") if isinstance(names, str) else names
        names = [name.strip() for name in names]
        values.append(tuple((n, id(parameters.pop(n))) for n in names))
    return values + [(name, id(value)) for name, value in parameters.items()]


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
def full_compilation():
    """For modules whose subject is what XLA makes of programs: they are optimized."""
    options = compiler.get_compile_options

    def full(*args, env_options_overrides=None, **kwargs):
        overrides = {"xla_cpu_use_fusion_emitters": "True"} if _EMITTERS else {}
        overrides |= env_options_overrides or {}
        return options(*args, env_options_overrides=overrides, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        # JAX has no public way to give options to programs of single operations.
        patch.setattr(compiler, "get_compile_options", full)
        patch.setenv("XLA_FLAGS", _FLAGS)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "false")
        jax.config.update("jax_disable_most_optimizations", False)
        yield
    jax.config.update("jax_disable_most_optimizations", _QUICK)


@pytest.fixture(scope="module")
def strict_promotion():
    """For a module's tests, dtypes that meet must be equal. Optax does not allow it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers that depend on the test's name only."""
    return np.random.default_rng(list(request.node.name.encode()))
