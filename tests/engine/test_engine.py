"""The convolution primitive under JAX's transformations, and the blocks of im2col.

In float64 unless said otherwise, and against `lax.conv_general_dilated`, which has
transformation rules of its own.
"""

from functools import partial
from itertools import product
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from jcnn import conv
from jcnn.engine.algorithms import im2col
from jcnn.engine.blocks import blocks_of
from jcnn.engine.planner import ALGORITHMS
from jcnn.engine.primitive import convolve
from jcnn.engine.problem import Problem
from tests.helpers import oracle
from tests.helpers.oracle import assert_close

pytestmark = pytest.mark.cover(1)


@pytest.fixture(autouse=True)
def double(strict_promotion):
    with jax.enable_x64(True):
        yield


class Case(NamedTuple):
    """A convolution in the words of `lax.conv_general_dilated`."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def conv(self, impl, **settings):
        return partial(
            conv,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.dilation,
            feature_group_count=self.groups,
            impl=impl,
            **settings,
        )

    def reference(self, x, w):
        spatial = "DHW"[-len(self.strides) :]
        return lax.conv_general_dilated(
            x,
            w,
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
            feature_group_count=self.groups,
        )

    def operands(self, rng, *more, dtype="float64"):
        """Random x and w, with more axes in front."""
        shapes = ((*more, *self.x), (*more, *self.w))
        return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


CASES = {
    "plain": Case((2, 5, 4, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strided": Case((2, 6, 5, 4), (3, 2, 2, 4), (2, 1), ((0, 1), (1, 0)), (1, 1), 2),
    "dilated": Case((3, 9, 2), (2, 2, 3), (3,), ((2, 1),), (2,)),
}
# "lax" is JAX's own primitive; what transforms it is JAX's to test.
IMPLS = tuple(impl for impl in oracle.IMPLS if impl != "lax")

ANY_IMPL = pytest.mark.parametrize("impl", IMPLS)
ANY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def loss(function):
    """Not linear in anything, so that no derivative vanishes."""
    return lambda x, w: jnp.sum(jnp.sin(function(x, w)))


def assert_same(transform, case, *operands, impls=IMPLS):
    """`transform` makes of the primitive what it makes of lax's convolution."""
    expected = jax.jit(transform(case.reference))(*operands)
    assert all(np.any(np.asarray(a)) for a in jax.tree.leaves(expected))
    for impl in impls:
        _assert_is(expected, jax.jit(transform(case.conv(impl)))(*operands), impl)


def _assert_is(expected, actual, impl):
    expected, actual = jax.tree.leaves(expected), jax.tree.leaves(actual)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, "float64")


def grads(function):
    return jax.grad(loss(function), (0, 1))


# --- derivatives ---


@pytest.mark.parametrize("case", (CASES["strided"], CASES["dilated"]))
def test_check_grads(case, rng):
    x, w = case.operands(rng)
    check_grads(jax.jit(case.conv("im2col")), (x, w), order=2, modes=("fwd", "rev"))


@ANY_CASE
def test_jvp_and_linearize(case, rng):
    operands, tangents = case.operands(rng), case.operands(rng)

    def both(function):
        def run(primals, tangents):
            y, linear = jax.linearize(function, *primals)
            return jax.jvp(function, primals, tangents), y, linear(*tangents)

        return run

    assert_same(both, case, operands, tangents, impls=["im2col"])
    (y, dy), _, _ = both(case.conv("im2col"))(operands, tangents)
    settings = dict(
        strides=case.strides,
        padding=case.padding,
        kernel_dilation=case.dilation,
        groups=case.groups,
    )
    x, w = operands
    assert_close(y, oracle.conv(x, w, **settings), "float64")
    product_rule = oracle.conv(tangents[0], w, **settings)
    product_rule += oracle.conv(x, tangents[1], **settings)
    assert_close(dy, product_rule, "float64")


@ANY_CASE
def test_gradients(case, rng):
    assert_same(grads, case, *case.operands(rng))


TENSORS = ("y", "x", "kernel")
OPS = ("forward", "input_gradient", "kernel_gradient")

