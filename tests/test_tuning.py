"""The tuner: its choices are obeyed everywhere, and survive a file and bad files."""

import dataclasses
import json
import os
import pickle
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from oracle import assert_close

import jcnn
from experiments import digits
from experiments import tune as tune_experiment
from jcnn import conv, conv_transpose
from jcnn.data import from_arrays
from jcnn.dropin import conv_general_dilated
from jcnn.engine import planner
from jcnn.engine.planner import ALGORITHMS, plan, serves
from jcnn.engine.primitive import convolution_p
from jcnn.engine.problem import Problem
from jcnn.experiment import Result, command, main
from jcnn.explanation import equations, operations
from jcnn.layers import Conv, Dense
from jcnn.tuning import Choices, file, load, measure, save, timing, tune

SETTINGS = settings(max_examples=60, derandomize=True, deadline=None)
MEASURED = "measured by the tuner"


def problems(function, *args) -> list[Problem]:
    program = jax.make_jaxpr(function)(*args).jaxpr
    found = [e for e, _ in equations(program) if e.primitive is convolution_p]
    return [e.params["problem"] for e in found]


def plans(function, *args) -> list[tuple[str, str]]:
    rows = operations(function, *args)
    return [(row.algorithm, row.reason) for row in rows if row.flops]


def all_by(name: str, function, *args) -> Choices:
    """The choice of one algorithm for all convolutions of a function."""
    return Choices({problem: name for problem in problems(function, *args)})


def some(rng, *shape, dtype="float32"):
    return jnp.asarray(rng.normal(size=shape), dtype)


def loss(impl, x, w):
    """Two convolutions, one of them strided, and not linear in anything."""
    y = jnp.sin(conv(x, w, impl=impl))
    return jnp.sum(jnp.sin(conv(y, w, strides=2, impl=impl)))


# --- choices are obeyed ---


@pytest.mark.parametrize("name", ("lax", "im2col"))
def test_choices_are_obeyed_forward_and_backward(name, rng):
    x, w = some(rng, 2, 6, 5, 3), some(rng, 3, 3, 3, 3)
    function = jax.grad(loss, (1, 2))
    choices = all_by(name, partial(function, "auto"), x, w)
    assert len(choices) == 6 and {p.face for p in choices} == {"x", "w", "y"}
    assert set(plans(partial(function, choices), x, w)) == {(name, MEASURED)}
    # And not only in words: lax's convolution is an operation, im2col's a product.
    text = jax.jit(partial(function, choices)).lower(x, w).as_text()
    assert ("stablehlo.convolution" in text) == (name == "lax")
    assert ("stablehlo.dot_general" in text) == (name == "im2col")


def test_each_convolution_has_its_own_choice(rng):
    x, w = some(rng, 2, 6, 5, 3), some(rng, 3, 3, 3, 3)
    first, second = problems(partial(loss, "auto"), x, w)
    choices = Choices({first: "winograd", second: "im2col"})
    taken = plans(partial(loss, choices), x, w)
    assert taken == [("winograd", MEASURED), ("im2col", MEASURED)]


def test_what_is_not_chosen_goes_by_the_rules(rng):
    x, w = some(rng, 2, 6, 5, 3), some(rng, 3, 3, 3, 3)
    first, second = problems(partial(loss, "auto"), x, w)
    by_rule = plan(second)
    taken = plans(partial(loss, Choices({first: "winograd"})), x, w)
    assert taken == [("winograd", MEASURED), tuple(by_rule)]
    cannot = Choices({second: "winograd"})  # which does not take strides
    assert not serves("winograd", second)
    assert plans(partial(loss, cannot), x, w)[1] == tuple(by_rule)


