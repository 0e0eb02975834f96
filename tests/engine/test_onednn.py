"""oneDNN's convolution: right, safe, and left out where it cannot be."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.test_util import check_grads

import jcnn
from jcnn.engine.algorithms.onednn import ONEDNN
from jcnn.engine.children import Ended
from jcnn.engine.onednn import calls, support, trial
from jcnn.engine.onednn.support import is_tried, unavailable_reason
from jcnn.engine.planner import ALGORITHMS
from jcnn.engine.problem import Problem
from tests.helpers import oracle
from tests.helpers.stress import few_of

pytestmark = pytest.mark.usefixtures("full_compilation")

_ROOT = Path(__file__).parents[2]
NEEDS_IT = pytest.mark.skipif(
    unavailable_reason("float32") is not None, reason="this jaxlib has no oneDNN"
)
CALL = "__onednn$convolution"
PROBLEM = Problem(
    op="forward",
    batch=2,
    input_size=(9, 9),
    output_size=(7, 7),
    kernel_size=(3, 3),
    in_channels=8,
    out_channels=16,
    strides=(1, 1),
    padding=((0, 0), (0, 0)),
    dilation=(1, 1),
    groups=1,
    dtype="float32",
    output_dtype="float32",
)
DRAWN = [trial.draw(np.random.default_rng([1, number])) for number in range(150)]
DRAWN = [p for p in DRAWN if p.rank and (p.op, p.dtype) == ("forward", "float32")]


def _arrays(problem, rng, dtype="float32"):
    shapes = (problem.shape(name) for name in ("x", "kernel"))
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@NEEDS_IT
@pytest.mark.parametrize("number", range(len(DRAWN)))
def test_every_kind_is_what_is_defined(number, rng):
    problem = DRAWN[number]
    x, w = _arrays(problem, rng)
    if reason := ONEDNN.unsupported_reason(problem):
        pytest.skip(reason)
    settings = {
        "strides": problem.strides,
        "padding": problem.padding,
        "kernel_dilation": problem.dilation,
    }
    expected = oracle.conv(x, w, groups=problem.groups, **settings)
    actual = jax.jit(partial(ONEDNN.forward, problem))(x, w)
    oracle.assert_close(actual, expected, "float32")


@NEEDS_IT
def test_it_is_an_algorithm_with_gradients(rng):
    x = jnp.asarray(rng.normal(size=(2, 7, 6, 4)), "float32")
    w = jnp.asarray(rng.normal(size=(3, 2, 2, 6)), "float32")
    bias = jnp.asarray(rng.normal(size=6), "float32")

    def conv(x, w, bias):
        pads = ((2, 0), (0, 1))
        return jcnn.conv(x, w, bias, padding=pads, feature_group_count=2, impl="onednn")

    check_grads(conv, (x, w, bias), order=2, modes=["fwd", "rev"], rtol=2e-2)
    text = jax.jit(jax.grad(lambda *a: conv(*a).sum(), (0, 1))).lower(x, w, bias)
    assert text.as_text().count(CALL) == 2  # to x, and to w of both groups joined
    expected = oracle.conv(x, w, groups=2, padding=((2, 0), (0, 1)))
    expected = expected + np.asarray(bias)
    oracle.assert_close(conv(x, w, bias), expected, "float32")


@NEEDS_IT
@pytest.mark.parametrize("strides", [1, (2, 3)])
def test_a_transposed_convolution_is_right(strides, rng):
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 4)), "float32")
    w = jnp.asarray(rng.normal(size=(3, 4, 4, 6)), "float32")
    actual = jcnn.conv_transpose(x, w, strides=strides, impl="onednn")
    expected = oracle.conv_transpose(x, w, strides=strides)
    oracle.assert_close(actual, expected, "float32")


@NEEDS_IT
def test_of_many_models_each_is_computed(rng):
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 3)), "float32")
    w = jnp.asarray(rng.normal(size=(4, 3, 3, 3, 5)), "float32")
    actual = jax.vmap(lambda w: jcnn.conv(x, w, padding="VALID", impl="onednn"))(w)
    for one, result in zip(w, actual):
        oracle.assert_close(result, oracle.conv(x, one), "float32")


@NEEDS_IT
def test_the_bits_are_those_of_a_call_outside_of_a_loop(rng):
    x, w = _arrays(replace(PROBLEM, out_channels=8, padding=((1, 1),) * 2), rng)
    conv = jax.jit(lambda x: jcnn.conv(x, w, impl="onednn"))
    looped = jax.jit(lambda x: lax.fori_loop(0, 3, lambda _, x: conv(x), x))
    np.testing.assert_array_equal(looped(x), conv(conv(conv(x))))


# Safe


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float64", "output_dtype": "float64"}, "not for float64"),
        ({"dtype": "complex64", "output_dtype": "complex64"}, "not for complex64"),
        ({"output_dtype": "float64"}, "it gives float32 or float32, not float64"),
        ({"models": 2}, "it has one kernel"),
        ({"batch": 0}, "a size is 0"),
        ({"batch": 2**31}, "an array is too large"),
        ({"groups": 3}, "no multiple of its groups"),
        (
            {"groups": 8, "out_channels": 8, "dilation": (2, 1)},
            "some depthwise convolutions never end",
        ),
        ({"padding": ((-1, 3), (0, 0))}, "out of its range"),
        ({"strides": (1, 2**20)}, "out of its range"),
        ({"output_size": (7, 8)}, "does not end where"),
        ({"strides": (7, 1), "output_size": (1, 7)}, "does not end where"),
        (
            {"input_size": (3, 9), "strides": (2, 1), "output_size": (1, 7)},
            "a stride leads nowhere",
        ),
    ],
)
@NEEDS_IT
def test_what_was_not_tried_is_not_asked_for(changes, words, rng):
    problem = replace(PROBLEM, **changes)
    assert words in (calls.unsupported_reason(problem) or "")
    with pytest.raises(ValueError, match="oneDNN must not be asked for"):
        calls.convolution(problem, *_arrays(PROBLEM, rng))


@NEEDS_IT
def test_operands_must_be_those_of_the_problem(rng):
    x, w = _arrays(PROBLEM, rng)
    for operands in ((x[:1], w), (x, w[..., :8]), (x.astype("bfloat16"), w)):
        with pytest.raises(ValueError, match="oneDNN must not be given"):
            calls.convolution(PROBLEM, *operands)


@NEEDS_IT
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_right_or_refused_by_the_processor(dtype, rng):
    problem = replace(PROBLEM, dtype=dtype, output_dtype=dtype)
    reason = calls.unsupported_reason(problem)
    if reason is not None:
        assert f"oneDNN takes {dtype} only with avx512" in reason
        assert not ALGORITHMS["onednn"].supports(problem)
        return
    x, w = _arrays(problem, rng, dtype)
    oracle.assert_close(calls.convolution(problem, x, w), oracle.conv(x, w), dtype)


def test_a_limit_on_instructions_is_one_on_dtypes(monkeypatch):
    words = {"avx2", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_fp16"}
    monkeypatch.setattr(support, "instructions", lambda: frozenset(words))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("JCNN_ONEDNN_TRIAL", "1")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    find = unavailable_reason.__wrapped__
    assert (
        find("float32") == "ONEDNN_MAX_CPU_ISA may leave oneDNN without what it needs"
    )
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert find("float32") is find("bfloat16") is find("float16") is None
    monkeypatch.setattr(support, "instructions", frozenset)
    assert "oneDNN takes float16 only with avx512_fp16" in find("float16")
    assert "oneDNN takes float32 only with avx2" in find("float32")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert find("float32") == "jaxlib has oneDNN's convolution on Linux and x86-64 only"


@NEEDS_IT
def test_an_unknown_jaxlib_is_tried_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(support, "TRIED", {})
    find = unavailable_reason.__wrapped__
    assert find("float32") is None
    (kept,) = (tmp_path / "jcnn" / "onednn").iterdir()
    assert kept.read_text() == "passed"

    def refuse(*args, **options):
        raise AssertionError("it is tried again")

    monkeypatch.setattr(support, "run", refuse)
    assert find("float32") is None
    kept.write_text("failed")
    assert "a trial of float32 failed with jaxlib" in find("float32")


@NEEDS_IT
def test_a_trial_makes_no_trial_of_its_own(monkeypatch, capsys):
    def refuse(dtype):
        raise AssertionError("a trial in a trial")

    monkeypatch.setattr(support, "TRIED", {})
    monkeypatch.setattr(support, "_try", refuse)
    monkeypatch.setenv("JCNN_ONEDNN_TRIAL", "1")
    assert unavailable_reason.__wrapped__("float32") is None
    unavailable_reason.cache_clear()
    monkeypatch.setattr(trial, "DRAWS", 10)
    assert trial.main("float32") == 0
    assert capsys.readouterr().out == "passed\n"
    unavailable_reason.cache_clear()


_LINE = "onednn_verbose,v1,primitive,exec,cpu,convolution,x64:gemm:jit,forward\n"


@pytest.mark.parametrize(
    ("status", "said"),
    [(1, ""), (-4, ""), (None, ""), (0, ""), (0, _LINE + "passed\n")],
)
def test_a_trial_that_dies_or_fails_is_believed(status, said, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = Ended(status, said, "")
    monkeypatch.setattr(support, "run", lambda *programs: [ended])
    assert not support._passed("float32")


@NEEDS_IT
def test_no_drawn_configuration_ends_the_process():
    """In a process that may die; the last line of what it says names the draw."""
    done = _run_draws()
    dtypes = ("float32", "bfloat16", "float16")
    drawn = [dtype for dtype in dtypes if unavailable_reason(dtype) is None]
    if not all(map(is_tried, drawn)) and (done is None or done.returncode):
        pytest.xfail("on a kind of processor that TRIED does not have")
    assert done is not None, "a configuration that waits for ever"
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("100 drawn, ")


def _run_draws():
    command = [sys.executable, "-m", "tests.stress.onednn", "--examples", "100"]
    try:
        return subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        return None


# Portable


@NEEDS_IT
def test_what_is_exported_has_no_such_call(rng):
    x, w = _arrays(PROBLEM, rng)
    conv = jax.jit(lambda x, w: jcnn.conv(x, w, padding="VALID", impl="onednn"))
    assert CALL in conv.lower(x, w).as_text()
    exported = export.export(conv)(x, w)
    assert CALL not in exported.mlir_module()
    oracle.assert_close(exported.call(x, w), oracle.conv(x, w), "float32")


@NEEDS_IT
def test_a_program_that_jax_keeps_has_no_call(tmp_path):
    """To write one with the call fails, or ends the process."""
    code = (
        "import jax, jcnn; x = jax.numpy.ones((2, 9, 9, 4))\n"
        "w = jax.numpy.ones((3, 3, 4, 4))\n"
        "f = jax.jit(lambda x, w: jcnn.conv(x, w, impl='onednn'))\n"
        "print('__onednn$' in f.lower(x, w).as_text(), float(f(x, w).sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ
        | {
            "PYTHONPATH": str(_ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "False"
    assert list(tmp_path.glob("*-cache"))


@NEEDS_IT
def test_a_library_may_be_accelerated_by_it(rng):
    x, w = _arrays(PROBLEM, rng)
    numbers = ("NHWC", "HWIO", "NHWC")

    def conv(x, w):
        return lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=numbers
        )

    with jcnn.accelerate():
        function = jax.jit(lambda x, w: conv(x, w))
        assert CALL in function.lower(x, w).as_text()
        assert CALL not in export.export(function)(x, w).mlir_module()
        oracle.assert_close(function(x, w), oracle.conv(x, w), "float32")


# Bits

_DIGEST = """
import hashlib, jax, jax.numpy as jnp, numpy as np, jcnn
from jcnn import global_avg_pool, layers as l, serial, train
import optax
net = serial(
    conv1=l.Conv(24, 3, impl="onednn"), norm=l.BatchNorm(), relu=jax.nn.relu,
    conv2=l.Conv(40, 3, strides=2, impl="onednn"), pool=l.MaxPool(2),
    conv3=l.Conv(48, 1, impl="onednn"), flat=jcnn.flatten,
    fc1=l.Dense(500, impl="onednn"), fc2=l.Dense(10, impl="onednn"),
)
x = jax.random.normal(jax.random.key(0), (64, 20, 20, 1))
batch = {"image": x, "label": jnp.arange(64) % 10}
tx = optax.sgd(0.1)
loss, _ = train.classification(net, lambda images, key: images)
state, step = train.create(net, tx, jax.random.key(1), x), train.make_step(loss, tx)
for _ in range(2):
    state, metrics = step(state, batch)
