"""The page of a run: its numbers against NumPy, hostile texts, and what is missing."""

import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser
from statistics import mean, stdev

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import digits
from jcnn import global_avg_pool, serial, summarize
from jcnn.__main__ import main as jcnn_main
from jcnn.data import Dataset
from jcnn.inspect import grad_cam, input_gradient
from jcnn.layers import Conv, Dense
from jcnn.runs import Recipe, main, read_metrics, read_weights
from jcnn.runs.check import check_recipe
from jcnn.runs.report.comparison import (
    differing_options,
    final_metrics,
    results,
    spreads,
)
from jcnn.runs.report.contents import collect, read_contents, write_contents
from jcnn.runs.report.page import write_page
from jcnn.runs.report.run import find_runs, read_run
from jcnn.train import classification, create

EVIL = "</script><img src=x onerror=alert(1)>&\"'\u2028"


def _prepare(images, key):
    return images.astype("float32") / 255


def _recipe(layer, labels, num_classes=3, names=None, size=(6, 6)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), *size, 1)).astype(np.uint8)
    data = Dataset(images, np.asarray(labels, np.int32), num_classes, names)
    losses = classification(layer, _prepare)
    recipe = Recipe(layer, optax.sgd(0.1), *losses, train=data, test=data)
    return check_recipe(recipe, batch_size=4)


def _collected(layer, labels, **how):
    recipe = _recipe(layer, labels, **how)
    inputs = _prepare(recipe.test.image[:1], None)
    state = create(layer, recipe.tx, jax.random.key(1), inputs)
    return recipe, state, collect(recipe, state, summarize(layer, inputs))


@pytest.fixture(scope="module")
def classifier():
    layer = serial(
        conv=Conv(4, 3), relu=jax.nn.relu, mean=global_avg_pool, head=Dense(3)
    )
    labels = np.random.default_rng(1).integers(0, 3, 1203)  # several batches
    return _collected(layer, labels, names=("zero", "one", EVIL))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of digits, two of them with other seeds alone."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {
        "a": ["--seed", "0"],
        "b": ["--seed", "1"],
        "c": ["--batch-size", "32"],
    }.items():
        options += ["--epochs", "2", "--run-dir", str(folder / name)]
        assert main(digits.Config, digits.recipe, options) == 0
    return folder