def test_choices_reach_the_parts_of_a_convolution(rng):
    """The gradient by phases consists of convolutions, with choices of their own."""
    x, w = some(rng, 2, 8, 8, 4), some(rng, 4, 4, 4, 4)
    gradient = jax.grad(lambda x, impl: jnp.sum(conv(x, w, strides=2, impl=impl) ** 2))

    def by_lax(choices):
        text = jax.jit(partial(gradient, impl=choices)).lower(x).as_text()
        return text.count("stablehlo.convolution")

    forward, backward = problems(partial(gradient, impl="auto"), x)
    whole = Choices({forward: "im2col", backward: "phases"})
    phases = tune(partial(gradient, impl="auto"), x, seconds=1e-3)
    parts = [p for p in phases if p not in (forward, backward) and p.face == "y"]
    assert {p.kernel_size for p in parts} == {(2, 2)} and len(phases) == len(parts) + 2
    for name, called in (("lax", 4), ("im2col", 0)):
        parts_by_name = {part: name for part in parts}
        assert by_lax(Choices({**whole, **parts_by_name})) == called


@pytest.mark.parametrize("mapped", ("x", "w", "both"))
def test_choices_under_vmap(mapped, rng):
    xs, ws = some(rng, 4, 2, 6, 5, 3), some(rng, 4, 3, 3, 3, 2)
    axes = {"x": (0, None), "w": (None, 0), "both": (0, 0)}[mapped]
    operands = (xs if axes[0] == 0 else xs[0], ws if axes[1] == 0 else ws[0])

    def function(impl, x, w):
        return jax.vmap(partial(conv, impl=impl), axes)(x, w)

    (problem,) = problems(partial(function, "auto"), *operands)
    # Images are folded into the batch; kernels make models, each a convolution.
    batch, models = (8, None) if mapped == "x" else (2, 4)
    assert (problem.batch, problem.models) == (batch, models)
    one = dataclasses.replace(problem, models=None)
    choices = Choices({one: "im2col"})
    assert plans(partial(function, choices), *operands) == [("im2col", MEASURED)]
    text = jax.jit(partial(function, choices)).lower(*operands).as_text()
    assert "stablehlo.dot_general" in text and "stablehlo.convolution" not in text
    for i, y in enumerate(function(choices, *operands)):
        x, w = xs[i * (axes[0] == 0)], ws[i * (axes[1] == 0)]
        expected = oracle.conv(x, w, padding="SAME")
        assert_close(y, expected, "float32", scale=_scale(x, w, padding="SAME"))


def test_choices_are_for_cpus(rng):
    x, w = some(rng, 2, 6, 5, 3), some(rng, 3, 3, 3, 3)
    choices = all_by("im2col", partial(loss, "auto"), x, w)
    traced = jax.jit(partial(loss, choices)).trace(x, w)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" in text and "dot_general" not in text


@pytest.mark.parametrize("dtype", ("float16", "complex64"))
def test_other_dtypes_stay_with_lax(dtype, rng):
    x, w = some(rng, 2, 6, 3), some(rng, 3, 3, 3)
    choices = all_by("im2col", partial(conv, impl="auto"), x, w)
    x, w = x.astype(dtype), w.astype(dtype)
    y = conv(x, w, impl=choices)
    assert np.array_equal(y, conv(x, w, impl="lax")) and y.dtype == dtype
    assert [name for name, _ in plans(partial(conv, impl=choices), x, w)] == ["lax"]


def test_other_convolutions_take_choices(rng):
    x, w = some(rng, 2, 5, 4, 3), some(rng, 3, 3, 1, 3)
    depthwise = partial(jcnn.depthwise_conv, x)
    choices = all_by("im2col", partial(depthwise, impl="auto"), w)
    assert plans(partial(depthwise, impl=choices), w) == [("im2col", MEASURED)]
    w = some(rng, 3, 3, 3, 2)
    up = partial(conv_transpose, x, strides=2)
    choices = all_by("lax", partial(up, impl="auto"), w)
    assert plans(partial(up, impl=choices), w) == [("lax", MEASURED)]


def test_layers_take_choices(rng):
    x = some(rng, 2, 6, 5, 3)

    def apply(impl, x):
        layer = Conv(4, 3, impl=impl)
        params, state = layer.init(jax.random.key(0), x)
        return layer.apply(params, state, x)[0]

    choices = all_by("winograd", partial(apply, "auto"), x)
    assert plans(partial(apply, choices), x) == [("winograd", MEASURED)]


