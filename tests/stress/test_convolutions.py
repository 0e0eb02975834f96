"""Random convolutions in every way, the first that the longer script draws.

And whether that script finds what is wrong.
"""

from dataclasses import replace
from itertools import count, islice, product
from types import NoneType

import jax
import numpy as np
import pytest
from jax.lax import Precision

from jcnn.engine import lowering
from jcnn.engine.blocks import Blocks, blocks_of
from jcnn.engine.canonical import canonicalize
from jcnn.engine.planner import ALGORITHMS
from tests.helpers import oracle
from tests.stress.convolutions import __main__ as script
from tests.stress.convolutions.bounds import BOUNDS
from tests.stress.convolutions.checking import check, drawn, errors
from tests.stress.convolutions.definition import Results, by_pytorch, defined
from tests.stress.convolutions.drawing import FOR_ALL, WIDER, Example, channels_last
from tests.stress.convolutions.ways import ways_of

pytestmark = pytest.mark.usefixtures("full_compilation")

EXAMPLES, PART = 200, 50  # the script's docstring names the former


@pytest.mark.stress
@pytest.mark.parametrize("first", range(0, EXAMPLES, PART))
def test_convolutions_are_what_they_must_be(first):
    for number in range(first, first + PART):
        example, random = drawn(0, number)
        wrong = [e for e in check(example, random) if not e.share <= 1]
        assert not wrong, f"{number=}: {wrong} of {example}"
    jax.clear_caches()


def numbers(accept) -> list[int]:
    """The first three examples that are accepted."""
    return list(islice((n for n in count() if accept(drawn(0, n)[0])), 3))


def fails(number: int) -> bool:
    return not all(error.share <= 1 for error in check(*drawn(0, number)))


def perturb(monkeypatch, name: str, factor: float) -> None:
    """Multiplies all that an algorithm computes."""

    def scaled(compute):
        return lambda *arguments: factor * compute(*arguments)

    algorithm = ALGORITHMS[name]
    operations = ("forward", "input_gradient", "kernel_gradient")
    there = {o: f for o in operations if (f := getattr(algorithm, o))}
    off = {o: scaled(f) for o, f in there.items()}
    monkeypatch.setitem(ALGORITHMS, name, replace(algorithm, **off))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_that_is_slightly_off_is_found(name, monkeypatch):
    chosen = numbers(lambda e: e.way == name and e.dtype in ("float32", "float64"))
    assert not any(map(fails, chosen))
    perturb(monkeypatch, name, 1 + 1e-4)
    # Cropping may have left nothing in one, or have given it to another algorithm.
    assert sum(map(fails, chosen)) >= 1


def test_blocks_that_overlap_are_found(monkeypatch):
    """Kernel gradients, where the rest is added twice."""

    def rest(e: Example) -> bool:
        if (e.way, e.positions) != ("im2col", 7) or e.dtype == "bfloat16":
            return False
        canonical = canonicalize(*e.arguments, e.convolution)
        if canonical is None:
            return False
        blocks = blocks_of(canonical.problem, 7)
        rows = canonical.problem.output_size[0]
        return canonical.problem.batch % blocks.images + rows % blocks.rows > 0

    def with_overlap(self, y, index):
        image, row = self._start(index)
        size = (self.images, self.rows, *y.shape[2:])
        start = (image, row, *[np.int32(0)] * (y.ndim - 2))
        return jax.lax.dynamic_slice(y, start, size)

    chosen = numbers(rest)
    assert not any(map(fails, chosen))
    monkeypatch.setattr(Blocks, "_output_block", with_overlap)
    assert any(map(fails, chosen))


def test_one_model_in_the_place_of_all_is_found(monkeypatch):
    def kernels(e: Example) -> bool:
        if e.models is None or e.models.number == 1 or e.way != "im2col":
            return False
        return e.models.axes[1] is not None

    chosen = numbers(kernels)
    assert not any(map(fails, chosen))
    monkeypatch.setattr(lowering, "_at", lambda index, a: a[0])
    assert sum(map(fails, chosen)) >= 2


def test_sums_that_are_not_as_wide_as_the_result_are_found(monkeypatch):
    """The operands' dtype instead of the result's, which comes right all the same."""

    def widened(e: Example) -> bool:
        if e.way in FOR_ALL or (e.dtype, e.result_dtype) != ("float32", "float64"):
            return False
        return ways_of(*e.arguments, e.convolution)[e.way].results[0] == "f"

    def as_narrow(*args):
        result = computed(*args)
        return result.astype("float32").astype(result.dtype)

    chosen, computed = numbers(widened), lowering._by
    assert not any(map(fails, chosen))
    monkeypatch.setattr(lowering, "_by", as_narrow)
    assert sum(map(fails, chosen)) >= 2


