"""No convolution over which XLA would end the process is handed to it.

Programs are lowered here, not compiled; `test_conv.py` runs some of them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxlib.mlir.dialects import stablehlo

from jcnn import conv
from jcnn.engine.acceleration import accelerate
from jcnn.engine.general import conv_general_dilated

pytestmark = pytest.mark.usefixtures("full_compilation")


def axes_like_groups(function, *operands) -> int:
    """How many axes look like groups to XLA and have not as many pixels as taps."""
    module = jax.jit(function).lower(*operands).compiler_ir("stablehlo")
    found = 0

    def visit(op):
        nonlocal found
        if op.name == "stablehlo.convolution":
            found += sum(like_groups(**axis) for axis in axes_of(op))
        for region in op.regions:
            for block in region:
                for inner in block:
                    visit(inner.operation)

    visit(module.operation)
    return found


def like_groups(pixels, taps, lhs_dilation, rhs_dilation, stride, pads) -> bool:
    unpadded = rhs_dilation == 1 and list(pads) == [0, 0]
    return unpadded and lhs_dilation == taps and stride == taps - 1 and pixels != taps


def axes_of(op):
    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    lhs, rhs = op.operands
    before, interior = lhs.owner, None
    if getattr(before, "name", None) == "stablehlo.pad":  # XLA may fold it
        interior = list(before.attributes["interior_padding"])
    spatial = zip(
        numbers.input_spatial_dimensions,
        numbers.kernel_spatial_dimensions,
        op.attributes["lhs_dilation"],
        op.attributes["rhs_dilation"],
        op.attributes["window_strides"],
        np.array(op.attributes["padding"]),
    )
    for axis, window_axis, lhs_dilation, rhs_dilation, stride, pads in spatial:
        pixels = lhs.type.shape[axis]
        if interior and interior[axis] and lhs_dilation == 1:
            lhs_dilation = 1 + interior[axis]
            pixels = before.operands[0].type.shape[axis]
        taps = rhs.type.shape[window_axis]
        yield dict(
            pixels=pixels,
            taps=taps,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            stride=stride,
            pads=pads,
        )


def by_lax(x, kernel, convolve=lax.conv_general_dilated, **settings):
    """`conv` in lax's words."""
    rank = x.ndim - 2
    spatial = "DHW"[-rank:]
    return convolve(
        x,
        kernel,
        settings.get("strides", (1,) * rank),
        settings["padding"],
        settings.get("input_dilation"),
        settings.get("kernel_dilation"),
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=settings.get("feature_group_count", 1),
    )


def derivatives(function):
    """The value, its gradients, and the gradients of these."""

    def first(x, kernel, g):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(g)

    def second(x, kernel, g):
        values, pull = jax.vjp(first, x, kernel, g)
        return values, pull(values)

    return second


# x, kernel and settings of convolutions that JAX's derivatives make like groups.
CASES = {
    "gradient to x": (
        (4, 5, 8, 3),
        (3, 2, 3, 5),
        dict(strides=(2, 2), padding=((0, 0), (1, 1))),
    ),
    "forward": (
        (1, 5, 3, 1),
        (2, 2, 1, 1),
        dict(padding=((0, 0), (0, 2)), input_dilation=(2, 1)),
    ),
    "strides of both": (
        (1, 5, 5, 1),
        (3, 4, 1, 1),
        dict(strides=(2, 3), padding=((0, 0), (0, 2)), input_dilation=(3, 3)),
    ),
    "gradient to the kernel": (
        (1, 2, 5, 1),
        (3, 3, 1, 1),
        dict(strides=(2, 3), padding=((0, 0), (1, 1)), input_dilation=(3, 1)),
    ),
    "both dilations": (
        (1, 2, 4, 1),
        (2, 2, 1, 1),
        dict(
            strides=(3, 2),
            padding=((0, 2), (1, 1)),
            input_dilation=(2, 1),
            kernel_dilation=(2, 1),
        ),
    ),
    "second derivative": (
        (1, 4, 2, 1),
        (2, 1, 1, 1),
        dict(strides=(2, 3), padding=((1, 1), (0, 2)), input_dilation=(1, 2)),
    ),
    "groups": (
        (2, 4, 4, 4),
        (3, 2, 2, 2),
        dict(strides=(1, 2), padding=((1, 0), (1, 1)), feature_group_count=2),
    ),
    "cube": (
        (1, 3, 4, 2, 1),
        (3, 2, 2, 1, 2),
        dict(strides=(1, 2, 1), padding=((0, 0), (1, 1), (1, 1))),
    ),
}
ANY_CASE = pytest.mark.parametrize("x, kernel, settings", CASES.values(), ids=CASES)