SMALL = Case((1, 4, 1), (2, 1, 2), (2,), ((1, 1),), (2,))


@pytest.mark.parametrize(
    "derivative",
    (
        lambda f: jax.hessian(f, (0, 1)),
        lambda f: jax.jacrev(jax.jacrev(f, (0, 1)), (0, 1)),
        lambda f: jax.jacfwd(jax.jacfwd(f, (0, 1)), (0, 1)),
        lambda f: jax.jacrev(jax.jacfwd(f, (0, 1)), (0, 1)),
        lambda f: jax.grad(lambda x, w: jnp.sum(jax.hessian(f, 1)(x, w) ** 2), (0, 1)),
    ),
    ids=("hessian", "rev-rev", "fwd-fwd", "rev-fwd", "third"),
)
def test_higher_orders(derivative, rng):
    operands = SMALL.operands(rng)
    assert_same(lambda f: derivative(loss(f)), SMALL, *operands)


def convolutions(function, *operands):
    """The tensors that a function's convolutions give, and its other products."""
    jaxpr = jax.make_jaxpr(function)(*operands)
    names, results = set(), []
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        if eqn.primitive.name == "jcnn_convolution":
            results.append(eqn.params["problem"].result)
    return results, names & {"conv_general_dilated", "dot_general"}


@ANY_IMPL
@ANY_CASE
def test_only_what_is_asked_for_is_computed(case, impl, rng):
    x, w = case.operands(rng)
    function = loss(case.conv(impl))
    for wanted, results in ((0, "yx"), (1, ("y", "kernel")), ((0, 1), TENSORS)):
        computed, others = convolutions(jax.grad(function, wanted), x, w)
        assert sorted(computed) == sorted(results) and not others


@ANY_IMPL
def test_derivatives_of_all_orders_are_the_primitive(impl, rng):
    function = loss(SMALL.conv(impl))

    def third(x, w):
        return jax.grad(lambda w: jnp.sum(jax.hessian(function, 0)(x, w)))(w)

    computed, others = convolutions(third, *SMALL.operands(rng))
    assert set(computed) == set(TENSORS) and not others


@ANY_CASE
def test_linear_transpose(case, rng):
    x, w = case.operands(rng)
    g = jnp.asarray(rng.normal(size=jax.eval_shape(case.reference, x, w).shape))

    def transposes(function):
        def run(x, w, g):
            (gx,) = jax.linear_transpose(lambda x: function(x, w), x)(g)
            (gw,) = jax.linear_transpose(lambda w: function(x, w), w)(g)
            return gx, gw

        return run

    assert_same(transposes, case, x, w, g, impls=["im2col"])


# --- batches ---


@pytest.mark.parametrize(
    "name, axes",
    (
        ("plain", (0, None)),
        ("plain", (None, 0)),
        ("plain", (0, 0)),
        ("strided", (1, -1)),
        ("strided", (2, None)),
        ("strided", (None, 1)),
        ("dilated", (-1, 1)),
        ("dilated", (0, None)),
    ),
    ids=str,
)
def test_vmap(name, axes, rng):
    case = CASES[name]
    operands = [
        a if axis is None else jnp.moveaxis(jnp.stack([a, 2 * a, 1 - a]), 0, axis)
        for a, axis in zip(case.operands(rng), axes)
    ]

    def mapped(function):
        def run(*operands):
            y = jax.vmap(function, axes, 1)(*operands)
            return y, jax.vmap(grads(function), axes)(*operands)

        return run

    assert_same(mapped, case, *operands)


@pytest.mark.parametrize("inner", ((0, None), (None, 0), (0, 0)), ids=str)
@pytest.mark.parametrize("outer", ((0, None), (None, 1), (1, 0)), ids=str)
def test_nested_vmap(outer, inner, rng):
    operands = []
    for a, *axes in zip(SMALL.operands(rng), inner, outer):
        for axis in axes:
            a = a if axis is None else jnp.stack([a, 1 - a], axis)
        operands.append(a)

    def mapped(function):
        def run(x, w):
            y = jax.vmap(jax.vmap(function, inner), outer)(x, w)
            return y, jax.vmap(jax.vmap(grads(function), inner), outer)(x, w)

        return run

    assert_same(mapped, SMALL, *operands)


