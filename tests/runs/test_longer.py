"""Runs that are made longer, begin with the weights of others, or repeat options."""

import dataclasses
import enum
import json
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import optax
import pytest

from jcnn import flatten, serial
from jcnn.data import from_arrays
from jcnn.layers import BatchNorm, Conv, Dense
from jcnn.runs import (
    Count,
    OptionError,
    Positive,
    Recipe,
    RunConfig,
    check_config,
    count_steps,
    fit,
    main,
    read_config,
    read_metrics,
    read_weights,
    write_weights,
)
from jcnn.runs.config_json import config_from_json, config_to_json, map_paths
from jcnn.runs.store.folder import read_record
from jcnn.runs.verify.resume import lengthen
from jcnn.train import classification


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    epochs: Count = 2
    batch_size: Count = 8
    features: Count = 3
    rate: Positive = 0.01
    schedule: bool = False
    where: Path = Path("somewhere")


def recipe(config):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 5, 5, 1)).astype(np.uint8)
    data = from_arrays(pixels, np.arange(40) % 3, 3)
    layer = serial(
        conv=Conv(config.features, 3),
        norm=BatchNorm(),
        relu=jax.nn.relu,
        flatten=flatten,
        head=Dense(3),
    )
    rate = config.rate
    if config.schedule:
        steps = count_steps(40, batch_size=config.batch_size, epochs=config.epochs)
        rate = optax.linear_schedule(rate, 0.0, steps)
    losses = classification(layer, lambda images, key: images.astype("float32") / 255)
    return Recipe(layer, optax.adam(rate), *losses, train=data, test=data)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _run(run_dir, *options, **how):
    arguments = [f"--run-dir={run_dir}", *map(str, options)]
    return main(Config, recipe, arguments, fit=partial(fit, report=False, **how))


def _result(run_dir):
    """All that a run leaves, but for times and for the lines of the ends it had."""
    folder = Path(run_dir)
    lines = [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")}
        for line in read_metrics(folder)
    ]
    names = ("params.safetensors", "certificate.jsonl")
    return lines, *((folder / name).read_bytes() for name in names)


def _content(run_dir):
    return {p: p.read_bytes() for p in Path(run_dir).rglob("*") if p.is_file()}


# Longer


def test_a_longer_run_is_the_one_that_was_as_long_from_the_beginning(capsys):
    """Where no schedule depends on the end."""
    assert _run("a") == 0 and _run("a", "--epochs", 4) == 0
    assert (
        "from step 10 of 20 on its schedules are those of a" in capsys.readouterr().err
    )
    assert _run("b", "--epochs", 4) == 0
    assert _result("a") == _result("b")
    # The folder is that of the longer one now.
    assert read_config(Path("a"), Config).epochs == 4
    before = _content("a")
    assert _run("a", "--epochs", 4) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert _content("a") == before


def test_schedules_are_those_of_the_longer_run_from_there_on():
    """Which had another rate at each step before, too."""
    assert _run("a", "--schedule") == 0 and _run("a", "--schedule", "--epochs", 4) == 0
    assert _run("b", "--schedule", "--epochs", 4) == 0
    certificates = [_result(name)[2].splitlines() for name in "ab"]
    assert certificates[0][0] == certificates[1][0]
    assert not set(certificates[0][1:]) & set(certificates[1][1:])
    assert _run("c", "--schedule", "--epochs", 2) == 0
    assert _result("c")[2].splitlines() == certificates[0][:3]


def test_steps_too_can_be_more():
    assert _run("a", "--max-steps", 3) == 0 and _run("a", "--max-steps", 7) == 0
    assert _run("a", "--epochs", 3) == 0
    ends = json.loads(Path("a", "config.json").read_text())["lengthened"]
    assert ends == [
        {"epochs": 2, "max_steps": 3, "step": 3},
        {"epochs": 2, "max_steps": 7, "step": 7},
    ]
    assert _run("b", "--epochs", 3) == 0
    assert _result("a")[1] == _result("b")[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", 1], "10 steps: --epochs and --max-steps must give more, got 5"),
        (["--max-steps", 9], "must give more, got 9"),
        (["--epochs", 3, "--rate", 0.02], "--rate: 0.01 -> 0.02"),
    ],
)
def test_less_or_something_else_is_refused(options, words, capsys):
    assert _run("a") == 0
    before = _content("a")
    assert _run("a", *options) == 2
    assert words in capsys.readouterr().err
    assert _content("a") == before


def test_a_run_that_has_not_ended_keeps_its_end(capsys):
    _stopped("a")
    before = _content("a")
    assert _run("a", "--epochs", 4) == 2
    assert "--epochs: 2 -> 4\n  a run can be made longer when it has" in (
        capsys.readouterr().err
    )
    assert _content("a") == before


