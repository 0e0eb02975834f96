"""The time of each part of a program: traces by hand and drawn ones, real ones."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.profiler import ProfileData

from jcnn import flatten, remat, residual, serial, summarize
from jcnn.inspect import profile, profiling
from jcnn.inspect.profiling import Recorded, Work, count_work, record, report
from jcnn.inspect.trace import Place, operation_seconds, part_seconds
from jcnn.layers import Conv, Dense, MaxPool
from jcnn.train import classification

_REGION, _END = "ThreadpoolListener::StartRegion", "ThreadpoolListener::StopRegion"
_EXECUTE = "ThunkExecutor::Execute"


def _trace(*threads, plane="/host:CPU"):
    """A trace of events (name, begin, end, stats) of each thread, in microseconds."""
    stats = sorted({s for events in threads for *_, of in events for s in of})
    names = sorted({name for events in threads for name, *_ in events})
    text = [f'planes {{ name: "{plane}"']
    for kind, known in (("event", names), ("stat", stats)):
        for number, name in enumerate(known, 1):
            value = f'{{ id: {number} name: "{name}" }}'
            text.append(f"{kind}_metadata {{ key: {number} value {value} }}")
    for events in threads:
        text.append("lines {")
        for name, begin, end, of in events:
            at = f"offset_ps: {begin * 10**6} duration_ps: {(end - begin) * 10**6}"
            text.append(f"events {{ metadata_id: {names.index(name) + 1} {at}")
            for stat, value in of.items():
                kind = "str" if isinstance(value, str) else "int64"
                id_ = f"metadata_id: {stats.index(stat) + 1}"
                text.append(
                    f'stats {{ {id_} {kind}_value: "{value}" }}'.replace(
                        '"', '"' if kind == "str" else ""
                    )
                )
            text.append("}")
        text.append("}")
    return ProfileData.from_text_proto(" ".join([*text, "}"]))


def _op(name, begin, end, module="jit_f"):
    return name, begin, end, {"hlo_op": name, "hlo_module": module}


def _gives(task, at):
    return "ThreadpoolListener::Record", at, at, {"_p": task}


def _task(task, begin, end):
    return [(_REGION, begin, begin, {"_c": task}), (_END, end, end, {})]


def _microseconds(trace):
    return {name: s * 1e6 for (_, name), s in operation_seconds(trace).items()}


# Traces


def test_an_operation_has_the_time_that_is_in_none_inside_of_it():
    outer, inner = _op("while", 0, 10), _op("dot", 2, 5)
    again = _op("dot", 3, 4)  # recorded twice
    waits = (_EXECUTE, 6, 8, {})  # between operations
    other = ("end: dot", 5, 9, {"hlo_op": "dot", "hlo_module": "jit_f"})
    none = _op("copy", 1, 1)
    found = _microseconds(_trace([none, other, inner, again, waits, outer]))
    assert found == pytest.approx({"while": 5, "dot": 3})


def test_tasks_belong_to_the_operation_that_gave_them():
    first = [_op("conv", 0, 10), _gives(7, 1), _op("mul", 3, 5), _gives(8, 4)]
    second = [*_task(7, 2, 6), _op("add", 4, 5), *_task(8, 12, 14), *_task(9, 14, 20)]
    # 0-2 conv; 2-3 conv, conv; 3-4 mul, conv; 4-5 mul, add; 5-10 conv; 12-14 mul
    found = _microseconds(_trace(first, second))
    assert found == pytest.approx({"conv": 8.5, "mul": 3, "add": 0.5})


def test_a_task_that_is_not_recorded_whole_is_left_out():
    begins, ends = _task(1, 5, 9)
    events = [_op("a", 0, 2), _gives(1, 1), ends]
    assert _microseconds(_trace(events)) == pytest.approx({"a": 2})
    assert _microseconds(_trace(events[:2], [begins])) == pytest.approx({"a": 2})


def test_of_a_device_only_its_own_operations_count():
    host, device = [_op("launch", 0, 9)], [_op("conv", 5, 8)]
    traces = [_trace(host), _trace(device, plane="/device:GPU:0")]

    class Both:
        planes = [plane for trace in traces for plane in trace.planes]

    assert _microseconds(Both) == pytest.approx({"conv": 3})


@pytest.mark.parametrize("case", range(5))
def test_drawn_traces_are_divided_as_by_looking_at_each_moment(case):
    rng, length, threads = np.random.default_rng(case), 60, 3
    drawn = [[] for _ in range(threads)]  # spans (begin, end, owner) by thread

    def draw(thread, begin, end, depth):
        while begin < end - 1 and depth < 4:
            begin, last = sorted(rng.integers(begin, end + 1, 2).tolist())
            if begin < last:
                name = f"op{rng.integers(5)}" if rng.random() < 0.8 else None
                drawn[thread].append((begin, last, name))
                draw(thread, begin, last, depth + 1)
            begin = last

    for thread in range(threads):
        draw(thread, 0, length, 0)
    expected = Counter()
    for moment in range(length):
        inner = [
            [name for begin, end, name in spans if begin <= moment < end]
            for spans in drawn  # the outer ones were drawn before
        ]
        busy = [names[-1] for names in inner if names and names[-1]]
        for name in busy:
            expected[name] += 1 / len(busy)
    events = [
        [
            _op(name, begin, end) if name else (_EXECUTE, begin, end, {})
            for begin, end, name in spans
        ]
        for spans in drawn
    ]
    assert expected and _microseconds(_trace(*events)) == pytest.approx(expected)


# Programs

_HLO = """HloModule jit_take, is_scheduled=true