def test_per_example_gradients(rng):
    case = CASES["strided"]
    x, w = case.operands(rng)

    def per_example(function):
        one = jax.grad(lambda w, x: loss(function)(x[None], w))
        return lambda x, w: jax.vmap(one, (None, 0))(w, x)

    assert_same(per_example, case, x, w)


def test_gradient_of_vmap(rng):
    case = CASES["strided"]
    x, w = case.operands(rng, 2)
    assert_same(lambda f: grads(jax.vmap(f)), case, x, w)
    assert_same(lambda f: grads(jax.vmap(f, (None, 0))), case, x[0], w)


@ANY_IMPL
@pytest.mark.parametrize("axes", ((0, None), (None, 0), (0, 0)), ids=str)
def test_vmap_over_nothing(axes, impl, rng):
    """No results, and gradients that are sums of none."""
    case = CASES["plain"]
    operands = [
        a if axis is None else jnp.zeros((0, *a.shape))
        for a, axis in zip(case.operands(rng), axes)
    ]
    mapped = jax.vmap(case.conv(impl), axes)
    y = jax.jit(mapped)(*operands)
    one = jax.eval_shape(case.reference, *case.operands(rng))
    assert y.shape == (0, *one.shape) and y.dtype == one.dtype
    for gradient, operand in zip(grads(mapped)(*operands), operands):
        assert np.array_equal(gradient, np.zeros(operand.shape))


WAYS_OF_MODELS = {  # by algorithm: whether all are computed at once, not in a loop
    "depthwise": (Case((2, 5, 4), (3, 1, 8), (1,), ((1, 1),), (1,), 4), True, False),
    "matmul": (Case((2, 5, 4), (1, 4, 3), (1,), ((0, 0),), (1,)), True, False),
    "im2col": (Case((2, 5, 4), (3, 4, 3), (1,), ((1, 1),), (1,)), False, False),
    "lax": (Case((2, 5, 4), (3, 4, 3), (1,), ((1, 1),), (1,)), False, False),
}


@pytest.mark.parametrize("name", WAYS_OF_MODELS)
@pytest.mark.parametrize("sharing", (False, True))
def test_models_at_once_or_one_by_one(name, sharing, rng):
    case, apart, shared = WAYS_OF_MODELS[name]
    x, w = case.operands(rng, 3)
    x, axes = (x[0], (None, 0)) if sharing else (x, (0, 0))
    impl = "auto" if name == "lax" else name  # by name lax vectorizes its own primitive

    def run(function):
        mapped = jax.vmap(function, axes)
        return lambda x, w: (mapped(x, w), grads(mapped)(x, w))

    assert_same(run, case, x, w, impls=[impl])
    function = jax.vmap(case.conv(impl), axes)
    (made,) = [
        eqn
        for eqn in jax.make_jaxpr(function)(x, w).eqns
        if eqn.primitive.name == "jcnn_convolution"
    ]
    assert made.invars[0].aval.shape == x.shape  # without copies for each model
    text = jax.jit(function).lower(x, w).as_text()
    assert ("stablehlo.while" in text) == (not (shared if sharing else apart))
    assert "feature_group_count = 3" not in text


# --- programs ---


@ANY_CASE
def test_eager_is_jit(case, rng):
    x, w = case.operands(rng)
    eager, jitted = (
        f(x, w)
        for f in (grads(case.conv("im2col")), jax.jit(grads(case.conv("im2col"))))
    )
    for a, b in zip(eager, jitted, strict=True):
        assert_close(a, b, "float64")


@ANY_CASE
def test_remat(case, rng):
    def rematerialised(function):
        policy = jax.checkpoint_policies.nothing_saveable
        return grads(jax.checkpoint(function, policy=policy))

    assert_same(rematerialised, case, *case.operands(rng), impls=["im2col"])


