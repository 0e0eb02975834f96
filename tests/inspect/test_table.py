"""The table of a model's parts, in terminals of several widths."""

import io
import sys

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from jcnn import summarize
from jcnn.inspect import print_table
from jcnn.inspect.summary import Row
from jcnn.inspect.table import model_table
from jcnn.models import resnet20


def _lines(rows, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(model_table(rows, width))
    return console.file.getvalue().splitlines()  # pyright: ignore


@pytest.mark.parametrize("width", (80, 100))
def test_the_table_of_a_deep_model_fits_and_sums_up(width):
    rows = summarize(resnet20(), jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32))
    lines = _lines(rows, width)
    assert max(map(len, lines)) <= width
    assert all(sum(row.name in line for line in lines) == 1 for row in rows[:-1])
    total = next(line for line in lines if line.startswith("total")).split()
    products = sum(r.multiply_adds for r in rows)
    assert total[1:3] == ["272,474", f"{products:,}"]
    if width == 100:
        assert total[3:] == [f"{sum(r.output_bytes for r in rows):,}"]
        for row in rows[:4]:
            (line,) = (line for line in lines if row.name in line)
            assert line.split()[-1] == "65,536" and row.algorithm in line


def test_no_digit_of_a_table_is_lost_in_40_columns():
    rows = [Row("stage1/[conv]", (32, 32, 16), 1_234_567, 9_876_543_210, (123, 123))]
    lines = _lines(rows, 40)
    inside = "".join(lines)
    assert max(map(len, lines)) <= 40 and "…" not in inside
    total = ["1234567", "9876543210"]  # as of the one part
    expected = "".join(["1", "32", "32", "16", *total, "123", "123", *total])
    assert sorted(filter(str.isdigit, inside)) == sorted(expected)
    assert "[" in inside and "]" in inside


def test_what_is_not_known_is_a_question_mark():
    lines = _lines([Row("a", None, 5, None, (None, 3), 20)], 80)
    assert lines[-3].split() == ["a", "?", "5", "?", "?x3", "?"]
    assert lines[-1].split() == ["total", "5", "?", "?"]
    assert not any("algorithm" in line for line in lines)  # a GPU's
    assert _lines([], 80)[-1].split() == ["total", "0", "0", "0"]


def test_without_rich_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ModuleNotFoundError, match="it belongs to jcnn's extra"):
        print_table([])