leaves = jax.tree.leaves((state.params, metrics["loss"]))
print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in leaves)).hexdigest())
"""


@NEEDS_IT
@pytest.mark.parametrize("counts", few_of([(1, 3), (1, 2, 3, 8)], 1), ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(counts):
    digests = set()
    for threads in counts:
        environment = os.environ | {"NPROC": str(threads)}
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env=environment,
            cwd=_ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


@NEEDS_IT
def test_logits_do_not_depend_on_the_other_images_of_a_batch(rng):
    impl = "onednn"
    net = jcnn.serial(
        conv1=jcnn.layers.Conv(24, 3, impl=impl),
        norm=jcnn.layers.BatchNorm(),
        relu=jax.nn.relu,
        conv2=jcnn.layers.Conv(40, 3, strides=2, impl=impl),
        pool=jcnn.layers.MaxPool(2),
        conv3=jcnn.layers.Conv(48, 3, impl=impl),
        flat=jcnn.flatten,
        head=jcnn.layers.Dense(500, impl=impl),
    )
    x = jnp.asarray(rng.normal(size=(48, 20, 20, 3)), "float32")
    params, state = net.init(jax.random.key(0), x)
    logits = jax.jit(lambda x: net.apply(params, state, x)[0])
    expected = logits(x)
    for first, last in ((0, 1), (5, 7), (3, 20), (16, 48)):
        np.testing.assert_array_equal(logits(x[first:last]), expected[first:last])