def _scale(x, w, **settings):
    """Sums of absolute products, which rounding errors are relative to."""
    return oracle.conv(np.abs(x), np.abs(w), **settings)


@pytest.mark.parametrize("name", ("lax", "im2col", "winograd"))
def test_results_are_those_of_the_definition(name, rng):
    x, w, g = some(rng, 2, 9, 7, 5), some(rng, 3, 3, 5, 4), some(rng, 2, 9, 7, 4)

    def function(impl, x, w):
        y, pull = jax.vjp(partial(conv, impl=impl), x, w)
        return y, *pull(g)

    choices = all_by(name, partial(function, "auto"), x, w)
    results = jax.jit(partial(function, choices))(x, w)
    expected = [oracle.conv(x, w, padding="SAME")]
    expected += oracle.conv_gradients(x, w, g, padding="SAME")
    scales = [_scale(x, w, padding="SAME")]
    absolute = [np.abs(a) for a in (x, w, g)]
    scales += oracle.conv_gradients(*absolute, padding="SAME")
    for result, value, scale in zip(results, expected, scales, strict=True):
        assert_close(result, value, "float32", scale=scale)


# --- choices are values ---


def test_equal_choices_are_one_program(rng):
    x, w = some(rng, 2, 6, 5, 3), some(rng, 3, 3, 3, 3)
    traced = []

    @partial(jax.jit, static_argnames="impl")
    def function(x, w, impl):
        traced.append(impl)
        return conv(x, w, impl=impl)

    (problem,) = problems(partial(conv, impl="auto"), x, w)
    first, again = Choices({problem: "im2col"}), Choices([(problem, "im2col")])
    assert first is not again and first == again and hash(first) == hash(again)
    function(x, w, first), function(x, w, again)
    assert len(traced) == 1
    others = Choices({problem: "winograd"}), Choices(), "auto"
    for other in others:
        function(x, w, other), function(x, w, other)
    assert traced == [first, *others] and len({first, *others}) == 4


def test_choices_are_frozen_mappings(rng):
    x, w = some(rng, 2, 6, 5, 3), some(rng, 3, 3, 3, 3)
    names = dict.fromkeys(problems(partial(loss, "auto"), x, w), "lax")
    choices = Choices(names)
    names.clear()
    assert len(choices) == 2 and dict(choices) == dict.fromkeys(choices, "lax")
    with pytest.raises(TypeError):
        choices[next(iter(choices))] = "im2col"  # pyright: ignore
    assert pickle.loads(pickle.dumps(choices)) == choices
    assert choices != dict(choices) and "2 convolutions" in repr(choices)
    assert repr(choices) in str(jax.make_jaxpr(partial(loss, choices))(x, w))


def test_a_key_is_one_convolution(rng):
    x, w = some(rng, 2, 6, 5, 3), some(rng, 3, 3, 3, 3)
    (problem,) = problems(partial(conv, impl="auto", precision="high"), x, w)
    choices, change = Choices({problem: "lax"}), partial(dataclasses.replace, problem)
    high = lax.Precision.HIGH
    same = [
        *(change(impl="im2col"), change(impl=choices), change(models=5)),
        *(change(dtype=jnp.float32), change(precision=(high, high))),
    ]
    assert all(choices.get(p) == "lax" for p in same)
    assert len({**choices, **Choices(dict.fromkeys(same, "im2col"))}) == 1
    others = [
        *(change(face="x"), change(batch=3), change(strides=(1, 2))),
        *(change(dtype=jnp.bfloat16), change(precision=None)),
        change(precision=(high, None)),
    ]
    assert not any(p in choices for p in others)


@pytest.mark.parametrize("name", ("fft", "auto", "", None))
def test_names_must_be_algorithms(name, rng):
    (problem,) = problems(
        partial(conv, impl="auto"), jnp.ones((1, 3, 1)), jnp.ones((1, 1, 1))
    )
    with pytest.raises(ValueError, match=f"one of lax, im2col, .*got {name!r}"):
        Choices({problem: name})


