"""Where the time of a program goes: it runs under JAX's profiler, which is read."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params

from ..compilation import jit
from ..doctor.speed import product_gflops
from .jaxprs import multiply_adds, scope_of
from .trace import Direction, Place, direction_of, part_seconds

_SECONDS, _CALLS = 1.0, 1000  # to record one of them at least
_LEAST_SHARE = 0.005  # of a part that has a line of its own


def profile(
    function: Callable[..., Any], *args: Any, folder: Path | str | None = None
) -> None:
    """Print how long each named part of `function(*args)` takes.

    The function is compiled, and computed for about three seconds; each call is a step.
    If it computes gradients, as `jax.value_and_grad` of a loss does, the forward and
    backward passes are told apart. docs/speed.md says how to read the table.

    Args:
        function: What `jax.jit` takes. Its parts are its named scopes, as `serial`
            and Flax's modules make them.
        *args: Its arguments: pytrees of arrays.
        folder: Where to keep the trace, for Perfetto and TensorBoard; None: nowhere.

    Raises:
        RuntimeError: If JAX's profiler is running already.
        ValueError: If it has recorded no operation of the function.

    >>> from jcnn import serial
    >>> from jcnn.layers import Dense
    >>> net = serial(hidden=Dense(512), relu=jax.nn.relu, head=Dense(10))
    >>> x = jax.numpy.ones((256, 512))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> def loss(params):
    ...     return net.apply(params, state, x)[0].sum()
    >>> profile(jax.grad(loss), params)  # doctest: +ELLIPSIS
                ms  ...
    hidden ...
    """
    work = count_work(jax.make_jaxpr(function)(*args).jaxpr)
    compiled = jit(function).lower(*args).compile()
    with TemporaryDirectory() if folder is None else nullcontext(folder) as kept:
        recorded = record(lambda: compiled(*args), Path(kept))
    for line in report(recorded, compiled.as_text(), work):
        print(line)


class Work(NamedTuple):
    """What a program computes.

    Attributes:
        products: Multiply-adds of the convolutions and matrix products of each part,
            0 of parts without; NaN if the running program decides how many.
        dtype: Of the operands of most of them.
    """

    products: dict[Place, float]
    dtype: str


def count_work(jaxpr: Jaxpr) -> Work:
    """Return the products of each part of a traced program.

    >>> x = jax.numpy.ones((2, 3))
    >>> count_work(jax.make_jaxpr(jax.named_call(lambda x: x @ x.T, name="a"))(x).jaxpr)
    Work(products={Place(part='a', direction='neither'): 12}, dtype='float32')
    """
    products: dict[Place, float] = {}
    dtypes: Counter[str] = Counter()

    def read(jaxpr: Jaxpr, outside: str, names: str, times: float) -> None:
        for eqn in jaxpr.eqns:
            path, stack = scope_of(eqn, outside), str(eqn.source_info.name_stack)
            stack = f"{names}/{stack}"
            place = Place(path, direction_of(stack))
            count = (multiply_adds(eqn) if eqn.outvars else 0) or 0
            products[place] = products.get(place, 0) + (times * count if count else 0)
            if count:
                dtypes[eqn.invars[0].aval.dtype.name] += count  # pyright: ignore
            inside = times
            if eqn.primitive.name == "scan":
                inside *= eqn.params["length"]
            if eqn.primitive.name in ("while", "cond"):
                inside = math.nan
            for inner in jaxprs_in_params(eqn.params):
                read(inner, path, stack, inside)

    read(jaxpr, "", "", 1)
    return Work(products, max(dtypes, key=dtypes.__getitem__, default="float32"))


class Recorded(NamedTuple):
    """Computations under the profiler.

    Attributes:
        trace: What it has recorded, a `jax.profiler.ProfileData`.
        calls: How many there are.
        seconds: How long one took.
        before: How long one took without the profiler.
    """

    trace: Any
    calls: int
    seconds: float
    before: float


def record(call: Callable[[], Any], folder: Path, *, least: int = 1) -> Recorded:
    """Call a function for a second or 1000 times, and then again under the profiler.

    Args:
        call: A function that is compiled.
        folder: Where the profiler writes plugins/profile/DATE.
        least: How many calls to record at least.

    Raises:
        RuntimeError: If the profiler is running already.
    """

    def mean(least: int) -> tuple[int, float]:
        took: list[float] = []
        while len(took) < least or sum(took) < _SECONDS and len(took) < _CALLS:
            begin = time.perf_counter()
            jax.block_until_ready(call())
            took.append(time.perf_counter() - begin)
        return len(took), sum(took) / len(took)

    jax.block_until_ready(call())
    _, before = mean(1)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(folder, profiler_options=options):
        calls, seconds = mean(least)
    files = folder.glob("plugins/profile/*/*.xplane.pb")
    newest = max(files, key=lambda file: file.stat().st_mtime)
    trace = jax.profiler.ProfileData.from_file(str(newest))
    return Recorded(trace, calls, seconds, before)


def report(
    recorded: Recorded, programs: str, work: Work, *, steps: int = 1
) -> Iterator[str]:
    """Yield the lines of the table, with the times of one step.

    Args:
        recorded: What was recorded.
        programs: The HLO of what was called.
        work: What one step computes; its parts have lines, in this order.
        steps: How many of them a call does.

    Raises:
        ValueError: If the trace has no operations of the programs.
    """
    parts = {place.part for place in work.products} - {""}
    of_calls = part_seconds(recorded.trace, programs, parts)
    if not of_calls:
        raise ValueError("the profiler has recorded no operation of the program")
    count = recorded.calls * steps
    seconds = {place: total / count for place, total in of_calls.items()}
    step, before = recorded.seconds / steps, recorded.before / steps
    seconds[_IDLE] = step - sum(seconds.values())
    peak = product_gflops(work.dtype) if any(work.products.values()) else math.inf

    def cells(name: str, places: list[Place]) -> tuple[str, ...]:
        def total(of: Mapping[Place, float], *directions: Direction) -> float:
            return sum(of.get(p, 0) for p in places if p.direction in directions)

        def rate(*directions: Direction) -> float:
            taken = total(seconds, *directions)
            return 2e-9 * total(work.products, *directions) / taken if taken else 0

        every: tuple[Direction, ...] = "forward", "backward", "neither"
        whole = total(seconds, *every)
        return (
            name,
            _number(1e3 * whole, ",.2f"),
            _number(1e3 * total(seconds, "forward"), ",.2f"),
            _number(1e3 * total(seconds, "backward"), ",.2f"),
            _number(whole / step, ".1%"),
            _number(rate("forward") or rate("neither"), ",.1f"),
            _number(rate("backward"), ",.1f"),
            _number(rate(*every) / peak, ".0%"),
        )

    passes = "forward", "backward"
    if all(place.direction == "neither" for place in seconds):
        passes = "", ""
    yield from _aligned(
        ("", "ms", "ms", "ms", "", "GFLOP/s", "GFLOP/s", ""),
        ("", "", *passes, "share", *passes, "of peak"),
        *(cells(*row) for row in _rows(seconds, work.products, step).items()),
    )
    without = f"without the profiler one took {1e3 * before:,.2f} ms"
    yield f"means over {count} steps; {without}"
    if math.isfinite(peak):
        yield f"peak: {peak:,.0f} GFLOP/s, the fastest {work.dtype} matrix product here"


_IDLE = Place("idle", "neither")


def _rows(
    seconds: Mapping[Place, float], products: Mapping[Place, float], step: float
) -> dict[str, list[Place]]:
    """Return the places of each line: parts, small ones as one, what is around, all."""
    differentiated = any(place.direction != "neither" for place in seconds)
    inner: dict[str, list[Place]] = {}
    outer: dict[str, list[Place]] = {"loss": []}
    places = list(dict.fromkeys((*products, *seconds)))
    for place in places:
        around = not place.part or place is _IDLE
        around |= differentiated and place.direction == "neither"
        name = place.part or ("rest" if place.direction == "neither" else "loss")
        (outer if around else inner).setdefault(name, []).append(place)
    large, small = {}, []
    for name, of_part in inner.items():
        if sum(seconds.get(place, 0) for place in of_part) < _LEAST_SHARE * step:
            small.append(of_part)
        else:
            large[name] = of_part
    others = {f"others ({len(small)})": sum(small, [])} if small else {}
    for name in ("rest", "idle"):  # the last ones
        outer[name] = outer.pop(name, [])
    outer = {name: of for name, of in outer.items() if any(map(seconds.get, of))}
    return {**large, **others, **outer, "total": places}


def _number(value: float, form: str) -> str:
    return "?" if math.isnan(value) else f"{value:{form}}" if value else ""


def _aligned(*rows: tuple[str, ...]) -> Iterator[str]:
    """Yield lines of columns, the first to the left, without those that are empty."""
    columns = [column for column in zip(*rows) if any(column[2:])]
    widths = [max(map(len, column)) for column in columns]
    for name, *cells in zip(*columns):
        numbers = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:]))
        yield "  ".join([f"{name:<{widths[0]}}", *numbers]).rstrip()