def _stopped(run_dir):
    """As if SIGTERM came in the middle of the first epoch."""

    def stop(line):
        if line["step"] == 3 and "interrupted" not in line:
            signal.raise_signal(signal.SIGTERM)

    assert _run(run_dir, steps_per_call=1, on_metrics=stop) == 143


def test_killed_just_after_it_was_made_longer_it_goes_on(capsys):
    assert _run("a") == 0
    record = read_record(Path("a"))
    config = dataclasses.replace(Config(), epochs=4)
    lengthen(Path("a"), record, config, end=10, total=20)
    assert _run("a") == 2  # it is longer now
    assert _run("a", "--epochs", 4) == 0
    assert _run("b", "--epochs", 4) == 0
    assert _result("a") == _result("b")


def test_it_never_goes_back_behind_the_end_it_had(capsys):
    """What was before was not computed by the schedules that there are now."""
    assert _run("a", "--schedule") == 0
    record, config = read_record(Path("a")), Config(epochs=4, schedule=True)
    lengthen(Path("a"), record, config, end=10, total=20)
    shutil.rmtree("a/checkpoints/0000000010")
    before = _content("a")
    assert _run("a", "--schedule", "--epochs", 4) == 2
    assert "made longer after step 10, and there is no checkpoint of then" in (
        capsys.readouterr().err
    )
    assert _content("a") == before


def test_refused_for_other_reasons_it_has_ended_as_before(monkeypatch, capsys):
    assert _run("a") == 0
    before = _content("a")
    with monkeypatch.context() as patch:
        patch.setattr(
            np.random, "default_rng", lambda _, rng=np.random.default_rng: rng(1)
        )
        assert _run("a", "--epochs", 3) == 2
    assert "the data differ from those of" in capsys.readouterr().err
    assert _content("a") == before
    newest = Path("a", "checkpoints", "0000000010")
    for path in (newest / "arrays" / "d").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes(9))
    before = _content("a")
    assert _run("a", "--epochs", 3) == 2
    assert "all checkpoints are damaged" in capsys.readouterr().err
    assert _content("a") == before
    assert _run("a") == 0
    assert "this run is finished" in capsys.readouterr().out


# Other weights


def test_a_run_begins_with_the_weights_of_another(capsys):
    assert _run("a") == 0
    assert _run("b", "--init-from", "a", "--max-steps", 1, "--rate", 1e-30) == 0
    for old, new in zip(*map(_params, "ab")):
        np.testing.assert_array_equal(old, new)
    # Optimizer and step begin anew, and it is recorded what it began with.
    assert read_metrics(Path("b"))[0]["step"] == 1
    kept = read_weights(Path("b", "init.safetensors"))
    assert _leaves(kept) == _leaves(read_weights(Path("a", "params.safetensors")))
    # Which is enough to go on.
    shutil.rmtree("a")
    options = ["--init-from", "a", "--rate", 1e-30]
    assert _run("b", *options, "--max-steps", 2) == 0


def _params(run_dir):
    params, _ = read_weights(Path(run_dir, "params.safetensors"))
    return jax.tree.leaves(params)


def _leaves(tree):
    leaves, structure = jax.tree.flatten(tree)
    return [leaf.tobytes() for leaf in leaves], structure


def test_other_weights_change_what_is_computed():
    assert _run("a") == 0 and _run("b", "--init-from", "a") == 0
    assert _result("a")[2] != _result("b")[2]
    assert _run("c", "--init-from", "a") == 0
    assert _result("b") == _result("c")


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (None, ["No such file or directory: 'a/params.safetensors'"]),
        (
            lambda params, state: params["head"].pop("bias"),
            ["is of another model:", "params/head/bias: none -> float32[3]"],
        ),
        (
            lambda params, state: params.update(more=np.ones(2, np.float16)),
            ["is of another model:", "params/more: float16[2] -> none"],
        ),
        (
            lambda params, state: state["norm"].update(mean=np.ones(4, np.float32)),
            ["is of another model:", "state/norm/mean: float32[4] -> float32[3]"],
        ),
    ],
)
def test_weights_of_another_model_are_refused_by_name(change, lines, capsys):
    assert _run("a") == 0
    path = Path("a", "params.safetensors")
    params, state = read_weights(path)
    path.unlink()
    if change is not None:
        change(params, state)
        write_weights(path, params, state)
    capsys.readouterr()
    assert _run("b", "--init-from", "a") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --init-from: ")
    assert [line in error for line in lines] == [True] * len(lines)
    assert error.count("\n") == len(lines)
    assert not Path("b").exists()


# Options


def test_options_are_those_that_were_recorded(capsys):
    assert _run("a", "--features", 2, "--rate", 0.3, "--where", "~/x") == 0
    assert _run("a", "--as-recorded") == 0
    assert "this run is finished" in capsys.readouterr().out
    assert _run("a", "--as-recorded", "--epochs", 3) == 0
    config = read_config(Path("a"), Config)
    assert (config.features, config.rate, config.epochs) == (2, 0.3, 3)
    assert config.where == Path.home() / "x"
    assert _run("a", "--as-recorded", "--features", 3) == 2
    assert "--features: 2 -> 3" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--run-dir=nowhere"]])
