"""Sweeps: members, training together against one by one, resuming, results."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import pytest

from jcnn import flatten, serial
from jcnn.data import from_arrays
from jcnn.layers import BatchNorm, Conv, Dense, Dropout
from jcnn.runs import (
    AdamW,
    Count,
    Optimizer,
    OptionError,
    Rate,
    Recipe,
    RunConfig,
    fit,
    load,
    main,
    read_metrics,
    read_weights,
)
from jcnn.runs.sweep.members import Sweep, make_members, parse, varied, why_apart
from jcnn.runs.sweep.stacked import fit_together
from jcnn.train import classification

quick = partial(fit, report=False)


@dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 2
    batch_size: Count = 8
    dropout: Rate = 0.2
    width: Count = 3
    optimizer: Optimizer = AdamW(learning_rate=0.01)


def recipe(config: Config) -> Recipe:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 6, 6, 1)).astype(np.uint8)
    data = from_arrays(pixels, np.arange(24) % 3, 3)
    layer = serial(
        conv=Conv(config.width, 3, use_bias=False),  # Adam: not by the sign of noise
        norm=BatchNorm(),
        relu=jax.nn.relu,
        flatten=flatten,
        drop=Dropout(config.dropout),
        head=Dense(3),
    )
    losses = classification(layer, lambda images, key: images.astype("float32") / 255)
    return Recipe(layer, config.optimizer, *losses, train=data, test=data)


def sweep(folder, *options, status=0):
    arguments = ["sweep", "--run-dir", str(folder), "--threads", "2", *options]
    assert main(Config, recipe, arguments, fit=quick) == status


GRID = ["--seeds", "2", "--grid", "optimizer.learning-rate=0.01,0.05"]
MEMBERS = [
    f"learning-rate={rate},seed={seed}" for rate in ("0.01", "0.05") for seed in (0, 1)
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same members, trained together and one after the other."""
    folders = {}
    for way in ("always", "never"):
        folders[way] = tmp_path_factory.mktemp(way) / "sweep"
        sweep(folders[way], *GRID, "--together", way)
    return folders


@pytest.mark.parametrize("name", MEMBERS)
def test_members_trained_together_are_those_trained_alone(name, both):
    together, alone = (
        read_weights(both[way] / name / "params.safetensors") for way in both
    )
    assert jax.tree.structure(together) == jax.tree.structure(alone)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    lines = [read_metrics(both[way] / name) for way in both]
    assert lines[0][-1]["test_loss"] == pytest.approx(
        lines[1][-1]["test_loss"], rel=1e-3
    )
    assert lines[0][-1]["test_accuracy"] == lines[1][-1]["test_accuracy"]
    assert lines[0][-1]["step"] == lines[1][-1]["step"] == 6


def test_networks_of_members_can_be_used(both):
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 1)).astype(np.uint8)
    a, b = (load(both[way] / MEMBERS[0]).logits(images) for way in both)
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert np.ptp(a) > 0


def test_members_differ(both):
    kernels = [
        np.asarray(
            read_weights(both["always"] / name / "params.safetensors")[0]["head"][
                "kernel"
            ]
        )
        for name in MEMBERS
    ]
    for i, a in enumerate(kernels):
        assert not any(np.allclose(a, b, atol=1e-3) for b in kernels[:i])


def test_results_are_means_over_the_seeds(both):
    for folder in both.values():
        rows = json.loads((folder / "results.json").read_text())
        assert [row["options"]["optimizer.learning-rate"] for row in rows] == [
            "0.01",
            "0.05",
        ]
        for row, names in zip(rows, (MEMBERS[:2], MEMBERS[2:]), strict=True):
            found = [read_metrics(folder / name)[-1]["test_accuracy"] for name in names]
            assert row["test_accuracy"] == found
            assert row["mean"] == pytest.approx(np.mean(found))
            assert row["deviation"] == pytest.approx(np.std(found, ddof=1))
            assert row["failed"] == 0


