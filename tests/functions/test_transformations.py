"""What `impl="auto"` becomes under JAX's transformations and on meshes of devices.

In float64, against lax's convolution, transformed alike but never sharded. What
`test_engine.py` does with every algorithm is done here with the public functions.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import Offloadable, Recompute, Saveable
from jax.experimental import checkify
from jax.experimental.jet import jet
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jcnn import (
    avg_pool,
    conv,
    conv_transpose,
    dense,
    depthwise_conv,
    global_max_pool,
    max_pool,
    min_pool,
)
from jcnn.engine.general import conv_general_dilated
from jcnn.engine.sums import total
from jcnn.inspect.jaxprs import equations
from tests.helpers.oracle import assert_close
from tests.helpers.stress import few_of

pytestmark = [
    pytest.mark.cover(1),
]

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
    """A function of x and a kernel, and the same in lax's words."""

    function: Any
    reference: Any
    x: tuple[int, ...]
    kernel: tuple[int, ...]

    def operands(self, rng):
        return [jnp.asarray(rng.normal(size=shape)) for shape in (self.x, self.kernel)]


def of_lax(
    x, kernel, strides, padding, convolve=lax.conv_general_dilated, around=0, **settings
):
    x = jnp.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    return convolve(x, kernel, strides, padding, dimension_numbers=LAYOUT, **settings)


CASES = {
    "conv": Case(  # its gradient to x is like groups to XLA, see test_xla_faults.py
        partial(
            conv,
            strides=(1, 2),
            padding=((1, 1), (1, 1)),
            feature_group_count=2,
            impl="auto",
        ),
        partial(
            of_lax, strides=(1, 2), padding="VALID", around=1, feature_group_count=2
        ),
        (2, 2, 4, 4),
        (3, 2, 2, 4),
    ),
    "depthwise": Case(
        partial(depthwise_conv, kernel_dilation=(2, 1), impl="auto"),
        partial(
            of_lax,
            strides=(1, 1),
            padding="SAME",
            rhs_dilation=(2, 1),
            feature_group_count=2,
        ),
        (2, 4, 4, 2),
        (2, 3, 1, 4),
    ),
    "transposed": Case(
        partial(conv_transpose, strides=(2, 1), impl="auto"),
        partial(of_lax, strides=(2, 1), padding="SAME", convolve=lax.conv_transpose),
        (2, 3, 2, 2),
        (3, 2, 2, 2),
    ),
}
ANY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def double(strict_promotion):
    with jax.enable_x64(True):
        yield


def loss(function):
    """Not linear in anything, so that no derivative vanishes."""
    return lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel)))


def with_gradients(function):
    """The value, both gradients and a directional derivative."""

    def run(x, kernel):
        y, dy = jax.jvp(function, (x, kernel), (x, kernel))
        return y, dy, jax.grad(loss(function), (0, 1))(x, kernel)

    return run


def third_order(function):
    def run(x, kernel):
        def of_kernel(kernel):
            return jnp.sum(jax.hessian(loss(function))(x, kernel) ** 2)

        return jax.grad(of_kernel)(kernel)

    return run


def scanned(function):
    """Over examples, each recomputed in the backward pass."""

    def run(x, kernel):
        def step(total, x):
            return total + jax.checkpoint(loss(function))(x[None], kernel), None

        return lax.scan(step, 0.0, x)[0]

    return jax.value_and_grad(run, (0, 1))


def assert_same(actual, expected):
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, b in pairs:
        assert np.any(np.asarray(b))
        assert_close(a, b, "float64")


@pytest.mark.parametrize(
    "transform",
    (scanned, third_order, lambda f: jax.hessian(loss(f), (0, 1))),
    ids=("scan of remat", "third order", "hessian"),
)
@ANY_CASE
def test_programs_and_higher_orders(case, transform, rng):
    operands = case.operands(rng)
    actual = jax.jit(transform(case.function))(*operands)
    assert_same(actual, jax.jit(transform(case.reference))(*operands))