def test_without_a_record_there_are_no_recorded_options(options, capsys):
    assert main(Config, recipe, ["--as-recorded", *options]) == 2
    assert capsys.readouterr().err == (
        "error: --as-recorded: --run-dir must be the folder of a run\n"
    )


def test_paths_of_one_place_are_the_same(tmp_path):
    assert _run("a", "--where", "data") == 0
    (tmp_path / "link").symlink_to(tmp_path)
    for other in (tmp_path / "data", "./x/../data", tmp_path / "link" / "data"):
        assert _run(tmp_path / "a", "--where", other) == 0
    assert _run("a", "--where", "data2") == 2


class Activation(enum.Enum):
    RELU = "relu"
    GELU = "gelu"


@dataclasses.dataclass(frozen=True)
class Adam:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Sgd:
    rate: float = 0.1
    momentum: float | None = None


@dataclasses.dataclass(frozen=True)
class Many(RunConfig):
    activation: Activation = Activation.RELU
    several: tuple[Activation, ...] = ()
    flag: bool | None = None
    text: str | None = "a b --x"
    number: int | float = 3
    optimizer: Adam | Sgd = Adam()
    other: Sgd | None = None
    all: tuple[Adam | Sgd, ...] = (Adam(), Sgd())
    pair: tuple[int, str] = (1, "a")
    sizes: list[int] = dataclasses.field(default_factory=list)
    named: dict[str, float] = dataclasses.field(default_factory=dict)
    either: Literal["a", 3] = "a"
    bounded: Annotated[tuple[float, ...], "a note"] = (0.5,)
    folder: Path | None = None


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"activation": Activation.GELU, "several": (Activation.RELU,) * 2},
        {"flag": False, "text": None, "number": 3.0},
        {"optimizer": Sgd(0.2), "other": Sgd(0.3, 0.4), "all": (Sgd(), Adam(), Sgd())},
        {
            "sizes": [3, 4],
            "named": {"a": 1.5},
            "either": 3,
            "bounded": (1e-300, -1 / 3),
        },
        {"folder": Path("a b"), "pair": (-1, "~/x")},
    ],
)
def test_options_of_any_kind_come_back_from_json(values):
    config = Many(**values)
    check_config(config)
    text = json.dumps(config_to_json(config), allow_nan=False)
    again = config_from_json(Many, json.loads(text))
    assert again == config
    assert [type(x) for x in jax.tree.leaves(dataclasses.astuple(again))] == [
        type(x) for x in jax.tree.leaves(dataclasses.astuple(config))
    ]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (frozenset, frozenset({1})),
        (complex, 1j),
        (tuple[float, ...], (float("nan"),)),
        (Adam, Sgd()),
        (object, 3),
    ],
)
def test_options_that_would_not_come_back_are_refused_by_name(annotation, value):
    odd = dataclasses.make_dataclass("Odd", [("odd_one", annotation)], frozen=True)
    with pytest.raises(OptionError, match="^--odd-one: .* cannot be kept in config.js"):
        config_to_json(odd(value))


def test_what_is_no_field_cannot_be_an_option(capsys):
    @dataclasses.dataclass(frozen=True)
    class Odd(RunConfig):
        scale: dataclasses.InitVar[float] = 1.0

    assert main(Odd, recipe, ["--scale=3", "--run-dir=a"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --scale: an InitVar cannot be an option; a field can\n"
    assert not Path("a").exists()


def test_what_is_computed_of_options_is_no_option():
    @dataclasses.dataclass(frozen=True)
    class Halved(Many):
        half: float = dataclasses.field(init=False, default=0)

        def __post_init__(self):
            object.__setattr__(self, "half", self.number / 2)

    config = Halved(number=5)
    values = config_to_json(config)
    assert "half" not in values and config_from_json(Halved, values).half == 2.5
    assert map_paths(lambda p: p, config) == config


def test_what_was_not_an_option_yet_has_its_default():
    values = config_to_json(Many())
    del values["either"], values["folder"]
    assert config_from_json(Many, values) == Many()
    with pytest.raises(ValueError, match="has no \\['speed'\\]"):
        config_from_json(Many, values | {"speed": 3})


def test_a_choice_that_there_is_not_is_refused_with_those_there_are():
    wanted = "^impl: 'tuned.json' is not allowed: .*'auto', 'lax'"
    with pytest.raises(ValueError, match=wanted):
        config_from_json(RunConfig, {"impl": "tuned.json"})


def test_paths_are_found_at_any_depth():
    config = Many(folder=Path("a"), other=Sgd())
    assert map_paths(lambda p: p / "b", config).folder == Path("a", "b")
    assert map_paths(lambda p: p, config) == config
