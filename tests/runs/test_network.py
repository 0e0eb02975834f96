"""The network of a run: loaded without its program, and used on image files."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy
from PIL import Image

from experiments import digits
from jcnn.__main__ import main as jcnn_main
from jcnn.data import load as load_data
from jcnn.runs import load, main, read_metrics, read_weights, write_weights
from jcnn.runs.store.network import write_network


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--epochs", "3", "--run-dir", str(run_dir), "--ema-decay", "0.9"]
    assert main(digits.Config, digits.recipe, options) == 0
    return run_dir


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Test images in grey and colour, a large JPEG, and a file that is no image."""
    folder, test = tmp_path_factory.mktemp("images"), load_data("digits", "test")
    for number in range(8):
        picture = Image.fromarray(test.image[number, ..., 0])
        picture.convert("RGB" if number % 3 else "L").save(folder / f"{number}.png")
    picture.resize((90, 60)).save(folder / "large.jpg")
    (folder / "broken.png").write_text("no image")
    return folder


def test_it_computes_what_was_tested(run):
    network, test = load(run), load_data("digits", "test")
    assert network.class_names == tuple("0123456789")
    assert network.image_shape == (8, 8, 1) and network.image_dtype == np.uint8
    right = network.logits(test.image).argmax(-1) == test.label
    *_, last = read_metrics(run)
    assert float(right.mean()) == pytest.approx(last["test_accuracy"], abs=1e-6)


def test_it_needs_neither_the_program_nor_jcnns_layers(run, tmp_path):
    """Also in another process, with the run's folder moved."""
    moved = shutil.copytree(run, tmp_path / "moved")
    code = (
        "import sys, numpy as np\n"
        "from jcnn.runs import load\n"
        f"network = load({str(moved)!r})\n"
        "print(network.logits(np.full((2, 8, 8, 1), 7, np.uint8)).tolist())\n"
        "assert not {'experiments', 'orbax', 'tyro'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    expected = load(run).logits(np.full((2, 8, 8, 1), 7, np.uint8))
    np.testing.assert_array_equal(json.loads(result.stdout), expected)


@pytest.mark.parametrize(
    "images",
    (
        np.zeros((1, 8, 9, 1), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
        jnp.zeros((1, 8, 8, 1)),
    ),
)
def test_other_images_are_rejected(images, run):
    with pytest.raises(ValueError, match=r"must be uint8 \[N, 8, 8, 1\] .* 1, got"):
        load(run).logits(images)


def test_what_is_missing_or_damaged_is_named(run, tmp_path):
    for name in ("network.json", "network.jaxexport", "params.safetensors"):
        copy = shutil.copytree(run, tmp_path / name)
        (copy / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"has ended .* there is no {name}"):
            load(copy)
        for content in (b"", b"{}", (run / name).read_bytes()[:-9]):
            (copy / name).write_bytes(content)
            with pytest.raises(ValueError, match=name):
                load(copy)
    with pytest.raises(FileNotFoundError, match="must be the folder of a run"):
        load(tmp_path / "nowhere")
    params, state = read_weights(run / "params.safetensors")
    for other in ({"conv1": params["conv1"]}, jax.tree.map(np.float16, params)):
        write_weights(copy / "params.safetensors", other, state)
        with pytest.raises(ValueError, match="params.safetensors is of another"):
            load(copy)


def test_files_are_classified(run, files, tmp_path, capsys):
    more = ["--output", str(tmp_path / "new" / "out")]
    assert jcnn_main(["predict", str(run), str(files), *more]) == 0
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "new" / "out" / "predictions.json").read_text())
    found = {
        one["file"].rpartition("/")[2]: one["classes"] for one in record["predictions"]
    }
    assert [*found] == [*(f"{n}.png" for n in range(8)), "large.jpg"]
    test = load_data("digits", "test").image[:8]
    expected = np.asarray(load(run).logits(test), np.float64)
    expected = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    for (name, classes), row in zip(found.items(), expected):
        best = np.argsort(-row)[:5]
        assert [c["name"] for c in classes] == [str(n) for n in best]
        values = [c["probability"] for c in classes]
        np.testing.assert_allclose(values, row[best], rtol=1e-4)
        assert f"{name}: {classes[0]['name']} {values[0]:.1%}, " in out
    assert "made grey" in out and "8 x 8 pixels" in out
    assert "broken.png: left out: cannot identify image file" in out
    assert [*record["left_out"]] == [str(files / "broken.png")]
    with Image.open(tmp_path / "new" / "out" / "predictions.png") as picture:
        assert picture.size[0] > 500