class _Page(HTMLParser):
    """Elements, texts, and attributes of a page."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.links, self.inside = [], [], [], None
        self.handlers = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.inside = tag
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.texts.append(data)


def _change_facts(run, **facts):
    contents = read_contents(run / "report.safetensors")
    write_contents(run, contents._replace(facts=contents.facts | facts))


def _change_last(run, **values):
    *lines, last = (run / "metrics.jsonl").read_text().splitlines()
    lines.append(json.dumps(json.loads(last) | values))
    (run / "metrics.jsonl").write_text("\n".join([*lines, ""]))


# The contents


def test_confusion_and_calibration_are_those_of_a_loop(classifier):
    recipe, state, contents = classifier
    x = _prepare(jnp.asarray(recipe.test.image), None)
    logits, _ = recipe.layer.apply(state.params, state.model_state, x)
    logits = np.asarray(logits, np.float64)
    matrix, bins = np.zeros((3, 3), int), np.zeros((10, 3))
    wrong = []
    for index, (row, label) in enumerate(zip(logits, recipe.test.label)):
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        found = int(row.argmax())
        matrix[label, found] += 1
        bins[int(10 * probabilities[found])] += 1, probabilities[found], found == label
        if found != label:
            wrong.append((probabilities[found], index))
    assert np.array_equal(contents.arrays["matrix"], matrix)
    np.testing.assert_allclose(contents.arrays["calibration"], bins, rtol=1e-5)
    shown = contents.arrays["mistakes/probabilities"]
    wrong.sort(reverse=True)
    np.testing.assert_allclose(shown, [p for p, _ in wrong[:24]], rtol=1e-5)
    first = recipe.test.image[wrong[0][1]]
    assert np.array_equal(contents.arrays["mistakes/images"][0], first)


def test_examples_are_explained_by_the_functions_of_jcnn_inspect(classifier):
    recipe, state, contents = classifier
    arrays, facts = contents.arrays, contents.facts
    x = _prepare(jnp.asarray(arrays["examples/images"]), None)
    classes = arrays["examples/predictions"]

    def scores(x):
        return recipe.layer.apply(state.params, state.model_state, x)[0]

    assert facts["cam"] == "relu" and facts["missing"] == []
    for name, expected in {
        "examples/grad_cam": grad_cam(scores, x, classes, "relu"),
        "examples/input_gradient": input_gradient(scores, x, classes),
    }.items():
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(arrays[name], expected, rtol=1e-4, atol=1e-6)
    maps = [name for name in arrays if name.startswith("maps/")]
    assert maps == ["maps/00 conv", "maps/01 relu"]
    kernel = state.params["conv"]["kernel"]
    expected = jax.lax.conv_general_dilated(
        x[:1], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = arrays["maps/00 conv"] - np.asarray(state.params["conv"]["bias"])
    np.testing.assert_allclose(found, expected[0], rtol=1e-4, atol=1e-5)


def test_of_large_feature_maps_some_pixels_are_kept():
    layer = serial(conv=Conv(4, 3), mean=global_avg_pool, head=Dense(3))
    _, _, contents = _collected(layer, [0, 1, 2, 0], size=(130, 70))
    (kept,) = (a for name, a in contents.arrays.items() if name.startswith("maps/"))
    assert kept.shape == (44, 24, 4) and np.unique(kept).size > 1000


def test_pixels_with_labels_get_a_confusion_matrix_of_pixels():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (7, 6, 6))
    recipe, state, contents = _collected(Conv(2, 3), labels, num_classes=2)
    x = _prepare(jnp.asarray(recipe.test.image), None)
    y, _ = recipe.layer.apply(state.params, state.model_state, x)
    found = np.asarray(y).argmax(-1)
    expected = [[((labels == i) & (found == j)).sum() for j in (0, 1)] for i in (0, 1)]
    assert np.array_equal(contents.arrays["matrix"], expected)
    assert "calibration" not in contents.arrays
    assert "mistakes/images" not in contents.arrays


def test_what_fails_is_said_and_the_rest_is_there():
    layer = serial(conv=Conv(2, 3), mean=global_avg_pool, head=Dense(3))

    def broken(x):
        if x.shape[0] == 1:
            raise RuntimeError("one is too few")
        return x

    recipe, state, _ = _collected(layer, np.arange(30) % 3)
    broken_layer = serial(
        conv=Conv(2, 3), odd=broken, mean=global_avg_pool, head=Dense(3)
    )
    contents = collect(recipe._replace(layer=broken_layer), state, [])
    (missing,) = contents.facts["missing"]
    assert missing.startswith("feature maps: odd: one is too few")
    assert contents.arrays["matrix"].sum() == 30


def test_contents_are_read_as_written_and_damage_is_told(classifier, tmp_path):
    _, _, contents = classifier
    write_contents(tmp_path, contents)
    path = tmp_path / "report.safetensors"
    found = read_contents(path)
    assert found.facts == json.loads(json.dumps(contents.facts))
    assert found.arrays.keys() == contents.arrays.keys()
    for name, array in contents.arrays.items():
        assert np.array_equal(found.arrays[name], array)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="report.safetensors is damaged"):
        read_contents(path)


# The page


def test_a_run_writes_its_page_which_has_its_numbers(runs):
    page = _Page(runs / "a" / "report.html")
    *_, last = read_metrics(runs / "a")
    texts = " ".join(page.texts)
    assert f"{last['test_accuracy']:.2%}" in texts
    contents = read_contents(runs / "a" / "report.safetensors")
    assert contents.facts["missing"] == []
    matrix = contents.arrays["matrix"]
    assert matrix.trace() / matrix.sum() == pytest.approx(last["test_accuracy"])
    mistakes = len(contents.arrays["mistakes/labels"])
    assert f"{mistakes} of {matrix.sum() - matrix.trace()}." in texts
    params, _ = read_weights(runs / "a" / "params.safetensors")
    parameters = sum(array.size for array in jax.tree.leaves(params))
    total = page.texts.index("total")
    assert f"{parameters:,}" in page.texts[total : total + 6]
    for heading in (
        "Final numbers",
        "Curves",
        "Classes",
        "Most confident mistakes",
        "What predictions depend on",
        "Filters of conv1",
        "Feature maps of an example",
        "Model",
        "Reproduce",
    ):
        assert heading in page.texts
    assert "Missing" not in page.texts
    assert (runs / "a" / "report.html").stat().st_size < 5e6


def test_the_curves_are_those_of_the_metrics(runs):
    text = (runs / "a" / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    charts = {chart["title"]: chart for chart in json.loads(found[1])}
    lines = read_metrics(runs / "a")
    by_split = {c["split"]: c for c in charts["accuracy (%)"]["curves"]}
    expected = [100 * line["epoch_accuracy"] for line in lines if "epoch_loss" in line]
    assert by_split["train"]["y"] == pytest.approx(expected) and len(expected) == 2
    assert by_split["test"]["y"] == pytest.approx([100 * lines[-1]["test_accuracy"]])
    assert by_split["train"]["x"] == [1.0, 2.0]


def test_it_needs_no_other_file(runs):
    for path in (runs / "a" / "report.html",):
        page = _Page(path)
        assert page.links and all(link.startswith("data:") for link in page.links)
        assert "@import" not in path.read_text() and "url(" not in path.read_text()


def test_every_text_of_a_run_is_escaped(runs, classifier, tmp_path):
    """Names of classes, options, metrics, folders and errors."""
    folder = shutil.copytree(runs / "a", tmp_path / "evil&<b>")
    config = json.loads((folder / "config.json").read_text())
    config["experiment"] = EVIL
    config["config"] |= {EVIL: EVIL, "optimizer": {EVIL: {"rate": EVIL}}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"device": {"kind": EVIL}}))
    lines = [{"step": 1, "epoch": 1.0, f"epoch_{EVIL}": 0.5, EVIL: 2}]
    lines += [{"step": 1, "epoch": 1, f"test_{EVIL}": 1, "interrupted": False}]
    journal = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(journal)
    contents = classifier[2]
    facts = contents.facts | {"missing": [EVIL], "cam": EVIL}
    facts["table"] = [{**row, "name": EVIL} for row in facts["table"]]
    write_contents(folder, contents._replace(facts=facts))
    usual = _Page(runs / "a" / "report.html")
    for given in ([folder], [folder, runs / "b"]):
        path = tmp_path / "page.html"
        write_page(path, [read_run(one) for one in given])
        page = _Page(path)
        assert page.elements.count("script") == usual.elements.count("script")
        assert page.handlers == [] and "b" not in page.elements[:20]
        assert all(link.startswith("data:") for link in page.links)
        assert any(EVIL.strip("\u2028")[:30] in text for text in page.texts)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "curves and results"),
        (lambda run: (run / "metrics.jsonl").write_text("[]\n"), "curves and results"),
        (lambda run: (run / "config.json").write_text("{"), "the configuration"),
        (lambda run: (run / "environment.json").unlink(), "the environment"),
        (lambda run: (run / "certificate.jsonl").write_bytes(b"\xff\n"), "certificate"),
        (lambda run: (run / "report.safetensors").unlink(), "feature maps"),
        (lambda run: (run / "report.safetensors").write_bytes(b"no"), "feature maps"),
        (lambda run: (run / "params.safetensors").write_bytes(b"no"), "filters"),
        (lambda run: [p.unlink() for p in run.glob("*.*")], "the configuration"),
        (lambda run: (run / "environment.json").write_text('{"cpus": 2}'), "environ"),
        (lambda run: (run / "certificate.jsonl").write_text("{}\n"), "certificate"),
        (lambda run: _change_facts(run, table=[{"name": "a"}]), "table"),
        (lambda run: _change_facts(run, class_names=5), None),
        (lambda run: _change_facts(run, class_names=["\ud800"] * 10), None),
        (lambda run: _change_facts(run, missing=5), "feature maps"),
        (lambda run: (run / "config.json").write_text('{"config": 1}'), "no options"),
        (lambda run: _change_last(run, test_loss=None), "test loss: no finite number"),
        (lambda run: _change_last(run, test_loss=10**400), "test loss: no finite"),
        (lambda run: _change_last(run, seconds=10**400), None),
    ],
)
def test_what_is_missing_or_damaged_is_said(change, told, runs, tmp_path, capsys):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    change(folder)
    assert jcnn_main(["report", str(folder)]) == 0
    page = _Page(folder / "report.html")
    assert ("Missing" in page.texts) == bool(told)
    told = told or ""
    assert told in capsys.readouterr().err
    assert any(told in text for text in page.texts)


def test_the_other_lines_beside_damaged_ones_are_read(runs, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    first, *others = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([first, "{", "[]", *others, ""]))
    run = read_run(folder)
    assert run.metrics == read_metrics(runs / "a") and run.state.startswith("done")
    (told,) = run.missing
    assert "2 lines" in told and "metrics.jsonl, line 2" in told


def test_a_metric_that_became_nan_has_no_number(runs, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(
        text + '{"step": 99, "epoch": 3, "epoch_loss": null}\n'
    )
    assert final_metrics(read_run(folder))["loss"].keys() == {"test"}


def test_a_page_of_large_noisy_images_has_less_than_5_mb(runs, tmp_path, rng):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    contents = read_contents(folder / "report.safetensors")
    arrays = {k: v for k, v in contents.arrays.items() if not k.startswith("maps/")}
    for name in ("mistakes/images", "examples/images", "examples/input_gradient"):
        noise = rng.integers(0, 256, (len(arrays[name]), 224, 224, 3))
        arrays[name] = noise.astype(arrays[name].dtype)
    maps = {f"maps/{i:02} {i}": rng.normal(size=(64, 64, 16)) for i in range(16)}
    maps = {name: array.astype("float32") for name, array in maps.items()}
    write_contents(folder, contents._replace(arrays=arrays | maps))
    write_page(tmp_path / "page.html", [read_run(folder)])
    assert 1e6 < (tmp_path / "page.html").stat().st_size < 5e6


def test_no_link_out_of_the_folder_is_a_picture(runs, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    (tmp_path / "secret").write_bytes(b"of another folder")
    (folder / "drawn.png").write_bytes(b"its own")
    (folder / "linked.png").symlink_to(tmp_path / "secret")
    assert [path.name for path in read_run(folder).pictures] == ["drawn.png"]


def test_any_folder_has_a_page_and_a_command_for_a_shell(runs, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / os.fsdecode(b"it's\xff $(x)"))
    assert jcnn_main(["report", str(folder)]) == 0
    (command,) = (t for t in _Page(folder / "report.html").texts if "jcnn rep" in t)
    plain = str(folder).encode(errors="backslashreplace").decode()
    assert shlex.split(command) == ["jcnn", "reproduce", plain]


def test_the_page_of_a_run_that_has_not_ended(runs, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]) + '{"step": 9')
    run = read_run(folder)
    assert run.state.startswith("not finished") and run.last == {}
    assert jcnn_main(["report", str(folder)]) == 0
    text = " ".join(_Page(folder / "report.html").texts)
    assert "the run has not ended" in text


def test_without_a_folder_there_is_an_error_and_no_page(tmp_path, capsys):
    assert jcnn_main(["report", str(tmp_path / "none")]) == 2
    assert "RUN: there is no folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert jcnn_main(["compare", str(tmp_path / "file")]) == 2
    assert "must be the folder of a run" in capsys.readouterr().err


def test_a_run_can_leave_its_page_out(tmp_path):
    options = ["--max-steps", "1", "--no-report", "--run-dir", str(tmp_path / "run")]
    assert main(digits.Config, digits.recipe, options) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not names & {"report.html", "report.safetensors", "curves.png"}
    assert "params.safetensors" in names


def test_the_page_changes_no_bit_of_the_run(runs, tmp_path):
    options = ["--epochs", "2", "--no-report", "--run-dir", str(tmp_path / "run")]
    assert main(digits.Config, digits.recipe, options) == 0
    for name in ("params.safetensors", "certificate.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (
            runs / "a" / name
        ).read_bytes()


# Comparison


def test_options_that_differ_and_the_spread_over_seeds(runs):
    found = [read_run(runs / name) for name in "abc"]
    assert differing_options(found) == {
        "seed": ["0", "1", "0"],
        "batch-size": ["64", "64", "32"],
    }
    both, alone = spreads(found)
    values = [read_metrics(runs / name)[-1]["test_accuracy"] for name in "ab"]
    assert both.described("accuracy") == f"{mean(values):.2%} ± {stdev(values):.2%}"
    assert [run.name for run in alone.runs] == ["c"]
    assert "±" not in alone.described("accuracy")


def test_the_spread_is_of_whole_runs_with_different_seeds(runs, tmp_path):
    """Not of one twice, of one that did not end, or of ones with unknown options."""
    copies = [shutil.copytree(runs / "b", tmp_path / name) for name in "pqrst"]
    again, stopped, unfinished, *unknown = copies
    _change_last(stopped, interrupted=True, test_accuracy=0.0)
    lines = (unfinished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (unfinished / "metrics.jsonl").write_text("".join(lines[:-1]))
    for folder in unknown:
        (folder / "config.json").unlink()
    given = [runs / "a", runs / "a", runs / "." / "a", runs / "b", *copies]
    found = [read_run(folder) for folder in find_runs(given)]
    assert [run.name for run in found] == [*"abpqrst"]
    (group,) = spreads(found)
    assert [run.name for run in group.runs] == ["a", "b"]
    assert dict((name, cells) for name, *cells in results(found))["seconds"][
        3
    ].startswith("interrupted, ")


def test_compare_prints_them_and_report_shows_them(runs, tmp_path, capsys):
    given = [str(runs / name) for name in "abc"]
    assert jcnn_main(["compare", *given]) == 0
    printed = capsys.readouterr().out
    both, _ = spreads([read_run(runs / name) for name in "abc"])
    path = tmp_path / "all.html"
    assert jcnn_main(["report", *given, "--output", str(path)]) == 0
    shown = " ".join(_Page(path).texts)
    for text in (printed, shown):
        assert both.described("accuracy") in text and "batch-size" in text
        for name in "abc":
            value = read_metrics(runs / name)[-1]["test_accuracy"]
            assert f"{value:.2%}" in text


def test_members_of_a_sweep_lack_nothing_of_their_own(runs, tmp_path, capsys):
    sweep = shutil.copytree(runs, tmp_path / "sweep")
    for name in "ab":
        for file in ("environment.json", "certificate.jsonl", "report.safetensors"):
            (sweep / name / file).unlink()
    assert jcnn_main(["compare", str(sweep)]) == 0
    assert "a: the environment: there is no" in capsys.readouterr().out
    (sweep / "sweep.json").write_text("{}")
    assert jcnn_main(["compare", str(sweep)]) == 0
    assert "there is no" not in capsys.readouterr().out
    assert jcnn_main(["report", str(sweep)]) == 0
    assert "Curves" in _Page(sweep / "comparison.html").texts


def test_a_folder_of_runs_stands_for_all_of_them(runs):
    assert find_runs([runs]) == [runs / name for name in "abc"]
    assert find_runs([runs / "a"]) == [runs / "a"]


def test_the_table_of_a_profile_is_shown_as_text(runs, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    (folder / "profile").mkdir()
    (folder / "profile" / "times.txt").write_text(f"conv1  1.5\n{EVIL}\n")
    write_page(tmp_path / "page.html", [read_run(folder)])
    page = _Page(tmp_path / "page.html")
    assert any("conv1  1.5" in text and "onerror" in text for text in page.texts)
    assert not page.handlers