def test_conv_takes_no_other_mapping():
    x, w = jnp.ones((1, 3, 1)), jnp.ones((1, 1, 1))
    with pytest.raises(ValueError, match="impl must be Choices or one of auto, lax"):
        conv(x, w, impl={})  # pyright: ignore


# --- measuring ---


def test_tune_a_model(rng):
    """Every convolution of a training step gets a choice, and none is left to rules."""
    x = some(rng, 4, 8, 8, 2)

    def network(impl):
        return jcnn.serial(
            conv1=Conv(4, 3, impl=impl),
            tanh=jnp.tanh,
            conv2=Conv(4, 2, strides=2, impl=impl),
            flatten=jcnn.flatten,
            head=Dense(2),
        )

    params, state = network("auto").init(jax.random.key(0), x)

    def gradient(impl, params):
        def loss(params):
            return jnp.sum(network(impl).apply(params, state, x)[0] ** 2)

        return jax.grad(loss)(params)

    choices = tune(partial(gradient, "auto"), params, seconds=1e-3)
    assert all(serves(name, problem) for problem, name in choices.items())
    assert all(
        problem in choices for problem in problems(partial(gradient, "auto"), params)
    )
    taken = plans(partial(gradient, choices), params)
    assert len(taken) == 5 and {reason for _, reason in taken} == {MEASURED}
    actual = jax.jit(partial(gradient, choices))(params)
    for a, b in zip(*map(jax.tree.leaves, (actual, gradient("lax", params)))):
        assert_close(a, b, "float32")


def test_tune_measures_laxs_own_convolutions(rng):
    """As the problems that the drop-in of lax's function would pose."""
    x, w = some(rng, 2, 3, 8, 6), some(rng, 4, 3, 3, 3)  # channels first

    def total(conv, x, w):
        return jnp.sum(jnp.sin(conv(x, w, (2, 1), "SAME")))

    gradient = jax.grad(total, (1, 2))
    rows = list(measure(partial(gradient, lax.conv), x, w, seconds=1e-3))
    assert {row.problem.face for row in rows} == {"x", "w", "y"}
    for problem in problems(partial(gradient, conv_general_dilated), x, w):
        assert problem in {row.problem for row in rows}
    for row in rows:
        left_out = {"lax"} if row.problem.face == "w" else set()
        assert set(row.milliseconds) == _serving(row.problem) - left_out


def _serving(problem):
    return {name for name in ALGORITHMS if serves(name, problem)}