def test_long_runs_of_large_steps_are_trained_alone(tmp_path, capsys, monkeypatch):
    def trained(name):
        sweep(tmp_path / name, "--seeds", "2", "--epochs", "1", "--max-steps", "2")
        return capsys.readouterr().out

    assert "2 runs are trained together" in trained("small")
    monkeypatch.setattr("jcnn.runs.sweep.command.TINY_STEP", 100)
    assert "2 runs are trained together" in trained("short")
    monkeypatch.setattr("jcnn.runs.sweep.command.SHORT_RUN", 100)
    work = 8 * (36 * 9 * 3 + 108 * 3)  # a step's: the convolution, and the head
    words = " ".join(trained("large").split())
    assert f"one after the other: 2 steps of {work:,} multiply-adds" in words


def test_paths_of_all_members_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = set()

    def spy(config):
        seen.add(config.data_dir)
        return recipe(config)

    options = ["--data-dir", "~/sets", "--run-dir", "~/s", "--max-steps", "1"]
    assert main(Config, spy, ["sweep", "--seeds", "2", *options], fit=quick) == 0
    assert seen == {tmp_path / "sets"} and (tmp_path / "s" / "results.json").exists()


def test_a_finished_sweep_is_not_trained_again(both, capsys):
    before = (both["always"] / MEMBERS[0] / "params.safetensors").stat().st_mtime_ns
    sweep(both["always"], *GRID, "--together", "always")
    assert (
        both["always"] / MEMBERS[0] / "params.safetensors"
    ).stat().st_mtime_ns == before
    assert "test accuracy" in capsys.readouterr().out


def test_other_members_need_another_folder(both, capsys):
    sweep(both["always"], "--seeds", "3", status=2)
    assert "holds a sweep with other members" in capsys.readouterr().err


class Stop(Exception):
    pass


def test_a_sweep_that_was_stopped_goes_on(both, tmp_path, monkeypatch):
    """After its first epoch, by a checkpoint; with the same bytes in the end."""
    from jcnn.runs.store.record import Record

    whole = Record.save

    def save(self, *given, **how):
        whole(self, *given, **how)
        self.wait()
        raise Stop

    folder = tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patch.setattr(Record, "save", save)
        patch.setattr(Record, "due", lambda self: True)
        with pytest.raises(Stop):
            sweep(folder, *GRID, "--together", "always")
    assert not (folder / MEMBERS[0] / "params.safetensors").exists()
    sweep(folder, *GRID, "--together", "always")
    for name in MEMBERS:
        found = (folder / name / "params.safetensors").read_bytes()
        assert found == (both["always"] / name / "params.safetensors").read_bytes()


def test_a_member_that_is_not_finite_harms_no_other(both, tmp_path):
    folder = tmp_path / "sweep"
    rates = "optimizer.learning-rate=0.01,1e38"
    sweep(folder, "--seeds", "2", "--grid", rates, "--together", "always", status=1)
    rows = json.loads((folder / "results.json").read_text())
    assert [row["failed"] for row in rows] == [0, 2]
    found = read_weights(folder / MEMBERS[0] / "params.safetensors")
    expected = read_weights(both["always"] / MEMBERS[0] / "params.safetensors")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--grid", "width=2,3"], "they differ in width"),
        (["--grid", "optimizer.warmup=0.1,0.5"], "optimizer.warmup"),
        (["--validation", "0.25"], "its own validation split"),
        (["--grid", "ema-decay=0.5,0.9"], "they differ in ema_decay"),
        (["--not-finite", "skip"], "each skips its own steps"),
        (["--certify-every", "2"], "each has its own certificate"),
        (["--test-each-epoch"], "each is tested after each epoch"),
    ],
)
def test_what_cannot_be_stacked_is_trained_apart(options, reason, tmp_path, capsys):
    sweep(tmp_path / "a", "--seeds", "1", "--epochs", "1", *options)
    said = capsys.readouterr().out
    assert "one after the other" in said and reason in said
    sweep(tmp_path / "b", "--together", "always", *options, status=2)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def _shuffled_by_seed(config):
    made = recipe(config)
    order = np.random.default_rng(config.seed).permutation(24)
    data = from_arrays(made.train.image[order], made.train.label[order], 3)
    return made._replace(train=data)


