import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from numpy.lib.stride_tricks import sliding_window_view

import jcnn
from experiments.understanding_cnn import __main__ as script
from experiments.understanding_cnn import facts, figures, probes
from jcnn.layers import Conv, ConvTranspose


@pytest.fixture
def digit(rng) -> np.ndarray:
    return rng.integers(0, 17, (8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run: exit status, folder, and the page before it is written."""
    run_dir, pages = tmp_path_factory.mktemp("runs") / "run", []
    draw_page = script.draw_page

    def keep_page(*arguments):
        pages.append(draw_page(*arguments))
        return pages[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "draw_page", keep_page)
        status = script.main(["--run-dir", str(run_dir)])
    return status, run_dir, pages[0]


def failing_points(digit):
    return {
        point
        for point, rows in facts.collect_facts(digit).items()
        if not all(fact.holds for fact in rows)
    }


def test_all_facts_hold_for_any_digit(digit):
    assert failing_points(digit) == set()


def without_strides(layer):
    return lambda *sizes, strides=1, **options: layer(*sizes, **options)


def conv_without_strides(x, kernel, *, padding, strides=1):
    return jcnn.conv(x, kernel, padding=padding)


def conv_without_padding(x, kernel, *, padding, **options):
    padding = padding if isinstance(padding, str) else 0
    return jcnn.conv(x, kernel, padding=padding, **options)


def conv_same_as_pytorch(x, kernel, *, padding, **options):
    if padding == "SAME":
        padding = [(f - 1) // 2 for f in kernel.shape[:-2]]
    return jcnn.conv(x, kernel, padding=padding, **options)


def conv_turning_the_filter(x, kernel, **options):
    return jcnn.conv(x, kernel[::-1, ::-1], **options)


def conv_knowing_places(x, kernel, **options):
    y = jcnn.conv(x, kernel, **options)
    return y * jnp.arange(1, 1 + y.size, dtype=y.dtype).reshape(y.shape)


def conv_seeing_everything(x, kernel, **options):
    return jcnn.conv(x, kernel, **options) + x.sum()


def flatten_channels_first(x):
    return jcnn.flatten(jnp.moveaxis(x, -1, 1))


def conv_layer_without_bias(*sizes, **options):
    return Conv(*sizes, use_bias=False, **options)


@pytest.mark.stress
@pytest.mark.parametrize(
    ("module", "name", "wrong", "point"),
    [
        (facts, "Conv", without_strides(Conv), "Symbols"),
        (facts, "Conv", conv_layer_without_bias, "Parameter sharing"),
        (probes, "conv", conv_seeing_everything, "Sparsity of connections"),
        (probes, "conv", conv_turning_the_filter, "Convolution"),
        (probes, "conv", conv_same_as_pytorch, "Valid and same"),
        (probes, "conv", conv_without_padding, "Padding"),
        (probes, "conv", conv_without_strides, "Stride"),
        (jax.nn, "relu", jax.nn.leaky_relu, "ReLU"),
        (probes, "max_pool", jcnn.min_pool, "Max pool"),
        (facts, "flatten", flatten_channels_first, "Flatten"),
        (probes, "conv", conv_knowing_places, "A feature anywhere"),
        (facts, "ConvTranspose", without_strides(ConvTranspose), "Fields of use"),
    ],
)
def test_a_wrong_function_makes_facts_fail(
    monkeypatch, digit, module, name, wrong, point
):
    monkeypatch.setattr(module, name, wrong)
    assert point in failing_points(digit)


def test_pytorch_pads_as_is_said_of_it():
    torch = pytest.importorskip("torch")
    x, ones = torch.arange(1.0, 9).reshape(1, 1, 8), torch.ones(1, 1, 3)
    computed = torch.nn.functional.conv1d(x, ones, stride=2, padding=1).ravel().tolist()
    fact = facts.valid_and_same()[-1]
    assert "PyTorch" in fact.claim
    assert computed == fact.exact


def test_shift_changes_are_those_of_numpy(rng):
    digits = rng.integers(0, 17, (5, 8, 8)).astype(np.float32)

    def stages(shift):
        x = np.pad(digits, ((0, 0), (2, 2), (2 + shift, 2 - shift)))
        windows = sliding_window_view(
            np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2)
        )
        y = np.maximum((windows * probes.VERTICAL_EDGE).sum((3, 4)), 0)
        pools = [
            y.reshape(5, 12 // k, k, 12 // k, k).max((2, 4)) for k in (1, 2, 4, 12)
        ]
        return [a.reshape(5, -1) for a in (x, *pools)]

    expected = [
        np.mean(np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1))
        for a, b in zip(stages(0), stages(1), strict=True)
    ]
    computed = figures.shift_changes(digits)
    np.testing.assert_allclose(list(computed.values()), expected, rtol=1e-5)


def test_a_run_writes_facts_and_page(run):
    status, run_dir, page = run
    written = json.loads((run_dir / "facts.json").read_text())
    holding = [fact["holds"] for rows in written.values() for fact in rows]
    assert status == 0
    assert len(holding) > 30 and all(holding)
    assert json.loads((run_dir / "config.json").read_text())["config"]["digit"] == 25
    assert (run_dir / "page.pdf").read_bytes().startswith(b"%PDF")
    png = (run_dir / "page.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    size = (page.get_size_inches() * page.dpi).astype(int)
    assert [int.from_bytes(png[i : i + 4], "big") for i in (16, 20)] == size.tolist()


def test_no_text_covers_another_or_leaves_the_page(run):
    page = run[2]
    renderer = FigureCanvasAgg(page).get_renderer()
    texts = [t for t in page.findobj(Text) if t.get_text() and t.get_visible()]
    boxes = np.array([t.get_window_extent(renderer).extents for t in texts])
    low, high = boxes[:, :2], boxes[:, 2:]
    assert (low > 0).all() and (high < page.bbox.extents[2:]).all()
    # Boxes of neighbouring numbers may touch, since they include ascent and descent.
    apart = (low[:, None] + 2 > high[None]).any(-1)
    overlapping = np.argwhere(~(apart | apart.T))
    pairs = [(texts[i], texts[j]) for i, j in overlapping if i < j]
    assert len(texts) > 300
    assert pairs == []


def test_a_fact_that_does_not_hold_is_shown_and_ends_with_1(
    monkeypatch, tmp_path, capsys
):
    wrong = facts.Fact("one and one", 2, 3)
    monkeypatch.setattr(script, "collect_facts", lambda digit: {"Sums": [wrong]})
    monkeypatch.setattr(script, "make_sections", lambda *arguments: [])
    assert script.main(["--run-dir", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "must be 2" in printed and "0 of 1 facts hold" in printed
    assert (tmp_path / "page.png").exists()


@pytest.mark.parametrize("number", ["-1", "360"])
def test_a_digit_that_is_not_there_is_refused(tmp_path, capsys, number):
    run_dir = tmp_path / "run"
    assert script.main(["--digit", number, "--run-dir", str(run_dir)]) == 2
    assert "--digit must be " in capsys.readouterr().err
    assert not run_dir.exists()


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert script.main(["--run-dir", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