@pytest.mark.parametrize("axes", ((0, None), (None, 1), (-1, 0)), ids=str)
@ANY_CASE
def test_vmap(case, axes, rng):
    operands = [
        a if axis is None else jnp.stack([a, 1 - a, 2 * a], axis)
        for a, axis in zip(case.operands(rng), axes)
    ]
    actual, expected = (
        jax.jit(jax.vmap(with_gradients(function), axes))(*operands)
        for function in (case.function, case.reference)
    )
    assert_same(actual, expected)


@ANY_CASE
def test_export_of_any_batch(case, rng):
    x, kernel = case.operands(rng)
    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    run = jax.jit(with_gradients(case.function))
    exported = jax.export.export(run)(shape, kernel)
    for n in (1, 5):
        x = jnp.asarray(rng.normal(size=(n, *case.x[1:])))
        assert_same(exported.call(x, kernel), with_gradients(case.reference)(x, kernel))


OF_ANY_SIZE = {
    "strides": partial(conv, strides=(2, 3)),
    "lower": partial(conv, strides=2, padding="SAME_LOWER"),
    "valid": partial(conv, padding="VALID"),
    "cropped and padded": partial(conv, padding=((-1, 4), (0, 1)), strides=2),
    "dilation": partial(conv, kernel_dilation=2, strides=2),
    "dilated input": partial(conv, strides=2, input_dilation=3),
    "lax": partial(conv, strides=2, impl="lax"),
    "transposed": partial(conv_transpose, strides=2),
    "drop-in": partial(of_lax, strides=(2, 2), padding="SAME"),
    "max": lambda x, _: max_pool(x, 3, strides=2, padding="SAME"),
    "min": lambda x, _: min_pool(x, 2),
    "mean": lambda x, _: avg_pool(x, 3, strides=2, padding="SAME"),
    "mean with zeros": lambda x, _: avg_pool(x, 2, padding=1, count_include_pad=True),
    "gradient of max": lambda x, _: jax.grad(
        lambda x: jnp.sum(jnp.sin(max_pool(x, 3, strides=2, padding="SAME")))
    )(x),
    "gradient of mean": lambda x, _: jax.grad(
        lambda x: jnp.sum(jnp.sin(avg_pool(x, 3, strides=2, padding="SAME")))
    )(x),
    "gradient": lambda x, kernel: jax.grad(loss(conv), (0, 1))(x, kernel),
}


@pytest.mark.parametrize("function", OF_ANY_SIZE.values(), ids=OF_ANY_SIZE)
def test_export_of_any_size(function, rng):
    """What it is for sizes that are known other tests say."""
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 2)))
    sizes = jax.export.symbolic_shape("b, h, w, 2", constraints=("h >= 4", "w >= 4"))
    shape = jax.ShapeDtypeStruct(sizes, kernel.dtype)
    exported = jax.export.export(jax.jit(lambda *a: function(*a)))(shape, kernel)
    for size in ((2, 7, 8, 2), (1, 12, 9, 2), (3, 5, 4, 2)):
        x = jnp.asarray(rng.normal(size=size))
        assert_same(exported.call(x, kernel), function(x, kernel))


# --- tools that have tables of primitives ---


def assert_jet_is_nested_jvp(function, reference, operands, rng):
    """Along a curve: jet's terms are what differentiating three times over gives."""
    terms = [[jnp.asarray(rng.normal(size=a.shape)) for _ in "123"] for a in operands]

    def along(t):
        factors = t, t**2 / 2, t**3 / 6
        moved = (
            a + sum(map(jnp.multiply, factors, series))
            for a, series in zip(operands, terms)
        )
        return jnp.sin(reference(*moved))

    derivatives = [along]
    for _ in range(3):
        derivatives.append(
            lambda t, f=derivatives[-1]: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]
        )
    expected = [derivative(jnp.zeros(())) for derivative in derivatives]
    for run in (function, jax.jit(lambda *a: function(*a))):
        value, series = jet(lambda *a, run=run: jnp.sin(run(*a)), operands, terms)
        assert_same([value, *series], expected)