def exact(rng):
    """An example, its numbers, and f, gx and gw without an error."""
    example = next(
        e
        for n in count()
        if (e := drawn(0, n)[0]).dtype == "float64"
        and (e.way, e.models) == ("lax", None)
    )
    shapes = (example.lhs, example.rhs, example.result)
    operands = [rng.normal(size=shape) for shape in shapes]
    return example, operands, defined(operands, example.convolution)


@pytest.mark.parametrize("name", Results._fields)
def test_gradients_that_are_no_adjoints_are_found(name, rng):
    example, operands, expected = exact(rng)
    sums = defined(list(map(np.abs, operands)), example.convolution)
    way = ways_of(*example.arguments, example.convolution)["lax"]

    def adjoint(actual: Results) -> float:
        found = errors(example, way, operands, list(actual), expected, sums)
        return next(error.share for error in found if error.what == "adjoint")

    assert adjoint(expected) < 1
    assert adjoint(expected._replace(**{name: getattr(expected, name) * 1.001})) > 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_found(wrong, rng):
    example, operands, expected = exact(rng)
    way = ways_of(*example.arguments, example.convolution)["lax"]
    actual = [a.copy() for a in expected]
    actual[1].flat[0] = wrong
    found = errors(example, way, operands, actual, expected, expected)
    assert not all(error.share <= 1 for error in found)


def test_every_way_has_a_bound_and_is_drawn():
    assert {drawn(0, number)[0].way for number in range(EXAMPLES)} == set(BOUNDS)
    assert set(BOUNDS) == {"auto", "primitive", *ALGORITHMS}


def test_all_kinds_are_drawn():
    examples = [drawn(0, number)[0] for number in range(EXAMPLES)]
    convolutions = [e.convolution for e in examples]
    models = [e.models for e in examples if e.models]
    mapped = {tuple(axis is not None for axis in m.axes) for m in models}
    assert mapped == {(True, True), (True, False), (False, True)}
    assert {(m.number, m.together) for m in models} == set(product((1, 2), (0, 1)))
    assert {type(c.precision) for c in convolutions} == {NoneType, Precision, tuple}
    assert {(e.dtype, e.result_dtype) for e in examples} >= {
        (short, wider) for short, all_ in WIDER.items() for wider in all_
    }
    assert any(c.batch_group_count > 1 < max(c.lhs_dilation) for c in convolutions)


def test_an_example_depends_on_its_number_alone():
    first, second = (list(check(*drawn(0, 17))) for _ in range(2))
    assert first and first == second
    assert drawn(0, 17)[0] != drawn(0, 18)[0] != drawn(1, 18)[0]


def test_both_oracles_are_that_of_the_other_tests(rng):
    pytest.importorskip("torch")
    compared = 0
    for number in range(100):
        example = drawn(2, number)[0]
        c = example.convolution
        if c.batch_group_count > 1 or example.lhs[-1] > 32:
            continue
        if c.dimension_numbers != tuple(channels_last(len(c.padding))):
            continue
        shapes = (example.lhs, example.rhs, example.result)
        x, w, g = operands = [rng.normal(size=shape) for shape in shapes]
        settings = dict(
            groups=c.feature_group_count,
            strides=c.window_strides,
            padding=c.padding,
            kernel_dilation=c.rhs_dilation,
            input_dilation=c.lhs_dilation,
        )
        loops = (
            oracle.conv(x, w, **settings),
            *oracle.conv_gradients(x, w, g, **settings),
        )
        for got in (defined(operands, c), by_pytorch(operands, c)):
            for a, b in zip(got, loops):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
        compared += 1
    assert compared > 20


# --- the script ---


def test_the_script_tells_of_failures(monkeypatch, capsys):
    number = numbers(lambda e: e.way == "matmul" and e.dtype == "float32")[0]
    config = script.Config(examples=1, first=number)
    assert script.main(config) == 0
    assert "1 examples" in capsys.readouterr().out
    perturb(monkeypatch, "matmul", 1.001)
    assert script.main(config) == 1
    text = capsys.readouterr().out
    assert f"--seed 0 --first {number} --examples 1: not within the bounds" in text
    assert str(drawn(0, number)[0]) in text


def test_the_script_names_a_wrong_option(capsys):
    assert script.main(script.Config(examples=0)) == 2
    assert "--examples" in capsys.readouterr().err


def test_what_the_script_says_of_the_tests():
    assert f"first {EXAMPLES} examples" in " ".join(str(script.__doc__).split())
    assert script.Config().examples >= 10 * EXAMPLES