@pytest.mark.parametrize(
    "make, reason",
    [
        (_shuffled_by_seed, "their data differ"),
        (lambda c: recipe(c)._replace(validation=recipe(c).test), "validated"),
        (lambda c: recipe(c)._replace(draw=lambda *_: None), "draws pictures"),
    ],
)
def test_recipes_that_cannot_be_stacked_are_trained_apart(
    make, reason, tmp_path, capsys
):
    options = ["sweep", "--seeds", "2", "--max-steps", "1", "--run-dir", str(tmp_path)]
    assert main(Config, make, [*options, "--together", "always"], fit=quick) == 2
    assert reason in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_sweep_resumes_with_its_own_source_only(tmp_path, capsys):
    sweep(tmp_path / "s", "--seeds", "2", "--max-steps", "1")
    path = tmp_path / "s" / "source.json"
    source = json.loads(path.read_text())
    file = next(f for f in source["files"].values() if f["text"])
    file["text"] += "# another line\n"
    file["sha256"] = hashlib.sha256(file["text"].encode()).hexdigest()
    path.write_text(json.dumps(source))
    sweep(tmp_path / "s", "--seeds", "2", "--max-steps", "1")  # it has ended
    (tmp_path / "s" / "seed=1" / "metrics.jsonl").unlink()
    options = ["--seeds", "2", "--max-steps", "1"]
    sweep(tmp_path / "s", *options, status=2)
    error = capsys.readouterr().err
    assert "the source is not that" in error and "# another line" in error
    sweep(tmp_path / "s", *options, "--accept-source")
    assert (tmp_path / "s" / "seed=1" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--begin-anew"], "--begin-anew is for single runs only"),
        (["--profile"], "--profile is for single runs only"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--grid", "dropout"], "--grid must be OPTION=VALUE,VALUE"),
        (["--grid", "dropout=0.1,0.1"], "--grid must give each value once"),
        (["--grid", "dropout=0.1,0.10"], "--grid must give each value once"),
        (["--grid", "dropout=0.1", "--grid=dropout=0.2"], "dropout is given twice"),
        (["--grid", "seed=5,9"], "--grid: seed cannot be varied"),
        (["--grid", "run_dir=a,b"], "--grid: run-dir cannot be varied"),
        (["--grid", "dropout=0.1,1.5"], "--dropout must be at least 0"),
        (["--epochs", "0"], "--epochs must be at least 1"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(
    options, words, tmp_path, capsys
):
    sweep(tmp_path / "sweep", *options, status=2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_an_option_that_does_not_exist_ends_the_program(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        sweep(tmp_path / "sweep", "--grid", "droput=0.1")
    assert end.value.code == 2


def test_all_combinations_are_members():
    asked = Sweep(2, [("dropout", ["0.1", "0.3"]), ("width", ["2"])], "auto", [])

    def read(arguments):
        values = dict(zip(arguments[::2], arguments[1::2], strict=True))
        return Config(
            seed=7,
            dropout=float(values.get("--dropout", 0.2)),
            width=int(values.get("--width", 3)),
        )

    members = make_members(asked, read)
    assert [(m.config.dropout, m.config.width, m.config.seed) for m in members] == [
        (0.1, 2, 7),
        (0.1, 2, 8),
        (0.3, 2, 7),
        (0.3, 2, 8),
    ]
    assert members[0].name == "dropout=0.1,width=2,seed=7"
    assert varied([m.config for m in members]) == {"dropout": [0.1, 0.1, 0.3, 0.3]}


def test_optimizers_of_two_kinds_are_not_stacked():
    from jcnn.runs import SGD

    configs = [Config(), dataclasses.replace(Config(), optimizer=SGD())]
    assert why_apart(configs) == "they differ in optimizer"


def test_the_rest_of_the_command_line_is_the_experiments():
    found = parse(["--epochs", "3", "--seeds=4", "optimizer:sgd"], "digits")
    assert found == Sweep(4, [], "auto", ["--epochs", "3", "optimizer:sgd"])
    with pytest.raises(OptionError, match="--grid"):
        parse(["--grid", "a=1,,2"], "digits")


def test_two_members_of_one_seed_are_the_same_to_the_bit(tmp_path):
    configs = [Config(seed=3), Config(seed=3)]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in (*folders, tmp_path / "all"):
        folder.mkdir()

    def make(config):
        from jcnn.runs import check_recipe
        from jcnn.runs.recipe import with_num_steps

        return check_recipe(with_num_steps(recipe(config), 6), batch_size=8)

    recipes = [make(config) for config in configs]
    assert fit_together(configs, recipes, make, tmp_path / "all", folders) is None
    a, b = ((f / "params.safetensors").read_bytes() for f in folders)
    assert a == b
