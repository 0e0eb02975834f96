"""What is trained and tested: any metrics, inputs of any size, and what is refused."""

import io
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from rich.console import Console

from jcnn import flatten, global_avg_pool, serial
from jcnn.data import Dataset, from_arrays
from jcnn.layers import BatchNorm, Conv, Dense
from jcnn.runs import (
    SGD,
    OptionError,
    Recipe,
    RunConfig,
    check_recipe,
    fit,
    main,
    read_metrics,
    read_weights,
)
from jcnn.runs.recipe import cast_inputs, input_dtypes, network_inputs
from jcnn.train import batch_at, classification, create, make_step
from tests.helpers.stress import few_of

SEED = 3


def _images(n, *, shape=(6, 5, 2), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    return from_arrays(pixels, np.arange(n) % classes, classes)


def _scaled(images, key):
    return images.astype(jnp.float32) / 255


def _flat(classes=3):
    return serial(norm=BatchNorm(), flatten=flatten, head=Dense(classes))


def _pooled(classes=3):
    return serial(conv=Conv(4, 3), mean=global_avg_pool, head=Dense(classes))


def _recipe(layer=None, inputs=_scaled, *, losses=None, train=None, test=None, **more):
    layer = layer or _flat()
    losses = losses or classification(layer, inputs)
    train, test = train or _images(22), test or _images(5, seed=1)
    return Recipe(layer, optax.adam(1e-2), *losses, train, test, **more)


def _fit(recipe, run_dir, **options):
    """Five steps an epoch; returns the result and what was said."""
    run_dir.mkdir(exist_ok=True)
    text = io.StringIO()
    console = Console(file=text, width=100)
    how = {"epochs": 2, "batch_size": 4, "report": False} | options
    result = fit(recipe, run_dir, seed=SEED, console=console, **how)
    return result, text.getvalue().splitlines()


def _regression(layer, prepare=_scaled, *, with_loss=True):
    def error(y, batch):
        return y[:, 0] - batch["label"]

    def loss_fn(params, model_state, batch, key):
        x = prepare(batch["image"], key)
        y, model_state = layer.apply(params, model_state, x, train=True, key=key)
        loss = jnp.mean(error(y, batch) ** 2)
        metrics = {"mae": jnp.abs(error(y, batch)).mean()}
        return loss, (model_state, metrics | ({"loss": loss} if with_loss else {}))

    def example_metrics(params, model_state, batch):
        y, _ = layer.apply(params, model_state, prepare(batch["image"], None))
        return {"loss": error(y, batch) ** 2, "mae": jnp.abs(error(y, batch))}

    return loss_fn, example_metrics


# Any metrics


@pytest.mark.parametrize("watch", [None, "loss", "mae"])
def test_a_regression_is_trained_told_and_drawn(watch, tmp_path):
    layer = _flat(1)
    recipe = _recipe(layer, losses=_regression(layer), watch=watch)
    result, lines = _fit(recipe, tmp_path, report=True)
    params, state = read_weights(tmp_path / "params.safetensors")
    y, _ = layer.apply(params, state, _scaled(jnp.asarray(recipe.test.image), None))
    error = np.asarray(y, np.float64)[:, 0] - recipe.test.label
    expected = {"loss": np.mean(error**2), "mae": np.mean(np.abs(error))}
    assert result.tested == pytest.approx(expected, rel=1e-5)
    last = read_metrics(tmp_path)[-1]
    assert last["test_mae"] == result.tested["mae"] and "test_accuracy" not in last
    name = watch or "loss"
    assert f"done: test {name} {result.tested[name]:.4f}, " in lines[-1]
    told = [line for line in lines if line.startswith("epoch ")]
    assert len(told) == 2 and not any("%" in line for line in told)
    assert all(("mae" in line) == (name == "mae") for line in told)
    with Image.open(tmp_path / "curves.png") as image:  # two parts, or one
        assert (image.width > 1.5 * image.height) == (name == "mae")


def test_the_loss_is_among_the_metrics_also_if_the_recipe_forgets_it(tmp_path):
    layer, lines = _flat(1), {}
    for with_loss in (True, False):
        losses = _regression(layer, with_loss=with_loss)
        _fit(_recipe(layer, losses=losses), tmp_path / str(with_loss))
        lines[with_loss] = [
            {name: line.get(name) for name in ("loss", "epoch_loss", "mae")}
            for line in read_metrics(tmp_path / str(with_loss))
        ]
    assert lines[True] == lines[False] and lines[True][0]["loss"] > 0


def test_several_labels_an_image_are_trained(tmp_path):
    rng = np.random.default_rng(0)
    pixels = _images(22).image
    data = Dataset(pixels, rng.integers(0, 2, (22, 4)).astype("int32"), 2)
    layer = _flat(4)

    def measured(logits, labels):
        loss = optax.sigmoid_binary_cross_entropy(logits, labels.astype("float32"))
        return {"loss": loss, "label_accuracy": (logits > 0) == labels}

    def loss_fn(params, model_state, batch, key):
        x = _scaled(batch["image"], key)
        logits, model_state = layer.apply(params, model_state, x, train=True)
        metrics = jax.tree.map(jnp.mean, measured(logits, batch["label"]))
        return metrics["loss"], (model_state, metrics)

    def example_metrics(params, model_state, batch):
        x = _scaled(batch["image"], None)
        return measured(layer.apply(params, model_state, x)[0], batch["label"])

    recipe = _recipe(layer, losses=(loss_fn, example_metrics), train=data, test=data)
    result, lines = _fit(recipe._replace(watch="label_accuracy"), tmp_path)
    params, state = read_weights(tmp_path / "params.safetensors")
    logits, _ = layer.apply(params, state, _scaled(jnp.asarray(pixels), None))
    expected = np.mean((np.asarray(logits) > 0) == data.label)
    assert result.tested["label_accuracy"] == pytest.approx(expected)
    assert f"done: test label_accuracy {expected:.2%}" in lines[-1]


def test_pixels_are_classified(tmp_path):
    image = _images(22, shape=(6, 5, 1)).image
    data = Dataset(image, (image[..., 0] // 86).astype("int32"), 3)
    layer = serial(hidden=Conv(4, 3), relu=jax.nn.relu, head=Conv(3, 1))
    result, _ = _fit(_recipe(layer, train=data, test=data), tmp_path)
    params, state = read_weights(tmp_path / "params.safetensors")
    logits, _ = layer.apply(params, state, _scaled(jnp.asarray(image), None))
    expected = np.mean(np.asarray(logits).argmax(-1) == data.label)
    assert result.tested["accuracy"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("impl", ["auto", "lax"])
def test_metrics_may_be_numbers_of_python(impl, tmp_path):
    layer = serial(conv=Conv(2, 3, impl=impl), mean=global_avg_pool, head=Dense(3))
    loss_fn, example_metrics = classification(layer, _scaled)

    def with_numbers(*args):
        loss, (state, metrics) = loss_fn(*args)
        return loss, (state, metrics | {"rate": 0.5, "count": 3, "flag": True})

    _fit(_recipe(layer, losses=(with_numbers, example_metrics)), tmp_path)
    line = read_metrics(tmp_path)[0]
    assert (line["rate"], line["count"], line["flag"]) == (0.5, 3, 1)


# metrics.jsonl


def _metrics_by_step(recipe, steps):
    """Of each step by itself, from the pieces that a run is made of."""
    inputs = jax.ShapeDtypeStruct((1, *recipe.train.image.shape[1:]), jnp.float32)
    state = create(recipe.layer, recipe.tx, jax.random.key(SEED), inputs)
    step = make_step(recipe.loss_fn, recipe.tx, not_finite="skip")
    data = {"image": jnp.asarray(recipe.train.image), "label": recipe.train.label}
    data = jax.device_put(data)
    found = []
    for index in range(steps):
        state, metrics = step(state, batch_at(state.key, index, data, 4))
        found.append({name: float(value) for name, value in metrics.items()})
    return found


@pytest.mark.parametrize("interrupted", [False, True])
def test_each_number_is_the_mean_of_its_steps(interrupted, tmp_path):
    """Over calls of 2, 2 and 1 steps, of an epoch with a step that is not finite."""
    layer = _flat()
    loss_fn, example_metrics = classification(layer, _scaled)

    def spoiled(params, model_state, batch, key):
        loss, rest = loss_fn(params, model_state, batch, key)
        poisoned = (batch["image"] == 255).all((1, 2, 3)).any()
        return jnp.where(poisoned, jnp.nan, loss), rest

    train = _images(22)
    train.image[7] = 255
    recipe = _recipe(layer, losses=(spoiled, example_metrics), train=train)
    how = {"certify_every": 2, "not_finite": "skip"}
    if interrupted:
        _fit(recipe, tmp_path, max_steps=7, **how)
    _fit(recipe, tmp_path, **how)
    steps = _metrics_by_step(recipe, 10)
    assert 1 <= sum(not step["finite"] for step in steps) <= 2

    def means(begin, end, prefix=""):
        good = [step for step in steps[begin:end] if step["finite"]]
        sums = {name: sum(s[name] for s in good) for name in ("loss", "accuracy")}
        return {
            prefix + name: pytest.approx(sums[name] / len(good), rel=1e-5)
            if good
            else None
            for name in sums
        }

    *lines, last = read_metrics(tmp_path)
    ends = [2, 4, 5, 7, 9, 10]
    assert [line["step"] for line in lines] == ends
    for begin, end, line in zip([0, *ends], ends, lines):
        expected = means(begin, end)
        bad = sum(not step["finite"] for step in steps[begin:end])
        expected |= {"skipped": bad} if bad else {}
        expected |= means(end - 5, end, "epoch_") if end % 5 == 0 else {}
        times = ("step", "epoch", "images_per_second")
        found = {k: v for k, v in line.items() if k not in times}
        assert found == expected
    assert last.keys() == {
        *("step", "epoch", "test_loss", "test_accuracy", "interrupted", "seconds")
    }


def test_the_terminal_tells_the_mean_of_the_epoch(tmp_path):
    _, said = _fit(_recipe(), tmp_path, certify_every=2)
    told = [line for line in said if line.startswith("epoch ")]
    ends = [line for line in read_metrics(tmp_path) if "epoch_loss" in line]
    assert len(told) == len(ends) == 2
    for text, line in zip(told, ends):
        assert f"loss {line['epoch_loss']:.4f}" in text
        assert line["loss"] != line["epoch_loss"]


def test_a_metric_that_is_nan_goes_on_with_a_run(tmp_path):
    layer = _flat()
    loss_fn, example_metrics = classification(layer, _scaled)

    def with_nan(*args):
        loss, (state, metrics) = loss_fn(*args)
        return loss, (state, metrics | {"odd": jnp.nan})

    recipe = _recipe(layer, losses=(with_nan, example_metrics))
    _fit(recipe, tmp_path, max_steps=3)
    _fit(recipe, tmp_path)
    assert [line["odd"] for line in read_metrics(tmp_path)[:-1]] == [None] * 3


# Inputs of another size


def _padded(images, key):
    return jnp.pad(_scaled(images, key), ((0, 0), (2, 1), (3, 0), (0, 0)))


def _resized(images, key):
    shape = (len(images), 4, 7, images.shape[-1])
    return jax.image.resize(_scaled(images, key), shape, "linear")


def _cropped(images, key):
    """Smaller in training than in testing, as large pictures often are."""
    return _scaled(images, key)[:, :4, :4] if key is not None else _scaled(images, key)


def _coloured(images, key):
    return jnp.repeat(_scaled(images, key), 3, -1)


@pytest.mark.parametrize(
    ("prepare", "shape"),
    [
        (_padded, (9, 8, 2)),
        (_resized, (4, 7, 2)),
        (_coloured, (6, 5, 6)),
        (lambda images, key: _scaled(images, key).reshape(len(images), -1), (60,)),
    ],
    ids=["padded", "resized", "coloured", "flattened"],
)
@pytest.mark.parametrize("known", ["classification", "prepare"])
@pytest.mark.cover(1)
def test_parameters_are_made_for_what_prepare_gives(prepare, shape, known, tmp_path):
    layer = serial(flatten=flatten, head=Dense(3))
    losses = classification(layer, prepare)
    recipe = _recipe(layer, losses=losses)
    if known == "prepare":  # nobody sees through these
        losses = [lambda *args, of=of: of(*args) for of in losses]
        recipe = _recipe(layer, losses=losses, prepare=prepare)
    assert network_inputs(check_recipe(recipe, batch_size=4)).shape == (1, *shape)
    _fit(recipe, tmp_path)
    params, _ = read_weights(tmp_path / "params.safetensors")
    assert params["head"]["kernel"].shape == (np.prod(shape), 3)


def test_test_images_may_be_larger_where_the_network_takes_them(tmp_path):
    test = _images(5, shape=(9, 7, 2), seed=1)
    for prepare, images in ((_scaled, test), (_cropped, None)):
        recipe = _recipe(_pooled(), prepare, test=images)
        result, _ = _fit(recipe, tmp_path / prepare.__name__)
        assert 0 <= result.tested["accuracy"] <= 1


@pytest.mark.parametrize("dtype", few_of(["bfloat16", "float16", "float32"], 1))
def test_the_dtype_of_inputs_does_not_decide_that_of_parameters(dtype, tmp_path):
    """Layers of one's own may look at it; they always saw float32."""
    seen = []

    def look(x):
        seen.append(x.dtype)
        return x

    layer = serial(look=look, flatten=flatten, head=Dense(3))
    recipe = _recipe(layer, lambda images, key: images.astype(dtype) / 255)
    assert network_inputs(check_recipe(recipe, batch_size=4)).dtype == jnp.float32
    assert seen[0] == jnp.float32
    _fit(recipe, tmp_path, epochs=1)
    params, _ = read_weights(tmp_path / "params.safetensors")
    assert params["head"]["kernel"].dtype == np.float32


# --dtype


def test_in_bfloat16_a_run_trains_and_tests_what_it_says(tmp_path):
    seen = set()

    def look(x):
        seen.add(x.dtype.name)
        return x

    layer = serial(look=look, body=_pooled())
    plain = _recipe(layer)
    recipe = cast_inputs(plain, "bfloat16")
    assert (input_dtypes(plain), input_dtypes(recipe)) == ({"float32"}, {"bfloat16"})
    result, said = _fit(recipe, tmp_path)
    assert "the network computes in bfloat16" in said
    assert seen == {"float32", "bfloat16"}  # at init, and in the steps
    assert not any("computes" in line for line in _fit(plain, tmp_path / "plain")[1])
    params, state = read_weights(tmp_path / "params.safetensors")
    assert all(a.dtype == np.float32 for a in jax.tree.leaves((params, state)))
    images = _scaled(jnp.asarray(recipe.test.image), None).astype("bfloat16")
    logits = layer.apply(params, state, images)[0].astype("float32")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, recipe.test.label)
    assert result.tested["loss"] == pytest.approx(float(losses.mean()), rel=1e-2)


@pytest.mark.parametrize("known", ["classification", "prepare"])
def test_inputs_are_cast_in_training_and_in_testing(known):
    """The parameters are made for what they always were."""
    recipe = _recipe(prepare=_scaled if known == "prepare" else None)
    cast = cast_inputs(recipe, "bfloat16")
    assert cast_inputs(recipe, "float32") is recipe
    pickle.loads(pickle.dumps(cast.loss_fn))
    assert network_inputs(cast).dtype == jnp.float32
    cast, recipe = (check_recipe(r, batch_size=4) for r in (cast, recipe))
    params, state = recipe.layer.init(jax.random.key(0), network_inputs(recipe))
    batch = {"image": recipe.test.image, "label": jnp.asarray(recipe.test.label)}
    for args in ((params, state, batch, jax.random.key(1)), (params, state, batch)):
        names = ("loss_fn", "example_metrics")
        functions = [getattr(r, names[len(args) == 3]) for r in (cast, recipe)]
        short, wide = ([*jax.tree.leaves(f(*args))] for f in functions)
        assert [a.dtype for a in short] == [a.dtype for a in wide]
        assert any(np.any(a != b) for a, b in zip(short, wide))
        for a, b in zip(short, wide):
            np.testing.assert_allclose(a, b, rtol=0.05, atol=0.01)


def _short(images, key):
    return _scaled(images, key).astype("bfloat16")


def test_a_loss_of_ones_own_says_by_its_prepare_that_it_casts():
    layer = _flat(1)
    for losses in (_regression(layer), (_regression(layer)[0], _recipe()[3])):
        for prepare, got in ((None, "float32"), (_scaled, "float32")):
            recipe = _recipe(layer, losses=losses, prepare=prepare)
            with pytest.raises(OptionError, match=rf"--dtype: bfloat16 .* {got}\[1"):
                cast_inputs(recipe, "bfloat16")
    losses = _regression(layer, _short)
    recipe = _recipe(layer, losses=losses, prepare=_short)
    assert cast_inputs(recipe, "bfloat16") == recipe


def test_inputs_without_floats_have_no_dtype_to_choose():
    recipe = _recipe(inputs=lambda images, key: images)
    with pytest.raises(OptionError, match=r"inputs of floats.* got inputs uint8\[1"):
        cast_inputs(recipe, "bfloat16")


def test_losses_of_a_classification_can_be_pickled():
    losses = classification(_flat(), _scaled)
    again = pickle.loads(pickle.dumps(losses))
    params, state = _flat().init(jax.random.key(0), jnp.zeros((1, 6, 5, 2)))
    data = _images(4)
    batch = {"image": jnp.asarray(data.image), "label": jnp.asarray(data.label)}
    for args in ((params, state, batch, jax.random.key(1)), (params, state, batch)):
        old, new = (pair[len(args) == 3](*args) for pair in (losses, again))
        jax.tree.map(np.testing.assert_array_equal, old, new)


# What is refused, before anything is computed


def _unlike(**changes):
    """A recipe whose loss function returns something else in one place."""

    def make():
        layer = _flat()
        loss_fn, example_metrics = classification(layer, _scaled)

        def changed(*args):
            loss, (state, metrics) = loss_fn(*args)
            found = {"loss": loss, "state": state, "metrics": metrics} | changes
            return found["loss"], (found["state"], found["metrics"])

        return _recipe(layer, losses=(changed, example_metrics))

    return make


def _tested_by(example_metrics):
    def make():
        layer = _flat()
        losses = classification(layer, _scaled)[0], example_metrics
        return _recipe(layer, losses=losses)

    return make


def _mean_only(params, model_state, batch):
    return {"loss": jnp.zeros(())}


def _unpadded():
    """Its loss pads the images, and nothing says so."""
    layer = _flat(1)
    losses = _regression(layer, _padded)
    return _recipe(layer, losses=losses)


def _returns_the_loss_alone():
    losses = (lambda *args: jnp.zeros(()), _mean_only)
    return _recipe(losses=losses)


LARGE = _images(5, shape=(9, 7, 2))
REFUSED = {
    "labels": (
        lambda: _recipe(_flat(2)),
        "labels of the training images are 0 to 2, but the layer gives 2 logits, "
        "which are for labels 0 to 1",
    ),
    "labels of tests": (
        lambda: _recipe(test=_images(5, classes=5)),
        "labels of the test images are 0 to 4, .* 3 logits",
    ),
    "labels below 0": (
        lambda: _recipe(test=Dataset(_images(4).image, np.arange(-1, 3), 3)),
        "labels of the test images are -1 to 2",
    ),
    "labels, own loss": (
        lambda: _recipe(
            layer := _flat(2),
            losses=(_regression(layer)[0], classification(layer, _scaled)[1]),
        ),
        "labels of the training images are 0 to 2, .* 2 logits",
    ),
    "rank": (
        lambda: _recipe(serial(conv=Conv(3, 1))),
        r"loss_fn .* training images uint8\[4, 6, 5, 2\]: layer must give logits "
        r"\[N, classes\] .* \(4, 6, 5, 3\)",
    ),
    "test images": (
        lambda: _recipe(test=LARGE),
        r"example_metrics .* test images uint8\[5, 9, 7, 2\] after training on images "
        r"uint8\[4, 6, 5, 2\]: head: .*float32\[5, 126\]",
    ),
    "training images": (
        lambda: _recipe(serial(norm=BatchNorm(), conv=Conv(3, 7, padding="VALID"))),
        r"the layer cannot be made for inputs float32\[1, 6, 5, 2\]: conv: ",
    ),
    "prepare": (
        lambda: _recipe(inputs=lambda images, key: images.reshape(-1, 7)),
        r"prepare cannot be computed of training images uint8\[1, 6, 5, 2\]: .*"
        r"\(test_recipes.py, line \d+\)",
    ),
    "unknown prepare": (
        _unpadded,
        r"loss_fn .* Recipe.prepare must say how: .*\(test_recipes.py, line \d+\)",
    ),
    "loss of each": (
        _unlike(loss=jnp.zeros(4)),
        r"scalars, got the loss float32\[4\]: is a mean missing",
    ),
    "loss of integers": (_unlike(loss=jnp.int32(0)), "a loss of floats, got int32"),
    "metric of each": (
        _unlike(metrics={"loss": 0.0, "error": jnp.zeros((4, 2))}),
        r"scalars, got error float32\[4, 2\]",
    ),
    "nested": (_unlike(metrics={"a": {"b": 0.0}}), "scalars, got a {'b'"),
    "no dict": (_unlike(metrics=0.0), "loss_fn must give its metrics as a dict"),
    "state": (_unlike(state={}), "model_state as it was given, .*'norm'.*, got {}"),
    "loss alone": (_returns_the_loss_alone, r"return \(loss, \(model_state, metrics"),
    "mean of a test": (
        _tested_by(_mean_only),
        r"metrics of shape \[5, …\], .* got loss of shape \(\)",
    ),
    "no test metrics": (_tested_by(lambda *args: {}), "watch is None, .*: none"),
    "no usual metric": (
        _tested_by(lambda *args: {"b": jnp.zeros(5), "a": jnp.zeros(5)}),
        "watch is None, but must be a metric of the test images: a, b",
    ),
    "optimizer": (
        lambda: _recipe()._replace(tx=SGD(decayed="haed")(10)),
        "the optimizer takes no such parameters: decayed: pattern must fit .*'haed'",
    ),
    "watch": (
        lambda: _recipe(watch="f1"),
        "watch is 'f1', but must be a metric of the test images: accuracy, loss",
    ),
} | {
    f"name {name}": (
        _unlike(metrics={name: 0.0}),
        f"loss_fn must not call a metric '{name}': .*images_per_second.*test_",
    )
    for name in (
        *("step", "epoch", "seconds", "interrupted", "images_per_second", "skipped"),
        *("finite", "steps", "test_loss", "epoch_loss", "validation_loss"),
    )
}


def _too_late(*args, **how):
    raise AssertionError("this is too late")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_told_before(kind, tmp_path):
    make, words = REFUSED[kind]
    recipe = make()
    for refuse in (
        lambda: check_recipe(recipe, batch_size=4),
        lambda: _fit(recipe, tmp_path, compile_steps=_too_late),
    ):
        with pytest.raises(OptionError, match=words) as caught:
            refuse()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["labels", "rank", "test images", "watch"])
def test_main_tells_it_in_one_line(kind, tmp_path, capsys):
    make, _ = REFUSED[kind]
    options = ["--run-dir", str(tmp_path / "run"), "--batch-size", "4"]
    too_late = partial(fit, compile_steps=_too_late)
    assert main(RunConfig, lambda config: make(), options, fit=too_late) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_checked_recipe_is_checked_again_the_same():
    layer = _flat(1)
    losses = _regression(layer, _padded, with_loss=False)
    checked = check_recipe(_recipe(layer, losses=losses, prepare=_padded), batch_size=4)
    assert check_recipe(checked, batch_size=4) == checked
    assert checked.watch == "loss" and checked.prepare is _padded
    plain = check_recipe(_recipe(), batch_size=4)
    assert plain.watch == "accuracy" and plain.prepare is _scaled
    assert check_recipe(plain, batch_size=4) == plain


def test_a_bug_that_is_not_about_shapes_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        check_recipe(_recipe(inputs=lambda images, key: 1 / 0), batch_size=4)