def shapes_of(function, x, kernel):
    x, kernel = (jax.ShapeDtypeStruct(a, jnp.float32) for a in (x, kernel))
    return x, kernel, jax.eval_shape(function, x, kernel)


@ANY_CASE
def test_no_axis_is_like_groups(x, kernel, settings):
    raw = partial(by_lax, **settings)
    shapes = shapes_of(raw, x, kernel)
    assert axes_like_groups(derivatives(raw), *shapes)  # there is something to be done
    for function in (
        partial(conv, impl="lax", **settings),
        partial(conv, impl="auto", **settings),
        partial(by_lax, convolve=conv_general_dilated, **settings),
    ):
        assert not axes_like_groups(derivatives(function), *shapes)
    with accelerate():
        assert not axes_like_groups(derivatives(raw), *shapes)
    assert axes_like_groups(derivatives(raw), *shapes)


@ANY_CASE
def test_nor_under_other_transformations(x, kernel, settings):
    function = derivatives(partial(conv, impl="lax", **settings))
    raw = derivatives(partial(by_lax, **settings))
    shapes = shapes_of(partial(by_lax, **settings), x, kernel)
    shapes = [jax.ShapeDtypeStruct((3, *s.shape), s.dtype) for s in shapes]
    assert axes_like_groups(jax.vmap(raw), *shapes)
    assert not axes_like_groups(jax.vmap(function), *shapes)
    assert not axes_like_groups(jax.checkpoint(jax.vmap(function)), *shapes)


def test_nor_where_the_batch_is_not_known():
    _, kernel, settings = CASES["gradient to x"]
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = shapes_of(partial(by_lax, **settings), (batch, 5, 8, 3), kernel)
    exported = jax.export.export(
        jax.jit(derivatives(partial(conv, impl="lax", **settings)))
    )(*shapes)
    x, kernel, g = (
        jnp.ones([n if isinstance(n, int) else 2 for n in s.shape]) for s in shapes
    )
    jax.block_until_ready(exported.call(x, kernel, g))  # or the process ends


@pytest.mark.parametrize("impl", ("lax", "auto"))
def test_nor_where_types_say_how_arrays_are_sharded(impl, rng):
    x, kernel, settings = CASES["gradient to x"]
    function = partial(conv, impl=impl, **settings)
    operands = [
        rng.normal(size=s.shape).astype(np.float32)
        for s in shapes_of(function, x, kernel)
    ]
    expected = jax.jit(derivatives(function))(*operands)
    mesh = jax.make_mesh((2,), ("two",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        specs = (PartitionSpec("two"), PartitionSpec(), PartitionSpec("two"))
        operands = [
            jax.device_put(a, NamedSharding(mesh, spec))
            for a, spec in zip(operands, specs)
        ]
        actual = jax.jit(derivatives(function))(*operands)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


# --- what lax's convolution is left alone for ---


def primitives(function, *shapes) -> set[str]:
    return {eqn.primitive.name for eqn in jax.make_jaxpr(function)(*shapes).eqns}


@pytest.mark.parametrize(
    "settings",
    (
        dict(),
        dict(strides=(2, 2), padding="SAME"),
        dict(strides=(1, 2), kernel_dilation=(2, 1)),
        dict(feature_group_count=2),
    ),
)
def test_by_lax_is_the_primitive_of_lax(settings):
    x = jax.ShapeDtypeStruct((2, 9, 9, 4), jnp.float32)
    groups = settings.get("feature_group_count", 1)
    kernel = jax.ShapeDtypeStruct((3, 3, 4 // groups, 6), jnp.float32)
    function = partial(conv, impl="lax", **settings)
    assert primitives(function, x, kernel) == {"conv_general_dilated"}