ENTRY %main.1 (x.1: f32[4]) -> f32[4] {
  ROOT %fusion.1 = f32[4]{0} abs(%x.1), metadata={op_name="jit(take)/batch/abs"}
}

HloModule jit_step, is_scheduled=true

%body.1 (arg.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  %get-tuple-element.1 = f32[4]{0} get-tuple-element(%arg.1), index=1
  %copy.1 = f32[4]{0} copy(%get-tuple-element.1)
  %multiply.1 = f32[4]{0} multiply(%copy.1, %copy.1), metadata={op_name="closed/mul"}
  ROOT %tuple.1 = (s32[], f32[4]{0}) tuple(%constant.1, %multiply.1)
}

%yes.1 (arg.2: f32[4]) -> f32[4] {
  ROOT %negate.1 = f32[4]{0} negate(%arg.2)
}

%no.1 (arg.3: f32[4]) -> f32[4] {
  ROOT %negate.2 = f32[4]{0} negate(%arg.3)
}

ENTRY %main.2 (x.2: f32[4]) -> f32[4] {
  %x.2 = f32[4]{0} parameter(0), metadata={op_name="x"}
  %fusion.1 = f32[4]{0} fusion(%x.2), kind=kLoop, calls=%f, metadata={op_name="jit(step)/jvp(conv1)/mul" stack_frame_id=3}
  %while.1 = (s32[], f32[4]{0}) while(%fusion.1), condition=%c, body=%body.1, metadata={op_name="jit(step)/transpose(jvp(conv1))/while"}
  %gte.1 = f32[4]{0} get-tuple-element(%while.1), index=1
  %copy.2 = f32[4]{0} copy(%gte.1)
  %ffi_call.1 = f32[4]{0} custom-call(%copy.2), custom_call_target="__onednn$convolution", metadata={op_name="jit(step)/jvp(stage)/conv2/ffi_call"}
  %log.1 = f32[4]{0} log(%ffi_call.1), metadata={op_name="jit(step)/jvp()/log"}
  %cond.1 = f32[4]{0} conditional(%log.1, %copy.2, %copy.2), branch_computations={%yes.1, %no.1}, metadata={op_name="jit(step)/optimizer/cond"}
  %w.1 = f32[4]{0} parameter(1), metadata={op_name="w['conv1']"}
  %copy.3 = f32[4]{0} copy(%w.1)
  %convolution-base-dilated.1 = f32[4]{0} convolution(%copy.3, %gte.1), dim_labels=b0f_0io->b0f
  %copy_fusion.1 = f32[4]{0} fusion(%convolution-base-dilated.1), kind=kLoop, calls=%f, metadata={op_name="jit(step)/transpose(jvp(stage))/conv2/conv"}
  ROOT %sine.1 = f32[4]{0} sine(%cond.1), metadata={op_name="jit(step)/sin"}
}
"""  # noqa: E501


def test_operations_are_found_in_the_programs():
    modules = {"fusion.1": "jit_take"}
    names = ["fusion.1", "multiply.1", "copy.1", "copy.2", "negate.1", "negate.2"]
    names += ["ffi_call.1__onednn$convolution", "log.1", "sine.1", "unknown.1"]
    names += ["convolution-base-dilated.1"]
    events = [
        _op(name, 1000 * i, 1000 * i + 2**i, modules.get(name, "jit_step"))
        for i, name in enumerate(names)
    ]
    events.append(_op("fusion.1", 20000, 21024, "jit_step"))
    trace = _trace(events)
    parts = ["conv1", "stage/conv2", "batch", "optimizer"]
    found = {p: round(s * 1e6) for p, s in part_seconds(trace, _HLO, parts).items()}
    assert found == {
        Place("batch", "neither"): 1,
        Place("conv1", "backward"): 2 + 4 + 8,
        Place("optimizer", "neither"): 16 + 32,
        Place("stage/conv2", "forward"): 64,
        Place("", "forward"): 128,
        Place("", "neither"): 256 + 512,
        Place("stage/conv2", "backward"): 1024,
        Place("conv1", "forward"): 1024,
    }


@pytest.mark.parametrize(
    "name, part, direction",
    [
        ("jit(f)/while/body/jvp(body)/while/body/mul", "body", "forward"),
        ("jit(f)/while/body/closed_call/body/mul", "body", "neither"),
        ("jit(f)/while/body/mul", "", "neither"),
        ("jit(f)/meanwhile/body/mul", "", "neither"),
        ("jit(f)/transpose(jvp(a))/jvp(a)/checkpoint/conv/mul", "a/conv", "backward"),
        (
            "jit(f)/transpose(jvp(jvp()))/checkpoint/rematted_computation/a/conv/sin",
            "a/conv",
            "backward",
        ),
        ("jit(f)/jvp(a)/conv/jvp()/sin", "a/conv", "forward"),
        ("jit(f)/vmap(jvp(a))/conv/jit(relu)/max", "a/conv", "forward"),
        ("jit(f)/jvp(jit(a))/conv/max", "", "forward"),
        ("jit(f)/jvp(a)/transpose", "a", "forward"),
        ("jit(f)/a/cond/branch_1_fun/conv/mul", "a/conv", "neither"),
        ("jit(f)/jvp(conv)/mul", "", "forward"),
    ],
)
def test_names_have_a_part_and_a_direction(name, part, direction):
    hlo = f"""HloModule jit_f
