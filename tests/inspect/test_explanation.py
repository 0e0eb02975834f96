"""What `explain` tells of programs, against what they compile to."""

import jax
import jax.numpy as jnp
from jax import lax

import jcnn
from jcnn.engine.onednn.support import unavailable_reason
from jcnn.inspect.explanation import operations

X = jax.ShapeDtypeStruct((8, 16, 16, 32), jnp.float32)
W = jax.ShapeDtypeStruct((3, 3, 32, 48), jnp.float32)


def _loss(x, w):
    """Plain lax, in the layouts of jcnn."""
    layouts = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=layouts)
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    return jnp.sum(jnp.sin(y))


GRADIENT = jax.grad(_loss, (0, 1))


def _ours(x, w):
    return jcnn.max_pool(jcnn.conv(x, w, strides=2, impl="auto"), 2).sum()


def test_it_names_the_parts_of_a_gradient_their_sizes_and_their_work():
    rows = {row.what: row for row in operations(GRADIENT, X, W)}
    assert set(rows) == {
        "convolution",
        "input gradient",
        "kernel gradient",
        "window maxima",
        "gradient of maxima",
    }
    assert rows["convolution"].operands == (X.shape, W.shape)
    assert rows["convolution"].result == (8, 8, 8, 48)
    assert rows["input gradient"].result == X.shape
    assert rows["kernel gradient"].result == W.shape
    assert rows["gradient of maxima"].result == (8, 8, 8, 48)
    flops = [rows[name].flops for name in rows if "maxima" not in name]
    assert flops == [2 * 8 * 8 * 8 * 48 * 9 * 32] * 3


def test_ours_and_laxs_own_have_the_same_parts():
    ours = operations(jax.grad(_ours, (0, 1)), X, W)
    laxs = operations(GRADIENT, X, W)
    assert sorted((row.what, row.flops) for row in ours) == sorted(
        (row.what, row.flops) for row in laxs
    )
    by = {row.what: row.algorithm for row in ours}
    assert by["window maxima"] == by["gradient of maxima"] == "taps"
    portable = unavailable_reason("float32") is not None
    expected = ("lax", "im2col") if portable else ("onednn", "onednn")
    assert (by["convolution"], by["kernel gradient"]) == expected


def test_models_of_a_vmap_are_planned_one_by_one(monkeypatch):
    """As they are computed: 16 of them together would be work enough for Winograd."""
    monkeypatch.setattr("jcnn.engine.planner.lanes", lambda: 8)  # as with AVX2
    x = jax.ShapeDtypeStruct((16, 2, 16, 16, 256), jnp.float32)
    w = jax.ShapeDtypeStruct((16, 3, 3, 256, 256), jnp.float32)
    conv = jcnn.conv
    (row,) = operations(jax.vmap(conv), x, w)
    (one,) = operations(
        conv, *(jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in (x, w))
    )
    assert row.algorithm == one.algorithm != "winograd"
    (wider,) = operations(
        conv,
        jax.ShapeDtypeStruct((32, 16, 16, 256), jnp.float32),
        w.update(shape=w.shape[1:]),
    )
    assert wider.algorithm == "winograd"


def test_what_it_says_of_lax_under_accelerate_is_what_is_compiled():
    assert {row.algorithm for row in operations(GRADIENT, X, W)} == {"lax"}
    asked = operations(GRADIENT, X, W, accelerated=True)
    with jcnn.accelerate():
        assert operations(GRADIENT, X, W) == asked
        assert operations(GRADIENT, X, W, accelerated=False) != asked
        program = jax.jit(GRADIENT).lower(X, W).as_text()
    by = {row.what: row.algorithm for row in asked}
    assert by["gradient of maxima"] == "taps" and by["window maxima"] == "lax"
    convolutions = [row for row in asked if row.flops]
    left = sum(row.algorithm == "lax" for row in convolutions)
    assert left < len(convolutions) == 3
    assert program.count("stablehlo.convolution") == left
    assert "select_and_scatter" not in program


