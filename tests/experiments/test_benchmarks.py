"""The benchmarks' own arithmetic and tables, and the peers that they measure."""

from importlib import import_module

import jax
import pytest

from experiments.benchmarks import accelerate, rounds, scale, step
from experiments.benchmarks.memory import temporary
from experiments.benchmarks.peers import PEERS, Peer
from experiments.benchmarks.report import ratio, table
from experiments.benchmarks.rounds import Job
from experiments.benchmarks.shapes import Shape
from experiments.benchmarks.worker import Sample
from jcnn import flatten, serial
from jcnn.layers import BatchNorm, Conv, Dense

FAST = Sample(1.5, 2.0, 10.0, 20.0, 824458, 2.5, 0.5)
SLOW = Sample(0.5, 4.0, 12.0, 50.0, 824458, 2.25, 1.0)


def _cells(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines()]


def test_a_table_has_cells_for_each_column():
    assert table(["a", "b"], [["1", "2"]]).splitlines() == [
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
    ]
    with pytest.raises(ValueError, match="2 cells"):
        table(["a", "b"], [["1", "2"], ["3"]])


def test_steps_are_compared_with_jcnns_and_compilation_with_jaxs():
    _, _, *rows = _cells(step.results_table("vgg", {"jcnn": FAST, "jax": SLOW}))
    jcnn, jax_ = rows
    assert jcnn[:6] == ["jcnn", "10.0 / 20.0", "1.00", "2.00", "0.50", "1.50"]
    assert jax_[:6] == ["jax", "12.0 / 50.0", "2.50", "4.00", "1.00", "0.50"]
    assert jcnn[6:] == ["824,458", "2.500 → 0.500"]


def test_nothing_is_compared_with_a_peer_that_is_not_there():
    text = step.results_table("vgg", {"torch": SLOW})
    assert "| torch | 12.0 / 50.0 |  | 4.00 |  | 0.50 |" in text
    assert ratio(3.0, None) == ""


def test_peers_that_differ_or_do_not_learn_are_named():
    assert step.faults({"jcnn": FAST, "jax": SLOW}) == []
    smaller = SLOW._replace(parameters=5)
    assert "numbers of parameters" in step.faults({"jcnn": FAST, "jax": smaller})[0]
    for last_loss in (2.25, float("nan")):
        stuck = SLOW._replace(last_loss=last_loss)
        assert step.faults({"jcnn": FAST, "jax": stuck}) == ["jax's loss does not fall"]


def test_rounds_give_the_least_minimum_and_medians():
    third = FAST._replace(minimum_ms=11.0, median_ms=30.0, first_s=9.0)
    together = rounds.over_rounds([FAST, third, SLOW])
    assert together == Sample(1.5, 4.0, 10.0, 30.0, 824458, 2.5, 0.5)


def test_a_job_that_fails_is_left_out_with_its_reason(monkeypatch, capsys):
    bad = Job("jax", "no such model")
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        rounds.sample_in_turn([bad], rounds=0, seconds=0.0)
    assert rounds.sample_in_turn([bad], rounds=2, seconds=0.0) == {}
    output = capsys.readouterr().out
    assert output == "jax no such model failed: KeyError: 'no such model'\n\n"


def test_with_and_without_stand_in_one_row():
    samples = {
        Job("keras", "vgg"): SLOW,
        Job("keras", "vgg", True): FAST,
        Job("keras", "mnist"): FAST,
        Job("equinox", "vgg", True): FAST,  # its other half failed
    }
    _, _, row = _cells(accelerate.results_table(samples))
    assert row[:5] == ["keras", "vgg", "12.0 / 50.0", "10.0 / 20.0", "2.50"]
    assert row[5:] == ["4.00", "2.00", "1.0000", "0.5000"]


def test_memory_is_that_of_temporary_arrays():
    shape = Shape(2, (32, 32), 8, 8, 3)
    patches = 2 * 32 * 32 * 3 * 3 * 8 * 4 / 2**20
    assert patches <= temporary(shape, "f", "im2col") < 4 * patches
    assert temporary(shape, "f", "lax") < patches


def test_peers_that_are_not_installed_are_named(monkeypatch, capsys):
    monkeypatch.setitem(PEERS, "keras", Peer("keras_", "no_such_package"))
    assert rounds.those_installed(["keras", "jax"]) == ["jax"]
    output = capsys.readouterr().out
    assert output == "keras is left out: no_such_package is not installed.\n\n"


# The others take seconds to import or compile; `step` checks the same of all.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["jcnn", "jax", "flax_nnx"])
def test_a_peer_learns_a_tiny_batch_with_as_many_parameters(name, dtype):
    if not PEERS[name].installed:
        pytest.skip(f"{PEERS[name].package} is not installed")
    peer = import_module(f"experiments.benchmarks.peers.{PEERS[name].module}")
    with jax.numpy_rank_promotion("allow"):  # optax and Flax need it
        its_step = peer.make("mnist", 4, dtype)
        losses = [its_step.run() for _ in range(12)]
    convolutions = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 64
    assert its_step.parameters == convolutions + (3136 + 1) * 256 + (256 + 1) * 10
    assert losses[-1] < 0.5 * losses[0]


def test_a_step_computes_and_sends_what_the_formula_says():
    """Without padding, whose products XLA leaves out."""
    parts = {
        f"{kind}{i}": part
        for i in (1, 2)
        for kind, part in {
            "conv": Conv(64, 3, padding="VALID", use_bias=False, impl="lax"),
            "norm": BatchNorm(),
        }.items()
    }
    layer = serial(**parts, flatten=flatten, head=Dense(10, use_bias=False))
    image = jax.ShapeDtypeStruct((2, 10, 10, 16), "float32")
    flops, sent = scale.by_formula(layer, image)
    for devices in (1, 2):
        program = scale.compiled(layer, image, devices)
        assert 0.98 < scale.cost(program)["flops"] / flops < 1.05
        summed = [*scale.summed(program.as_text() or "")]
        assert (not summed) if devices == 1 else 0.99 < sum(summed) / sent < 1.01