ENTRY %main (x: f32[]) -> f32[] {{
  ROOT %a = f32[] abs(%x), metadata={{op_name="{name}"}}
}}"""
    found = part_seconds(_trace([_op("a", 0, 5)]), hlo, ["body", "a", "a/conv"])
    assert found == {Place(part, direction): pytest.approx(5e-6)}


# Work


def _network():
    return serial(
        conv1=Conv(8, 3),
        relu1=jax.nn.relu,
        block=residual(serial(conv=Conv(8, 3), relu=jax.nn.relu)),
        pool=MaxPool(2),
        flatten=flatten,
        head=Dense(3),
    )


def _gradients(layer, x):
    """A function of the parameters that gives loss and gradients, and these."""
    loss_fn, _ = classification(layer, lambda images, key: images)
    params, state = layer.init(jax.random.key(0), x)
    batch = {"image": x, "label": jnp.zeros(len(x), int)}

    def function(params):
        return jax.value_and_grad(loss_fn, has_aux=True)(
            params, state, batch, jax.random.key(1)
        )

    return function, params


_X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 12, 12, 2)), "float32")


@pytest.mark.parametrize("again", [False, True])
def test_products_are_those_of_the_summary_and_twice_as_many_backward(again):
    layer = remat(_network()) if again else _network()
    function, params = _gradients(layer, _X)
    products, dtype = count_work(jax.make_jaxpr(function)(params).jaxpr)
    assert dtype == "float32"
    rows = {
        row.name: len(_X) * (row.multiply_adds or 0) for row in summarize(layer, _X)
    }
    assert min(rows[n] for n in ("conv1", "block/body/conv", "head")) > 0
    for name, forward in rows.items():
        assert products[Place(name, "forward")] == forward
        first = name == "conv1"  # it has no gradient to the images
        backward = forward if first else 2 * forward
        if not again:  # else some of the forward pass is computed twice
            assert products.get(Place(name, "backward"), 0) == backward


def test_products_in_loops_are_counted_as_often_as_they_run():
    x = jnp.ones((4, 4), "bfloat16")

    def looped(times):
        @jax.named_scope("loop")
        def function(x):
            return jax.lax.fori_loop(0, times, lambda i, x: x @ x, x)

        return function

    products, dtype = count_work(jax.make_jaxpr(looped(3))(x).jaxpr)
    assert (products[Place("loop", "neither")], dtype) == (3 * 64, "bfloat16")
    products, _ = count_work(jax.make_jaxpr(lambda n, x: looped(n)(x))(3, x).jaxpr)
    assert np.isnan(products[Place("loop", "neither")])


# The table


def _lines(spent, products, seconds, **how):
    events, at = [], 0
    hlo = ["HloModule jit_f", "ENTRY %main (x: f32[]) -> f32[] {"]
    for number, (name, microseconds) in enumerate(spent.items()):
        events.append(_op(f"a.{number}", at, at + microseconds))
        at += microseconds
        hlo.append(f'  %a.{number} = f32[] abs(%x), metadata={{op_name="{name}"}}')
    recorded = Recorded(_trace(events), 2, seconds, 0.5)
    return [*report(recorded, "\n".join([*hlo, "}"]), Work(products, "float32"), **how)]


@pytest.fixture
def peak(monkeypatch):
    monkeypatch.setattr(profiling, "product_gflops", lambda dtype: 100.0)


def test_the_lines_add_up_to_the_measured_time(peak):
    """Two calls of 10 steps that took 20 ms each, of which 16 were computed."""
    spent = {
        "jit(f)/jvp(conv1)/a": 8_000,
        "jit(f)/transpose(jvp(conv1))/a": 12_000,
        "jit(f)/jvp(relu1)/a": 60,
        "jit(f)/jvp()/a": 160,
        "jit(f)/optimizer/a": 9_000,
        "jit(f)/a": 2_780,
    }
    products = {
        Place("", "neither"): 0,
        Place("conv1", "forward"): 4e6,
        Place("relu1", "forward"): 0,
        Place("flatten", "forward"): 0,
        Place("conv1", "backward"): 3e6,
        Place("optimizer", "neither"): float("nan"),
    }
    assert _lines(spent, products, 0.020, steps=10) == [
        "              ms       ms        ms          GFLOP/s   GFLOP/s",
        "                  forward  backward   share  forward  backward  of peak",
        "conv1       1.00     0.40      0.60   50.0%     20.0      10.0      14%",
        "others (2)  0.00     0.00              0.1%",
        "loss        0.01     0.01              0.4%",
        "optimizer   0.45                      22.5%        ?                  ?",
        "rest        0.14                       6.9%",
        "idle        0.40                      20.0%",
        "total       2.00     0.41      0.60  100.0%     19.5      10.0        ?",
        "means over 20 steps; without the profiler one took 50.00 ms",
        "peak: 100 GFLOP/s, the fastest float32 matrix product here",
    ]


def test_without_gradients_there_are_neither_forward_nor_backward(peak):
    products = {Place("fc", "neither"): 5e6, Place("", "neither"): 0}
    assert _lines({"jit(f)/fc/a": 400, "jit(f)/a": 100}, products, 0.001) == [
        "         ms          GFLOP/s",
        "              share           of peak",
        "fc     0.20   20.0%     50.0      50%",
        "rest   0.05    5.0%",
        "idle   0.75   75.0%",
        "total  1.00  100.0%     10.0      10%",
        "means over 2 steps; without the profiler one took 500.00 ms",
        "peak: 100 GFLOP/s, the fastest float32 matrix product here",
    ]


def test_a_trace_without_operations_is_an_error():
    with pytest.raises(ValueError, match="has recorded no operation"):
        _lines({}, {Place("fc", "neither"): 5}, 1.0)


# Real ones


@pytest.fixture
def quick(monkeypatch, peak):
    monkeypatch.setattr(profiling, "_SECONDS", 0.05)


def test_each_layer_of_a_network_takes_time(tmp_path, quick):
    function, params = _gradients(_network(), _X)
    compiled = jax.jit(function).lower(params).compile()
    recorded = record(lambda: compiled(params), tmp_path, least=4)
    work = count_work(jax.make_jaxpr(function)(params).jaxpr)
    parts = {place.part for place in work.products} - {""}
    seconds = part_seconds(recorded.trace, compiled.as_text(), parts)
    for name in ("conv1", "block/body/conv", "head"):
        assert seconds[Place(name, "forward")] > 0
        assert seconds[Place(name, "backward")] > 0
    assert 0 < sum(seconds.values()) <= recorded.calls * recorded.seconds
    assert recorded.calls >= 4
    (folder,) = tmp_path.glob("plugins/profile/*")
    assert sorted(".".join(f.name.split(".")[-2:]) for f in folder.iterdir()) == [
        "json.gz",
        "xplane.pb",
    ]


def test_a_function_is_profiled_with_one_line_for_each_part(tmp_path, quick, capsys):
    function, params = _gradients(_network(), _X)
    profile(function, params, folder=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    names = [re.split(r"  +", line)[0] for line in lines]
    assert names[2] == "conv1" and "block/body/conv" in names
    assert names[-3] == "total" and "means over " in lines[-2]
    assert [*tmp_path.glob("plugins/profile/*/*.xplane.pb")]


def test_calls_of_microseconds_are_not_recorded_by_ten_thousands(tmp_path):
    """It took half a minute to read them."""
    recorded = record(lambda: None, tmp_path)
    assert recorded.calls == 1000


def test_the_profiler_must_not_be_running_already(tmp_path, quick):
    with jax.profiler.trace(tmp_path):
        with pytest.raises(RuntimeError, match="already been started"):
            profile(jnp.sin, 1.0)