@ANY_CASE
def test_scan(case, rng):
    x, w = case.operands(rng, 3)

    def over_images(function):
        def total(x, w):
            def step(sum, x):
                return sum + loss(function)(x, w), None

            return lax.scan(step, 0.0, x)[0]

        return jax.value_and_grad(total, (0, 1))

    assert_same(over_images, case, x, w[0], impls=["im2col"])


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2,), ("two",), axis_types=(AxisType.Auto,))


@ANY_IMPL
@pytest.mark.parametrize("check_vma", (True, False))
@ANY_CASE
def test_shard_map_over_the_batch(case, check_vma, impl, rng, mesh):
    case = case._replace(x=(2, *case.x[1:]))  # one for each device
    x, w = case.operands(rng)
    batch, every = PartitionSpec("two"), PartitionSpec()
    shard = partial(
        jax.shard_map, mesh=mesh, in_specs=(batch, every), check_vma=check_vma
    )

    def in_shards(function):
        def inner(x, w):
            value, (gx, gw) = jax.value_and_grad(loss(function), (0, 1))(x, w)
            if not check_vma:  # with it, the gradient to what is shared is summed
                gw = lax.psum(gw, "two")
            return lax.psum(value, "two"), gx, gw

        def total(x, w):
            return lax.psum(loss(function)(x, w), "two")

        def run(x, w):
            y = shard(function, out_specs=batch)(x, w)
            inside = shard(inner, out_specs=(every, batch, every))(x, w)
            outside = jax.grad(shard(total, out_specs=every), (0, 1))(x, w)
            return y, inside, outside

        return run

    y, inside, outside = jax.jit(in_shards(case.conv(impl)))(x, w)
    value, (gx, gw) = jax.value_and_grad(loss(case.reference), (0, 1))(x, w)
    assert_close(y, case.reference(x, w), "float64")
    for a, b in zip((*inside, *outside), (value, gx, gw, gx, gw), strict=True):
        assert_close(a, b, "float64")


@ANY_IMPL
@pytest.mark.parametrize("check_vma", (True, False))
def test_shard_map_over_features(check_vma, impl, rng, mesh):
    case = CASES["plain"]._replace(w=(3, 3, 2, 4))
    x, w = case.operands(rng)
    every, features = PartitionSpec(), PartitionSpec(None, None, None, "two")

    def total(x, w):
        return lax.psum(loss(case.conv(impl))(x, w), "two")

    gradients = jax.grad(
        jax.shard_map(
            total,
            mesh=mesh,
            in_specs=(every, features),
            out_specs=every,
            check_vma=check_vma,
        ),
        (0, 1),
    )
    actual = jax.jit(gradients)(x, w)
    for a, b in zip(actual, grads(case.reference)(x, w), strict=True):
        assert_close(a, b, "float64")


@pytest.mark.parametrize("sharded", ("batch", "features"))
def test_operands_sharded_by_the_compiler(sharded, rng, mesh):
    case = CASES["plain"]._replace(w=(3, 3, 2, 4))
    x, w = case.operands(rng)
    if sharded == "batch":
        x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("two")))
    else:
        spec = PartitionSpec(None, None, None, "two")
        w = jax.device_put(w, NamedSharding(mesh, spec))
    assert_same(lambda f: jax.value_and_grad(loss(f), (0, 1)), case, x, w)


# --- export ---


@pytest.mark.parametrize("impl", oracle.IMPLS)
def test_export_for_other_platforms(impl, rng):
    case = CASES["strided"]
    x, w = case.operands(rng)
    gradients = jax.jit(grads(case.conv(impl)))
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(gradients, platforms=platforms)(x, w)
    assert exported.platforms == platforms
    for a, b in zip(exported.call(x, w), grads(case.reference)(x, w), strict=True):
        assert_close(a, b, "float64")