JETS = CASES | {
    "a gradient": Case(
        lambda x, w: jax.grad(loss(conv), 1)(x, w),
        lambda x, w: jax.grad(loss(partial(of_lax, strides=(1, 1), padding="SAME")), 1)(
            x, w
        ),
        (1, 4, 3, 2),
        (3, 3, 2, 3),
    ),
    "strides in one dimension": Case(
        partial(conv, strides=2),
        partial(
            lax.conv_general_dilated,
            window_strides=(2,),
            padding="SAME",
            dimension_numbers=("NHC", "HIO", "NHC"),
        ),
        (2, 7, 2),
        (3, 2, 3),
    ),
    "three dimensions": Case(
        conv,
        partial(
            lax.conv_general_dilated,
            window_strides=(1, 1, 1),
            padding="SAME",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        ),
        (1, 3, 4, 3, 2),
        (2, 3, 2, 2, 3),
    ),
    "an input that is dilated": Case(
        partial(conv, strides=2, input_dilation=3),
        partial(of_lax, strides=(2, 2), padding=((0, 0), (1, 1)), lhs_dilation=(3, 3)),
        (1, 4, 3, 2),
        (2, 3, 2, 3),
    ),
}


@pytest.mark.parametrize("case", few_of(JETS.values(), 4), ids=JETS)
def test_taylor_mode(case, rng):
    operands = case.operands(rng)
    assert_jet_is_nested_jvp(case.function, case.reference, operands, rng)


POOLS = {
    "max": (
        partial(max_pool, window_shape=(2, 3), strides=2, padding="SAME"),
        lambda x: lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 2, 1), "SAME"
        ),
    ),
    "max of many": (
        partial(max_pool, window_shape=(9, 8)),
        lambda x: x.reshape(2, 72, 2).max(1).reshape(2, 1, 1, 2),
    ),
    "min": (
        partial(min_pool, window_shape=3),
        lambda x: (
            x.reshape(2, 3, 3, 8, 2)[..., :6, :].reshape(2, 3, 3, 2, 3, 2).min((2, 4))
        ),
    ),
    "mean": (
        partial(avg_pool, window_shape=3, strides=2, padding=1, count_include_pad=True),
        lambda x: (
            lax.reduce_window(
                x,
                0.0,
                lax.add,
                (1, 3, 3, 1),
                (1, 2, 2, 1),
                ((0, 0), (1, 1), (1, 1), (0, 0)),
            )
            / 9
        ),
    ),
    "global max": (global_max_pool, lambda x: x.max((1, 2))),
    "gradient of max": (
        lambda x: jax.grad(lambda x: jnp.sum(jnp.sin(max_pool(x, (3, 2)))))(x),
        lambda x: jax.grad(
            lambda x: jnp.sum(jnp.sin(x.reshape(2, 3, 3, 4, 2, 2).max((2, 4))))
        )(x),
    ),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_taylor_mode_of_pools(pool, rng):
    x = [jnp.asarray(rng.normal(size=(2, 9, 8, 2)))]
    assert_jet_is_nested_jvp(*pool, x, rng)