def test_the_status_says_what_went_wrong(run, files, tmp_path, capsys):
    broken = [str(files / "broken.png"), "--output", str(tmp_path)]
    assert jcnn_main(["predict", str(run), *broken]) == 1
    assert jcnn_main(["predict", str(run), str(files / "none.png")]) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert jcnn_main(["predict", str(run), str(tmp_path / "empty")]) == 2
    assert "there is no PNG or JPEG file in" in capsys.readouterr().err
    assert jcnn_main(["predict", str(tmp_path), str(files)]) == 2
    assert "has ended and wrote its network" in capsys.readouterr().err


_SERVE = """
import sys
import numpy as np
from jax import export
program, images = sys.argv[1:]
infer = export.deserialize(bytearray(open(program, "rb").read())).call
print(np.asarray(infer(np.load(images))).tolist())
assert not [name for name in sys.modules if name.startswith("jcnn")]
"""


def test_the_exported_network_is_served_without_jcnn(run, tmp_path, capsys):
    file, images = tmp_path / "digits.jaxexport", load_data("digits", "test").image
    assert jcnn_main(["export", str(run), "--output", str(file)]) == 0
    out = capsys.readouterr().out
    assert "for cpu, cuda, rocm, tpu:\nimages uint8[N,8,8,1] -> output float32[N" in out
    for number in (1, 5):
        np.save(tmp_path / "images.npy", images[:number])
        command = [sys.executable, "-c", _SERVE, str(file), "images.npy"]
        done = subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        expected = load(run).logits(images[:number])
        np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-5)


def test_what_cannot_be_exported_leaves_no_file(run, tmp_path, capsys):
    assert jcnn_main(["export", str(tmp_path)]) == 2
    assert "has ended and wrote its network" in capsys.readouterr().err
    assert jcnn_main(["export", str(run), "--output", str(tmp_path / "a" / "b")]) == 2
    assert "b" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_a_device_is_not_replaced(run, tmp_path, capsys):
    device = tmp_path / "device"
    os.mkfifo(device)
    assert jcnn_main(["export", str(run), "--output", str(device)]) == 2
    assert f"it exists and is no file: '{device}'" in capsys.readouterr().err
    assert device.is_fifo()


def test_a_network_of_several_outputs_is_exported(tmp_path, capsys):
    def outputs(params, state, images):
        return images.astype("float32").sum((1, 2)) * params["scale"], images

    params, data = {"scale": jnp.ones((1, 1))}, load_data("digits", "test")
    write_network(tmp_path, outputs, params, {}, data)
    write_weights(tmp_path / "params.safetensors", params, {})
    assert jcnn_main(["export", str(tmp_path)]) == 0
    assert "-> output float32[N,1], uint8[N,8,8,1]\n" in capsys.readouterr().out


def test_the_program_of_a_run_has_gradients(run):
    program = export.deserialize(bytearray((run / "network.jaxexport").read_bytes()))
    params, state = read_weights(run / "params.safetensors")
    images, labels = load_data("digits", "test").image[:7], jnp.arange(7)
    layer = digits.model(digits.Config())

    def loss(params, logits_of):
        return cross_entropy(logits_of(params), labels).mean()

    def by_layer(params):
        return layer.apply(params, state, digits.prepare(images, None))[0]

    found = jax.grad(loss)(params, lambda p: program.call(p, state, images))
    expected = jax.grad(loss)(params, by_layer)
    for name, array in found.items():
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
            array,
            expected[name],
        )