@pytest.mark.parametrize("impl, by_lax", (("auto", True), ("im2col", False)))
@pytest.mark.parametrize("platform", ("cuda", "tpu"))
@pytest.mark.parametrize("mapped", (False, True))
def test_what_other_platforms_run(mapped, platform, impl, by_lax, rng):
    """A name is obeyed everywhere; without one, only CPUs have jcnn's algorithms."""
    case = CASES["plain"]
    x, w = case.operands(rng, 2) if mapped else case.operands(rng)
    function = jax.vmap(case.conv(impl)) if mapped else case.conv(impl)
    exported = jax.export.export(jax.jit(function), platforms=[platform])(x, w)
    assert ("stablehlo.convolution" in exported.mlir_module()) == by_lax


@pytest.mark.parametrize("impl", ("auto", "lax"))
@ANY_CASE
def test_export_of_any_batch(case, impl, rng):
    x, w = case.operands(rng)
    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *case.x[1:]), x.dtype)
    exported = jax.export.export(jax.jit(grads(case.conv(impl))))(shape, w)
    x = jnp.concatenate([x, 1 - x, 2 * x])
    for a, b in zip(exported.call(x, w), grads(case.reference)(x, w), strict=True):
        assert_close(a, b, "float64")


# --- every algorithm, operation by operation ---


def problem_of(case: Case, op="forward", impl="auto", dtype="float32", models=None):
    rank = len(case.strides)
    outputs, _ = oracle.conv_links(
        case.x[1:-1],
        case.w[:-2],
        strides=case.strides,
        padding=case.padding,
        kernel_dilation=case.dilation,
    )
    return Problem(
        op=op,
        batch=case.x[0],
        input_size=case.x[1:-1],
        output_size=outputs,
        kernel_size=case.w[:rank],
        in_channels=case.x[-1],
        out_channels=case.w[-1],
        strides=case.strides,
        padding=case.padding,
        dilation=case.dilation,
        groups=case.groups,
        dtype=jnp.dtype(dtype),
        output_dtype=jnp.dtype(dtype),
        impl=impl,
        models=models,
    )