POLICIES = {
    "none": None,
    "only those of convolutions with one group": lambda primitive, *_, **settings: (
        Saveable
        if primitive is lax.conv_general_dilated_p
        and settings["feature_group_count"] == 1
        else Recompute
    ),
    "to the host": lambda primitive, *_, **__: (
        Offloadable("device", "pinned_host")
        if primitive is lax.conv_general_dilated_p
        else Recompute
    ),
} | {
    name: getattr(jax.checkpoint_policies, name)
    for name in (
        "dots_saveable",
        "dots_with_no_batch_dims_saveable",
        "everything_saveable",
        "nothing_saveable",
    )
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("models", (None, 3))
@pytest.mark.parametrize("groups", (1, 2))
def test_policies_of_checkpoint_decide_as_on_lax(policy, groups, models, rng):
    """As many convolutions are in the gradient, and the same comes out."""
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 4)))
    shape = (3, 3, 4 // groups, 4)
    kernel = jnp.asarray(rng.normal(size=shape if models is None else (models, *shape)))

    def gradient(convolve):
        def two(x, kernel):
            return jnp.sin(convolve(jnp.sin(convolve(x, kernel)), kernel))

        several = two if models is None else jax.vmap(two, (None, 0))
        of_both = jax.checkpoint(lambda *a: jnp.sum(several(*a)), policy=policy)
        return jax.grad(of_both, (0, 1))

    def counts(function):
        program = jax.make_jaxpr(function)(x, kernel).jaxpr
        names = [equation.primitive.name for equation, _ in equations(program)]
        convolutions = {"conv_general_dilated", "jcnn_convolution"}
        return sum(n in convolutions for n in names), names.count("device_put")

    ours = gradient(partial(conv, feature_group_count=groups))
    of_reference = gradient(
        partial(of_lax, strides=(1, 1), padding="SAME", feature_group_count=groups)
    )
    assert counts(ours) == counts(of_reference)
    assert_same(jax.jit(ours)(x, kernel), jax.jit(of_reference)(x, kernel))


@pytest.mark.parametrize(
    "function",
    (
        lambda x: conv(x, jnp.ones((2, 2, 1, 1), x.dtype)),
        lambda x: conv(x, jnp.ones((2, 2, 1, 1), x.dtype), impl="lax"),
        lambda x: conv_transpose(x, jnp.ones((2, 2, 1, 1), x.dtype)),
        lambda x: avg_pool(x, 2),
        lambda x: jax.grad(lambda w: jnp.sum(conv(x, w)))(jnp.ones((2, 2, 1, 1))),
        lambda x: total(x, (0, 1, 2)),
    ),
    ids=("conv", "lax", "transposed", "mean", "gradient", "sum"),
)
def test_checkify_finds_nan_where_it_arises(function):
    checked = jax.jit(checkify.checkify(function, errors=checkify.float_checks))
    x = jnp.ones((1, 4, 4, 1))
    assert checked(x)[0].get() is None
    error, _ = checked(x.at[0, 0, :2].set(jnp.array([[jnp.inf], [-jnp.inf]])))
    assert "nan generated by primitive" in error.get()


# --- meshes ---

# How x and the kernel are split over two devices.
SPLITS = {
    "batch": (P("two"), P()),
    "features": (P(), P(None, None, None, "two")),
    "columns": (P(None, "two"), P()),
}


def mesh_of(kind):
    return jax.make_mesh((2,), ("two",), axis_types=(kind,))


def on_mesh(mesh, operands, specs):
    return [
        jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(operands, specs)
    ]


@pytest.mark.cover(2)
@pytest.mark.parametrize("kind", (AxisType.Auto, AxisType.Explicit), ids=str)
@pytest.mark.parametrize("split", SPLITS)
@ANY_CASE
def test_operands_on_two_devices(case, split, kind, rng):
    if split == "columns":
        case = case._replace(x=(case.x[0], 4, *case.x[2:]))
    operands, mesh = case.operands(rng), mesh_of(kind)
    expected = jax.jit(with_gradients(case.reference))(*operands)
    with jax.set_mesh(mesh):
        x, kernel = on_mesh(mesh, operands, SPLITS[split])
        actual = jax.jit(with_gradients(case.function))(x, kernel)
        if kind == AxisType.Explicit:
            _, _, gradients = actual
            for a, b in zip(gradients, (x, kernel)):
                assert jax.typeof(a).sharding == jax.typeof(b).sharding
    assert_same(actual, expected)


def test_drop_in_shards_its_result_as_it_is_told(rng):
    case, mesh = CASES["conv"], mesh_of(AxisType.Explicit)
    operands = case.operands(rng)
    drop_in = partial(
        of_lax,
        strides=(1, 2),
        padding=((1, 1), (1, 1)),
        feature_group_count=2,
        convolve=conv_general_dilated,
        out_sharding=P("two"),
    )
    expected = jax.jit(with_gradients(case.reference))(*operands)
    with jax.set_mesh(mesh):
        operands = on_mesh(mesh, operands, SPLITS["features"])
        actual = jax.jit(with_gradients(drop_in))(*operands)
        assert jax.typeof(actual[0]).sharding.spec == P("two", None, None, None)
    assert_same(actual, expected)


@pytest.mark.parametrize("mapped", ((0, None), (None, 0), (0, 0)), ids=str)
@pytest.mark.parametrize("split", ("mapped", "batch"))
@ANY_CASE
def test_vmap_over_what_is_sharded_by_type(case, split, mapped, rng):
    operands, mesh = case.operands(rng), mesh_of(AxisType.Explicit)
    operands = [
        a if axis is None else jnp.stack([a, 1 - a])
        for a, axis in zip(operands, mapped)
    ]
    run = jax.vmap(with_gradients(case.reference), mapped)
    expected = jax.jit(run)(*operands)
    specs = [P() if axis is None else P("two") for axis in mapped]
    if split == "batch":
        specs = [P("two") if mapped[0] is None else P(None, "two"), P()]
    with jax.set_mesh(mesh):
        operands = on_mesh(mesh, operands, specs)
        actual = jax.jit(jax.vmap(with_gradients(case.function), mapped))(*operands)
    assert_same(actual, expected)


@pytest.mark.parametrize("check_vma", (True, False))
@ANY_CASE
def test_shard_map(case, check_vma, rng):
    x, kernel = case.operands(rng)

    def shard(x, kernel):
        value, dy, (gx, gkernel) = with_gradients(case.function)(x, kernel)
        if not check_vma:  # with it, the gradient to what is shared is summed
            gkernel = lax.psum(gkernel, "two")
        return value, dy, (gx, gkernel)

    split = P("two")
    run = jax.shard_map(
        shard,
        mesh=mesh_of(AxisType.Auto),
        in_specs=(split, P()),
        out_specs=(split, split, (split, P())),
        check_vma=check_vma,
    )
    assert_same(jax.jit(run)(x, kernel), with_gradients(case.reference)(x, kernel))


def test_nans_are_found_where_they_arise_when_jax_looks_for_them(rng):
    x = np.full((1, 6, 6, 32), np.nan, np.float32)
    w = rng.standard_normal((3, 3, 32, 32)).astype(np.float32)
    with jax.debug_nans(True):
        for f in (conv, jax.jit(conv), jax.grad(lambda x, w: conv(x, w).sum(), 1)):
            with pytest.raises(FloatingPointError):
                f(x, w)


@pytest.mark.parametrize(
    "function",
    (
        partial(conv, strides=2),
        partial(conv_transpose, strides=2),
        lambda x, w: depthwise_conv(x, w.reshape(3, 6, 1, 2)),
        lambda x, w: dense(x, w.reshape(2, 18)),
        lambda x, w: max_pool(x, 3, strides=2, padding="SAME"),
        lambda x, w: min_pool(x, 2),
        lambda x, w: avg_pool(x, 3, strides=2, padding="SAME"),
        lambda x, w: global_max_pool(x),
    ),
)
def test_nothing_is_moved_to_the_device_unasked(function, rng):
    x, w = (jnp.asarray(rng.normal(size=size)) for size in ((2, 5, 6, 2), (3, 3, 2, 2)))

    def with_tangent(x, w):
        return jax.jvp(function, (x, w), (x, w))

    for run in (function, with_tangent, jax.jit(with_tangent)):
        expected = run(x, w)
        with jax.transfer_guard("disallow"):
            assert_same(run(x, w), expected)


@pytest.mark.parametrize("pool", (max_pool, min_pool, avg_pool))
@pytest.mark.parametrize("transform", (lambda f: f, jax.jit), ids=("eager", "jit"))
def test_looking_for_nan_raises_no_false_alarm_in_pools(pool, transform):
    x = jnp.ones((1, 4, 4, 1)).at[0, 0, 0, 0].set(-jnp.inf)
    with jax.debug_nans(True):
        gradient = jax.grad(lambda x: jnp.sum(pool(x, 3, strides=1, padding=1)[:, 2:]))
        assert np.isfinite(transform(gradient)(x)).all()


def test_a_convolution_without_jit_is_the_same(rng):
    x = rng.standard_normal((2, 6, 6, 3)).astype(np.float32)
    w = rng.standard_normal((3, 3, 3, 4)).astype(np.float32)
    with jax.disable_jit():
        y = conv(x, w)
    np.testing.assert_allclose(y, conv(x, w), rtol=1e-5, atol=1e-5)