def test_arguments_may_be_shapes():
    x = jax.ShapeDtypeStruct((2, 6, 3), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((1, 3, 3), jnp.bfloat16)
    (row,) = measure(partial(conv, impl="auto"), x, w, seconds=1e-3)
    assert row.algorithm in row.milliseconds and min(row.milliseconds.values()) > 0
    assert tune(lambda x: x + 1, x) == Choices()


@pytest.mark.parametrize("dtype", ("float16", "complex64"))
def test_dtypes_that_the_rules_leave_to_lax_are_left_out(dtype):
    x, w = jnp.ones((2, 6, 3), dtype), jnp.ones((3, 3, 3), dtype)
    assert len(problems(partial(conv, impl="im2col"), x, w)) == 1
    assert tune(partial(conv, impl="im2col"), x, w) == Choices()


@pytest.mark.parametrize("seconds", (0, -1.0, float("nan"), float("inf"), "1", None))
def test_tune_refuses_times_that_are_none(seconds):
    with pytest.raises(ValueError, match=f"seconds must be .* got {seconds!r}"):
        tune(lambda x: x, 1.0, seconds=seconds)


class Clock:
    """A clock that goes on only while functions run, each for its time."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def perf_counter(self):
        return self.now

    def function(self, name, *seconds):
        def run():
            self.now += seconds[min(self.calls.count(name), len(seconds) - 1)]
            self.calls.append(name)

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_times_are_medians_of_calls_in_turn(clock):
    functions = {
        "steady": clock.function("steady", 9.0, 0.002),  # but for the first call
        "noisy": clock.function("noisy", 9.0, *[0.001, 0.003, 0.007] * 99),
    }
    medians = timing._medians(functions, seconds=1.0)
    assert medians == pytest.approx({"steady": 2.0, "noisy": 3.0})
    assert clock.calls[-6:] == ["steady", "noisy"] * 3
    rounds = clock.calls.count("steady")
    assert clock.calls.count("noisy") == rounds
    # A round takes 5.7 ms in the mean.
    assert rounds == pytest.approx(1000 / (2 + 11 / 3), abs=5)


def test_hopeless_algorithms_are_given_up(clock):
    functions = {
        "fast": clock.function("fast", 0.1),
        "slower": clock.function("slower", 0.29),
        "hopeless": clock.function("hopeless", 5.0),
    }
    medians = timing._medians(functions, seconds=1e-3)
    assert medians == pytest.approx({"fast": 100, "slower": 290, "hopeless": 5000})
    assert clock.calls.count("hopeless") == 3
    assert clock.calls.count("fast") == clock.calls.count("slower") >= 5 + 3


@pytest.mark.parametrize(("faster", "chosen"), ((0.96, False), (0.94, True)))
def test_the_rules_are_followed_unless_it_is_worth_it(faster, chosen, monkeypatch):
    x, w = jnp.ones((2, 6, 3)), jnp.ones((3, 3, 3))
    (problem,) = problems(partial(conv, impl="auto"), x, w)
    rule = plan(problem).name
    (other, *_) = _serving(problem) - {rule}

    def medians(functions, seconds):
        assert set(functions) == _serving(problem) and seconds == 0.5
        return {name: {rule: 1.0, other: faster}.get(name, 3.0) for name in functions}

    monkeypatch.setattr(timing, "_medians", medians)
    choices = tune(partial(conv, impl="auto"), x, w, seconds=0.5)
    assert dict(choices) == {problem: other if chosen else rule}


def test_compiler_options_reach_the_compiler():
    x, w = jnp.ones((2, 6, 3)), jnp.ones((3, 3, 3))
    with pytest.raises(Exception, match="no_such_option"):
        tune(
            *(partial(conv, impl="auto"), x, w),
            seconds=1e-3,
            compiler_options={"no_such_option": True},
        )
    options = {"xla_cpu_enable_fast_math": False}
    assert tune(
        partial(conv, impl="auto"), x, w, seconds=1e-3, compiler_options=options
    )


# --- the file ---


@st.composite
def any_problem(draw) -> Problem:
    """Sizes that need not fit one another: a file does not ask."""
    rank = draw(st.integers(1, 3))
    number, groups = st.integers(1, 2**31 - 1), draw(st.integers(1, 2**10))
    numbers = st.tuples(*[number] * rank)
    pair = st.tuples(*[st.integers(0, 2**31 - 1)] * 2)
    multiple = st.integers(1, 2**20).map(lambda n: n * groups)
    dtype = st.sampled_from(["float32", "bfloat16", "float64"]).map(jnp.dtype)
    precision = st.sampled_from(list(lax.Precision))
    return Problem(
        face=draw(st.sampled_from("xwy")),
        batch=draw(number),
        input_size=draw(numbers),
        output_size=draw(numbers),
        kernel_size=draw(numbers),
        in_channels=draw(multiple),
        out_channels=draw(multiple),
        strides=draw(numbers),
        padding=draw(st.tuples(*[pair] * rank)),
        dilation=draw(numbers),
        groups=groups,
        dtype=draw(dtype),
        output_dtype=draw(dtype),
        precision=draw(st.none() | precision | st.tuples(precision, precision)),
        impl=draw(st.sampled_from(["auto", "im2col"])),
        models=draw(st.none() | st.integers(1, 9)),
    )


@st.composite
def any_choices(draw) -> Choices:
    found = draw(st.lists(any_problem(), max_size=5))
    names = {p: draw(st.sampled_from(sorted(_serving(p)))) for p in found}
    return Choices(names)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tuning") / "tuned.json"


@SETTINGS
@given(choices=any_choices(), data=st.data())
def test_round_trip(path, choices, data):
    save(choices, path)
    read = load(path)
    assert read == choices and hash(read) == hash(choices)
    content = path.read_bytes()
    shuffled = data.draw(st.permutations(list(choices.items())))
    save(Choices(shuffled), str(path))
    assert path.read_bytes() == content  # whatever the order was
    lines = content.decode().splitlines()
    assert sum("algorithm" in line for line in lines) == len(choices)
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_the_file_is_plain(path):
    x, w = jnp.ones((2, 6, 3)), jnp.ones((3, 3, 4))
    (problem,) = problems(partial(conv, impl="auto"), x, w)
    save(Choices({problem: "winograd"}), path)
    values = json.loads(path.read_text())
    assert set(values) == {"choices", "jax", "processor"}
    assert values["jax"] == jax.__version__ and len(values["processor"]) > 5
    assert values["choices"] == [
        {
            "algorithm": "winograd",
            "batch": 2,
            "dilation": [1],
            "dtype": "float32",
            "face": "y",
            "groups": 1,
            "in_channels": 3,
            "input_size": [6],
            "kernel_size": [3],
            "out_channels": 4,
            "output_dtype": "float32",
            "output_size": [6],
            "padding": [[1, 1]],
            "precision": None,
            "strides": [1],
        }
    ]


def test_the_file_has_all_that_a_problem_has():
    fields = {field.name for field in dataclasses.fields(Problem)}
    assert set(file._FIELDS) - {"algorithm"} == fields - {"impl", "models"}


def test_integers_of_numpy_are_integers(path):
    x, w = jnp.ones((2, 8, 3)), jnp.ones((3, 3, 4))
    (problem,) = problems(partial(conv, strides=2, impl="auto"), x, w)
    strange = dataclasses.replace(problem, strides=(np.int64(2),))
    save(Choices({strange: "lax"}), path)
    assert load(path) == Choices({problem: "lax"})


def test_a_failure_leaves_the_old_file(path, monkeypatch):
    path.write_text("old")

    def fail(*paths):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        save(Choices(), path)
    assert path.read_text() == "old"
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_the_same_file_gives_the_same_bits(path, rng, monkeypatch):
    """Also when the rules are others, or another algorithm has become the fastest."""
    x, w = some(rng, 4, 12, 12, 8), some(rng, 3, 3, 8, 8)
    gradient = jax.grad(lambda impl, x, w: jnp.sum(conv(x, w, impl=impl) ** 2), (1, 2))
    choices = tune(partial(gradient, "auto"), x, w, seconds=1e-3)
    save(choices, path)

    def run():
        jax.clear_caches()
        gradients = jax.jit(partial(gradient, load(path)))(x, w)
        return [np.asarray(g).tobytes() for g in gradients]

    first = run()
    assert run() == first
    rules = [plan(problem) for problem in choices]
    monkeypatch.setattr(planner, "_dense", lambda p: planner.Plan("im2col", "so be it"))
    assert [plan(problem) for problem in choices] != rules
    assert run() == first


# --- files that are not as they should be ---


@pytest.fixture(scope="module")
def row(path):
    """The line of one convolution, as values."""
    x, w = jnp.ones((2, 6, 5, 4)), jnp.ones((3, 3, 2, 4))
    function = partial(conv, impl="auto", feature_group_count=2, precision="high")
    (problem,) = problems(function, x, w)
    return written(Choices({problem: "im2col"}), path)


def written(choices, path) -> dict:
    save(choices, path)
    (row,) = json.loads(path.read_text())["choices"]
    return row


def document(*rows, **more) -> dict:
    return {"choices": list(rows), "jax": "0", "processor": "?", **more}


BAD_VALUES = {
    "unknown algorithm": ("algorithm", "fft", "one of lax, im2col.*got 'fft'"),
    "auto": ("algorithm", "auto", "one of lax, im2col.*got 'auto'"),
    "an algorithm that does not serve": ("algorithm", "matmul", "it needs a kernel"),
    "a list for a name": ("algorithm", ["lax"], "one of lax"),
    "no face": ("face", "z", "one of x, w, y, got 'z'"),
    "a float": ("batch", 2.0, "an integer from 1 to 2147483647, got 2.0"),
    "a bool": ("batch", True, "an integer .*got True"),
    "null": ("batch", None, "an integer .*got None"),
    "zero": ("batch", 0, "an integer .*got 0"),
    "too large": ("batch", 2**31, "an integer .*got 2147483648"),
    "a text for a list": ("strides", "11", "a list of 1 to 3 integers, got '11'"),
    "an empty list": ("strides", [], "a list of 1 to 3 integers"),
    "a long list": ("strides", [1] * 4, "a list of 1 to 3 integers"),
    "another rank": ("strides", [1], "as long as kernel_size, 2, got"),
    "a wrong integer": ("strides", [1, "2"], "an integer .*got '2'"),
    "negative padding": ("padding", [[0, 0], [-1, 0]], "an integer from 0 .*got -1"),
    "no pairs": ("padding", [[0, 0], [1]], "a list of pairs"),
    "flat padding": ("padding", [0, 0], "a list of 1 to 3 integers, got 0"),
    "groups that do not divide": ("in_channels", 3, "a multiple of groups, got 3"),
    "a dtype of integers": ("dtype", "int32", "one of bfloat16.*got 'int32'"),
    "one precision": ("precision", "HIGH", "null or a pair of DEFAULT, HIGH, HIGHEST"),
    "three precisions": ("precision", ["HIGH"] * 3, "null or a pair"),
    "no precision": ("precision", ["HIGH", {}], "null or a pair"),
}


def refused(path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values(name, path, row):
    key, value, message = BAD_VALUES[name]
    bad = row | {"batch": row["batch"] + 1} | {key: value}
    path.write_text(json.dumps(document(row)))
    assert len(load(path)) == 1
    found = refused(path, json.dumps(document(row, bad)))
    assert found.startswith(f"choices[1].{key}")
    assert re.search(message, found)


BAD_FILES = {
    "empty": (b"", "Expecting value"),
    "not JSON": (b"{'choices': []}", "Expecting property name"),
    "cut off": (json.dumps(document()).encode()[:-1], "delimiter"),
    "not text": (b"\xff\xfe{}", "can't decode"),
    "deep": (b"[" * 10**5, "nested too deeply"),
    "a long number": (b"1" * 10**4, "4300"),
    "large": (b" " * (2**22 + 1), "allowed: at most 4194304"),
    "a list": (b"[]", "no JSON object"),
    "NaN": (b'{"jax": NaN}', "NaN is not a number of JSON"),
    "twice": (b'{"jax": "0", "jax": "0"}', "the key 'jax' occurs twice"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name, path):
    content, message = BAD_FILES[name]
    assert message in refused(path, content)


def test_bad_documents(path, row):
    short = {key: value for key, value in row.items() if key != "groups"}
    for bad, message in (
        (document(row, row), "choices[1] describes the same convolution as another"),
        (document(short), "choices[0]: the key 'groups' is missing"),
        (document(row | {"models": 3}), "choices[0]: the key 'models' is not known"),
        (document(row, seconds=1.0), "the file: the key 'seconds' is not known"),
        ({"choices": [], "jax": "0"}, "the file: the key 'processor' is missing"),
        (document(jax=1), "jax must be a text, got 1"),
        (document(choices={}), "choices must be a list, got {}"),
        (document([]), "choices[0] must be an object, got []"),
    ):
        assert message in refused(path, json.dumps(bad))


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(path.with_name("nowhere"))


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5),
    lambda any: st.lists(any, max_size=3) | st.dictionaries(st.text(), any, max_size=3),
    max_leaves=5,
)


@SETTINGS
@given(data=st.data())
def test_any_value_in_any_place(data, path, row):
    """Read back as it is, or refused by a message that names file and key."""
    key = data.draw(st.sampled_from(sorted(row)))
    value = data.draw(JSON)
    if isinstance(row[key], list) and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(row[key]) - 1))
        value = [value if i == place else n for i, n in enumerate(row[key])]
    changed = row | {key: value}
    path.write_text(json.dumps(document(changed)))
    try:
        choices = load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: choices[0].")
    else:
        again = written(choices, path)  # as text, where 1 is neither 1.0 nor true
        assert json.dumps(again) == json.dumps(changed, sort_keys=True)


@SETTINGS
@given(content=st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(content, path):
    refused(path, content)


@SETTINGS
@given(data=st.data())
def test_damaged_bytes(data, path, row):
    content = bytearray(json.dumps(document(row)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert len(load(path)) <= 1
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")


# --- experiments ---


@pytest.fixture
def few_digits(monkeypatch, rng):
    images = rng.integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    few = from_arrays(images, rng.integers(0, 10, 12), 10)
    monkeypatch.setattr(digits, "load", lambda name, split: few)


def test_a_run_goes_by_the_file_and_keeps_it(few_digits, tmp_path, capsys, monkeypatch):
    path, run_dir = tmp_path / "tuned.json", tmp_path / "run"
    config = tune_experiment.Config("digits", path, batch_size=6, seconds=1e-3)
    assert tune_experiment.main(config) == 0
    printed = capsys.readouterr().out
    assert printed.count(" ms") >= 2 * len(load(path)) and f"--impl {path}" in printed

    options = digits.Config(impl=str(path), batch_size=6)
    recipe = digits.recipe(options)
    images = jax.ShapeDtypeStruct((6, 8, 8, 1), jnp.uint8)
    batch = {"image": images, "label": jax.ShapeDtypeStruct((6,), jnp.int32)}
    params, state = recipe.layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    gradient = jax.grad(recipe.loss_fn, has_aux=True)
    taken = plans(gradient, params, state, batch, jax.random.key(0))
    assert len(taken) == 8 and {reason for _, reason in taken} == {MEASURED}

    # Training itself is tested elsewhere: the folder is ready before it begins.
    trained = []

    def fit(recipe, run_dir, **how):
        trained.append(how)
        return Result(None, 0.0, False)

    monkeypatch.setattr(command, "fit", fit)
    options = ["--impl", str(path), "--batch-size", "6", "--run-dir", str(run_dir)]
    assert main(digits.Config, digits.recipe, options) == 0
    assert len(trained) == 1
    assert (run_dir / "tuned.json").read_bytes() == path.read_bytes()
    assert json.loads((run_dir / "config.json").read_text())["config"]["impl"] == (
        str(path)
    )


def test_files_that_do_not_do_give_one_line_and_status_2(
    few_digits, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{}")
    for impl in ("nowhere.json", "bad.json", "im2col"):
        assert main(digits.Config, digits.recipe, ["--impl", impl]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --impl: {impl} is neither auto nor lax nor")
        assert error.count("\n") == 1
    config = tune_experiment.Config("digits", Path("nowhere", "tuned.json"))
    assert tune_experiment.main(config) == 2
    assert capsys.readouterr().err == "error: --out: nowhere is not a folder\n"
    assert [file.name for file in tmp_path.iterdir()] == ["bad.json"]


def test_the_highest_precision_is_not_tuned_to_winograds_algorithm():
    x, w = (jax.ShapeDtypeStruct(s, "float32") for s in ((2, 8, 8, 3), (3, 3, 3, 4)))
    for precision, there in (("high", True), ("highest", False)):
        (row,) = measure(partial(conv, precision=precision), x, w, seconds=1e-3)
        assert ("winograd" in row.milliseconds) == there


def test_conv_and_the_drop_in_pose_the_same_problem():
    """Or the choices made for one would not hold for the other."""
    x, w = (jax.ShapeDtypeStruct(s, "float32") for s in ((2, 8, 8, 3), (3, 3, 3, 4)))
    layouts = ("NHWC", "HWIO", "NHWC")
    drop_in = partial(
        conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=layouts,
    )
    for default in (None, "default", "float32", "BF16_BF16_F32"):
        with jax.default_matmul_precision(default):
            assert list(tune(conv, x, w, seconds=1e-3)) == list(
                tune(drop_in, x, w, seconds=1e-3)
            )