ALL_CASES = {
    **CASES,
    "cube": Case(
        (1, 4, 3, 5, 2), (2, 2, 3, 2, 3), (1, 2, 1), ((1, 0), (0, 1), (2, 2)), (1, 1, 2)
    ),
    "rest": Case((2, 8, 9, 3), (3, 2, 3, 2), (3, 4), ((0, 2), (0, 0)), (1, 1)),
    "gaps": Case((2, 7, 6, 3), (2, 1, 3, 2), (3, 3), ((0, 0), (0, 0)), (1, 1)),
    "tall": Case((2, 9, 5, 3), (4, 3, 3, 2), (1, 1), ((3, 0), (1, 2)), (2, 2)),
    "line": Case((2, 11, 3), (5, 3, 2), (1,), ((4, 2),), (1,)),
    "point": Case((2, 4, 5, 3), (1, 1, 3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "wide point": Case((2, 6, 9, 2), (1, 1, 2, 5), (2, 5), ((0, 0), (0, 0)), (1, 1)),
    "apart": Case((2, 14, 11, 2), (4, 3, 2, 3), (4, 3), ((1, 2), (3, 0)), (2, 3)),
    "depthwise": Case((2, 6, 5, 3), (3, 2, 1, 3), (1, 1), ((2, 0), (0, 1)), (1, 2), 3),
    "multiplied": Case((3, 7, 2), (3, 1, 6), (1,), ((1, 1),), (1,), 2),
    "moved": Case((1, 7, 6, 2), (3, 3, 1, 4), (2, 2), ((1, 1), (1, 1)), (1, 1), 2),
    "groups": Case((2, 5, 4, 6), (3, 2, 2, 9), (1, 1), ((1, 1), (0, 1)), (1, 1), 3),
    "wide groups": Case((1, 6, 60), (3, 20, 42), (1,), ((1, 1),), (1,), 3),
}
SHORT = ("tall", "apart", "point", "depthwise", "groups")
SUPPORTED = {
    (algorithm.name, case): ops
    for algorithm, case in product(ALGORITHMS.values(), ALL_CASES)
    if (
        ops := [op for op in OPS if algorithm.supports(problem_of(ALL_CASES[case], op))]
    )
}


@pytest.mark.parametrize(
    "name, case, dtype, x64",
    [(*supported, "float32", False) for supported in SUPPORTED]
    # Under x64 a literal of a float is too wide for both short dtypes.
    + [(name, case, "bfloat16", True) for name, case in SUPPORTED if case in SHORT]
    + [(name, case, "float32", True) for name, case in SUPPORTED if case in SHORT[:3]],
)
def test_operations_of_every_algorithm(name, case, dtype, x64, rng):
    ops, case = SUPPORTED[name, case], ALL_CASES[case]
    problems = [problem_of(case, op, name, dtype) for op in ops]
    settings = dict(
        strides=case.strides,
        padding=case.padding,
        kernel_dilation=case.dilation,
        groups=case.groups,
    )
    tensors = {f: rng.normal(size=problems[0].shape(f)) for f in TENSORS}
    tensors = {f: a.astype(jnp.dtype(dtype)) for f, a in tensors.items()}

    def loops(x, kernel, y):
        gx, gw = oracle.conv_gradients(x, kernel, y, **settings)
        return {
            "forward": oracle.conv(x, kernel, **settings),
            "input_gradient": gx,
            "kernel_gradient": gw,
        }

    @jax.jit
    def run(tensors):
        return [convolve(p, *(tensors[f] for f in p.operands)) for p in problems]

    with jax.enable_x64(x64):
        actual = dict(zip(ops, run(tensors), strict=True))
    expected = loops(**tensors)
    scales = loops(**{f: np.abs(a) for f, a in tensors.items()})
    for op in ops:
        assert_close(actual[op], expected[op], dtype, scales[op])


def test_every_algorithm_supports_every_operation_it_should():
    ops = {
        name: {
            op
            for (n, _), supported in SUPPORTED.items()
            if n == name
            for op in supported
        }
        for name in ALGORITHMS
    }
    assert ops.pop("polyphase") == {"input_gradient"}
    assert ops.pop("onednn") in (set(OPS), set())  # as jaxlib has it or not
    assert all(supported == set(OPS) for supported in ops.values()), ops


@ANY_CASE
def test_multiply_adds_are_those_of_the_loops(case):
    # Without padding every link is a product for each pixel of a batch and channel.
    case = case._replace(padding=((0, 0),) * len(case.strides))
    problem = problem_of(case)
    _, links = oracle.conv_links(
        case.x[1:-1], case.w[:-2], case.strides, kernel_dilation=case.dilation
    )
    each = case.x[0] * case.x[-1] * case.w[-1] // case.groups
    assert problem.multiply_adds == len(links) * each
    assert problem_of(case, models=7).multiply_adds == 7 * len(links) * each


# --- im2col in blocks ---

BLOCKED = {
    "plain": Case((5, 7, 6, 2), (3, 2, 2, 3), (1, 1), ((1, 1), (1, 0)), (1, 1)),
    "rest": Case((3, 13, 7, 4), (3, 2, 2, 2), (3, 2), ((0, 1), (1, 1)), (1, 2), 2),
    "line": Case((4, 23, 2), (3, 2, 3), (2,), ((2, 1),), (2,)),
    "cube": Case((2, 5, 3, 4, 2), (2, 2, 1, 2, 3), (1, 2, 1), ((1, 0),) * 3, (1, 1, 1)),
}


def block_bytes(case, positions, itemsize=8):
    """The size of a block of so many positions, in bytes of patches."""
    return positions * prod(case.w[:-2]) * case.x[-1] * itemsize


def loops_of(jaxpr):
    """The lengths of all scans in a program."""
    lengths = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            lengths.append(eqn.params["length"])
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                lengths += loops_of(inner)
    return lengths


@pytest.mark.cover(2)
@pytest.mark.parametrize("positions", (1, 13, 30, 100, 10**6))
@pytest.mark.parametrize("case", BLOCKED.values(), ids=BLOCKED)
def test_blocks_change_nothing(case, positions, rng, monkeypatch):
    monkeypatch.setattr(im2col, "PATCH_BYTES", block_bytes(case, positions))
    x, w = case.operands(rng)
    y = case.reference(x, w)
    g = jnp.asarray(rng.normal(size=y.shape))
    problems = [problem_of(case, op, dtype="float64") for op in OPS]

    def computed(x, w, g):
        return (
            im2col.forward(problems[0], x, w),
            im2col.input_gradient(problems[1], w, g),
            im2col.kernel_gradient(problems[2], x, g),
        )

    actual = jax.jit(computed)(x, w, g)
    expected = (y, *jax.vjp(case.reference, x, w)[1](g))
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, "float64")
    # As many loops as there are operations whose patches do not fit; those of the input
    # gradient are patches of the dilated output.
    of_x, of_y = (prod(case.w[:-2]) * a.shape[-1] * 8 for a in (x, y))
    patches = (prod(y.shape[:-1]) * of_x, prod(x.shape[:-1]) * of_y)
    blocked = [size > im2col.PATCH_BYTES for size in (*patches, patches[0])]
    assert len(loops_of(jax.make_jaxpr(computed)(x, w, g).jaxpr)) == sum(blocked)


@given(
    batch=st.integers(1, 50),
    output_size=st.lists(st.integers(1, 20), min_size=1, max_size=3).map(tuple),
    positions=st.integers(0, 30000),
)
def test_blocks_cover_everything_once(batch, output_size, positions):
    rank = len(output_size)
    case = Case(
        (batch, *output_size, 1),
        (*[1] * rank, 1, 1),
        (1,) * rank,
        ((0, 0),) * rank,
        (1,) * rank,
    )
    blocks = blocks_of(problem_of(case), positions)
    columns = prod(output_size[1:])
    assert blocks.images * blocks.rows * columns <= max(positions, columns)
    for size, count, total in (
        (blocks.images, blocks.batch_blocks, batch),
        (blocks.rows, blocks.row_blocks, output_size[0]),
    ):
        assert (count - 1) * size < total <= count * size and size <= total
    assert blocks.images == 1 or blocks.row_blocks == 1


def test_blocks_in_other_transformations(rng, mesh, monkeypatch):
    case = BLOCKED["rest"]._replace(x=(4, 13, 7, 4))
    monkeypatch.setattr(im2col, "PATCH_BYTES", block_bytes(case, 7))
    x, w = case.operands(rng)
    for check_vma in (True, False):
        sharded = jax.shard_map(
            lambda x, w: lax.psum(loss(case.conv("im2col"))(x, w), "two"),
            mesh=mesh,
            in_specs=(PartitionSpec("two"), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=check_vma,
        )
        actual = jax.jit(jax.grad(sharded, (0, 1)))(x, w)
        for a, b in zip(actual, grads(case.reference)(x, w), strict=True):
            assert_close(a, b, "float64")
    kernels = jnp.stack([w, 1 - w])
    assert_same(
        lambda f: jax.vmap(grads(f), (None, 0)), case, x, kernels, impls=["im2col"]
    )
    assert_same(lambda f: jax.hessian(loss(f), 1), case, x, w, impls=["im2col"])


@pytest.mark.parametrize("strides", ((1, 1), (2, 2)))
def test_patches_are_never_held_whole(strides, monkeypatch):
    case = Case((32, 64, 64, 16), (5, 5, 16, 16), strides, ((2, 2), (2, 2)), (1, 1))
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (case.x, case.w))
    whole = block_bytes(case, 32 * 64 * 64 // prod(strides), itemsize=4)

    def temporary():
        """Bytes that values and both gradients take beside operands and results."""
        programs = (case.conv("im2col"), grads(case.conv("im2col")))
        return [
            jax.jit(program).lower(x, w).compile().memory_analysis().temp_size_in_bytes
            for program in programs
        ]

    forward, backward = temporary()
    assert forward < whole / 4 and backward < whole / 2
    monkeypatch.setattr(im2col, "PATCH_BYTES", 1 << 40)
    assert min(temporary()) >= whole  # this would have been seen
