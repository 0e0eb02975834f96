"""The experiment on photographs that are larger than memory, and its benchmark."""

import json

import numpy as np
import pytest

from experiments import imagenet
from experiments.benchmarks import streaming
from jcnn.runs import main
from tests.helpers.prepared import encode, write_set

SMALL = ["--depth", "18", "--size", "32", "--batch-size", "4", "--max-steps", "2"]
SMALL += ["--workers", "0", "--no-report"]


def _main(*options):
    return main(imagenet.Config, imagenet.recipe, [str(o) for o in (*SMALL, *options)])


def _lines(folder):
    return [*map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for part, number in (("train", 9), ("val", 5)):
        files = streaming.make_photographs(folder / part, number, classes=2)
        assert len({path.stat().st_size for path in files}) == number
    return folder


def test_a_folder_of_photographs(photographs, tmp_path):
    assert _main("--images", photographs, "--run-dir", tmp_path / "run") == 0
    assert _lines(tmp_path / "run")[-1]["test_accuracy"] in (0, 0.2, 0.4, 0.6, 0.8, 1)


def test_a_prepared_set(tmp_path, rng):
    """Of images of several sizes."""
    sizes = rng.integers(40, 90, (8, 2))
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    pairs = [(encode(image, "JPEG"), i % 3) for i, image in enumerate(images)]
    write_set(tmp_path, {"train": pairs, "validation": pairs[:3]}, form="tfrecord")
    config = imagenet.Config(dataset="tiny", data_dir=tmp_path, size=32, workers=0)
    train, test = imagenet.data(config)
    assert train.image.shape == (8, 32, 32, 3) and test.image.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(train.label, np.arange(8) % 3)


@pytest.mark.parametrize("options", [(), ("--dataset", "tiny", "--images", "/nowhere")])
def test_one_set_must_be_given(options, capsys):
    assert _main(*options) == 2
    assert "one of --dataset and --images must be given" in capsys.readouterr().err


def test_classes_must_be_those_of_training(photographs, tmp_path, capsys):
    (tmp_path / "train").symlink_to(photographs / "train")
    streaming.make_photographs(tmp_path / "val", 3, classes=3)
    assert _main("--images", tmp_path) == 2
    assert "must have the same classes, got 2 and 3" in capsys.readouterr().err


def test_the_benchmark_measures_each_part(photographs):
    files = sorted((photographs / "train").rglob("*.jpg"))
    times = streaming.of_parts(files, 32)
    assert list(times) == ["read", "decode", "crop and scale"]
    config = streaming.Config(images=9, size=32, batch_size=3)
    assert streaming.of_workers(photographs / "train", 0, config) > 0