def test_what_no_fast_algorithm_serves_is_said_to_be_laxs():
    def integers(x):
        return lax.reduce_window(x, 0, lax.add, (1, 3, 3), (1, 2, 2), "SAME")

    def dilated_and_strided(x, w):
        return lax.conv_general_dilated(x, w, (2,), ((1, 2),), (3,))

    x = jax.ShapeDtypeStruct((2, 3, 20), jnp.float32)
    w = jax.ShapeDtypeStruct((5, 3, 4), jnp.float32)
    whole = jax.ShapeDtypeStruct((2, 20, 20), jnp.int32)
    (sums,) = operations(integers, whole, accelerated=True)
    assert sums.what == "window sums" and sums.flops == 0
    (convolution,) = operations(dilated_and_strided, x, w, accelerated=True)
    assert convolution.flops == 2 * 2 * 29 * 5 * 4 * 3
    for row in (sums, convolution):
        assert row.algorithm == "lax" and "no fast algorithm" in row.reason


def test_dtypes_are_told_where_they_are_not_all_float32(capsys):
    jcnn.explain(_ours, X, W)
    assert "dtype" not in capsys.readouterr().out
    short = jax.ShapeDtypeStruct(X.shape, jnp.bfloat16)
    layer = jcnn.serial(conv=jcnn.layers.Conv(4, 3), norm=jcnn.layers.BatchNorm())
    params, state = jax.eval_shape(layer.init, jax.random.key(0), X)
    jcnn.explain(lambda p, s, x: layer.apply(p, s, x)[0], params, state, short)
    header, line, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["what", "dtype", "of"]
    assert line.split()[:2] == ["convolution", "bfloat16"]


def test_loops_multiply_and_mapped_kernels_are_models():
    def step(w, x):
        return w - jax.grad(_ours, 1)(x, w), None

    def steps(w, x):
        return lax.fori_loop(0, 3, lambda _, w: lax.scan(step, w, x)[0], w)

    many = jax.ShapeDtypeStruct((5, *X.shape), X.dtype)
    assert {row.times for row in operations(steps, W, many)} == {15}
    once = operations(step, W, X)
    assert {row.times for row in once} == {1}
    assert len(once) == len(operations(steps, W, many))

    def search(w, x):
        return lax.while_loop(lambda w: w[0, 0, 0, 0] < 1, lambda w: step(w, x)[0], w)

    assert {row.times for row in operations(search, W, X)} == {None}
    kernels = jax.ShapeDtypeStruct((7, *W.shape), W.dtype)
    mapped = operations(jax.vmap(_ours, (None, 0)), X, kernels)
    assert mapped[0].what == "convolution, 7 models"
    assert mapped[0].flops == 7 * once[0].flops


def test_the_print_is_a_table_with_a_sum(capsys):
    jcnn.explain(GRADIENT, X, W, accelerated=False)
    header, *lines, total = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "times" not in header
    assert lines[0].split()[:4] == ["convolution", "8x16x16x32", "by", "3x3x32x48"]
    for name in ("of", "gives", "by", "because"):
        start = header.index(f" {name} ") if name != "because" else header.index(name)
        assert all(line[start - 1] == " " for line in lines)
    assert total == "convolutions: 3, in all 42.5 MFLOP"
    gradient = jax.grad(_loss, 1)
    jcnn.explain(lambda x, w: lax.fori_loop(0, 4, lambda _, w: gradient(x, w), w), X, W)
    header, *lines, total = capsys.readouterr().out.splitlines()
    assert header.split()[3] == "times"
    assert total.startswith("convolutions: 8,")


def test_a_program_without_any_has_none(capsys):
    jcnn.explain(jnp.sin, 1.0)
    assert capsys.readouterr().out == "convolutions: 0, in all 0.0 MFLOP\n"
