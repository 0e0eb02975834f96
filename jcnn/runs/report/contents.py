"""What the page of a run shows of its network, noted at the end of the run.

So the page can be written again later, without the run's program and its data.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from ..._files import open_file, write_file
from ...data import evaluation_batch_size, evaluation_batches
from ...inspect import grad_cam, input_gradient, part_outputs
from ...inspect.summary import Row
from ...train import TrainState
from ..output import reason_of
from ..recipe import Recipe, network_logits

NAME = "report.safetensors"
BINS = 10  # of probabilities, for the calibration
_MISTAKES, _EXAMPLES = 24, 4
_MAPS, _CHANNELS = 16, 16  # parts, and of each so many feature maps
_SIDE = 64  # pixels of a feature map; of larger ones some are left out
_MOST_BYTES = 1 << 28


class Contents(NamedTuple):
    """What a page shows of a network.

    Attributes:
        facts: "table", the rows of `jcnn.summarize` as dicts; "class_names"; "cam", the
            part that Grad-CAM looks at; and "missing", what could not be computed.
        arrays: "matrix", the confusion matrix [K, K] of the test images or of their
            pixels. Of a classifier of images "calibration": for each bin of the
            highest probability the number of images, the sum of their probabilities
            and the number that are right, [BINS, 3]; "mistakes/…", the most confident
            ones, with images, labels, predictions and probabilities; "examples/…", the
            same of some test images, with "input_gradient" and "grad_cam". And
            "maps/PART", the outputs of parts for the first example [H, W, C].
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]


def collect(recipe: Recipe, state: TrainState, rows: Sequence[Row]) -> Contents:
    """Compute what a page shows of a network; what fails is said in "missing".

    Args:
        recipe: What was trained; its test images are looked at.
        state: Parameters and model state.
        rows: What `jcnn.summarize` returns of the layer.
    """
    test, missing = recipe.test, []
    arrays: dict[str, np.ndarray] = {}

    def attempt(what: str, compute: Callable[[], dict[str, np.ndarray]]) -> None:
        try:
            arrays.update(compute())
        except Exception as error:  # that of a custom layer can be any
            missing.append(f"{what}: {reason_of(error)}")

    attempt("results by class", lambda: _tested(recipe, state))
    images = arrays.get("examples/images")
    if images is None:
        images = next(evaluation_batches(test.image, test.label, 1))[0]["image"]
    attempt("feature maps", lambda: _feature_maps(recipe, state, images[:1]))
    names = test.class_names or tuple(map(str, range(test.num_classes)))
    facts = {"table": [row._asdict() for row in rows], "class_names": names}
    facts |= {"cam": None, "missing": missing}
    last = _last_convolution(rows)

    def cam(convolution: str) -> dict[str, np.ndarray]:
        facts["cam"] = part = _activated(recipe, state, images, convolution)
        return _cam(recipe, state, images, classes, part)

    if "examples/images" in arrays:
        classes = arrays["examples/predictions"]
        attempt("input gradients", lambda: _gradients(recipe, state, images, classes))
        if last:
            attempt("Grad-CAM", lambda: cam(last))
    return Contents(facts, arrays)


def write_contents(run_dir: Path, contents: Contents) -> None:
    """Write `report.safetensors` into a run's folder."""
    arrays = {k: np.asarray(v, order="C") for k, v in contents.arrays.items()}
    metadata = {"facts": json.dumps(contents.facts)}
    write_file(run_dir / NAME, save(dict(sorted(arrays.items())), metadata))


def read_contents(path: Path) -> Contents:
    """Read `report.safetensors`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    open_file(path, _MOST_BYTES).close()
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if not isinstance(facts.get("missing", []), list):
            raise TypeError(f"missing must be a list, got {facts['missing']!r}")
        return Contents(dict(facts), arrays)
    except Exception as error:  # damaged files raise almost anything
        raise ValueError(f"{path} is damaged: {error}") from error


def _tested(recipe: Recipe, state: TrainState) -> dict[str, np.ndarray]:
    """Return what the test images gave, if the network gives scores of classes."""
    test, logits = recipe.test, network_logits(recipe)

    def predict(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = logits(state.params, state.model_state, images)
        probabilities = jax.nn.softmax(scores.astype("float32"))
        return probabilities.argmax(-1), probabilities.max(-1)

    one = jax.ShapeDtypeStruct((1, *test.image.shape[1:]), test.image.dtype)
    scores = jax.eval_shape(logits, state.params, state.model_state, one)
    labels, number = np.asarray(test.label), getattr(scores, "shape", (0,))[-1]
    if getattr(scores, "shape", ())[1:-1] != labels.shape[1:] or number < 2:
        return {}
    if not np.issubdtype(labels.dtype, np.integer) or labels.max() >= number:
        return {}
    compiled, found, kept = jax.jit(predict), [], []
    matrix = np.zeros(number * number, np.int64)
    size = evaluation_batch_size(test.image)
    for batch, part in evaluation_batches(test.image, labels, size):
        predicted = jax.device_get(compiled(batch["image"]))
        predictions, probabilities = (each[: len(part)] for each in predicted)
        pairs = labels[part].astype(np.int64) * number + predictions
        matrix += np.bincount(pairs[labels[part] >= 0], minlength=number * number)
        found.append((predictions, probabilities) if labels.ndim == 1 else ())
        kept.append(part)
    arrays = {"matrix": matrix.reshape(number, number)}
    if labels.ndim > 1:
        return arrays
    predictions, probabilities = (np.concatenate(each) for each in zip(*found))
    kept = np.concatenate(kept)
    labels = labels[kept]
    right = predictions == labels
    arrays["calibration"] = _calibration(probabilities, right)
    by_confidence = np.argsort(-probabilities, kind="stable")
    mistakes = by_confidence[~right[by_confidence]]
    _, firsts = np.unique(np.where(right, labels, -1), return_index=True)
    of_classes = np.sort(firsts[right[firsts]])[: _EXAMPLES - min(2, len(mistakes))]
    examples = np.concatenate([of_classes, mistakes[:2]])
    shown = {"mistakes": mistakes[:_MISTAKES], "examples": examples}
    for name, indices in shown.items():
        arrays[f"{name}/images"] = np.asarray(test.image[kept[indices]])
        arrays[f"{name}/labels"] = labels[indices]
        arrays[f"{name}/predictions"] = predictions[indices]
        arrays[f"{name}/probabilities"] = probabilities[indices]
    return arrays


def _calibration(probabilities: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Guo et al., "On Calibration of Modern Neural Networks" (2017), section 2."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    weights = (None, probabilities, right)
    return np.stack([np.bincount(bins, w, minlength=BINS) for w in weights], -1)


def _inputs(recipe: Recipe, images: np.ndarray) -> jax.Array:
    prepare = recipe.prepare or (lambda images, key: images)
    return prepare(jnp.asarray(images), None)


def _scores(recipe: Recipe, state: TrainState) -> Callable[[jax.Array], jax.Array]:
    return lambda x: recipe.layer.apply(state.params, state.model_state, x)[0]


def _feature_maps(
    recipe: Recipe, state: TrainState, images: np.ndarray
) -> dict[str, np.ndarray]:
    scores, names = _scores(recipe, state), []

    def maps(x: jax.Array) -> list[jax.Array]:
        found = part_outputs(scores, x)
        innermost = [
            (name, array)
            for name, array in found.items()
            if array.ndim == 4 and not any(n.startswith(f"{name}/") for n in found)
        ]
        spread = np.linspace(0, len(innermost) - 1, min(_MAPS, len(innermost)))
        chosen = [innermost[int(i)] for i in spread]
        names.extend(name for name, _ in chosen)
        steps = [-(-max(array.shape[1:3]) // _SIDE) for _, array in chosen]
        return [a[0, ::s, ::s, :_CHANNELS] for s, (_, a) in zip(steps, chosen)]

    found = jax.jit(maps)(_inputs(recipe, images))
    return {f"maps/{i:02} {n}": _float(a) for i, (n, a) in enumerate(zip(names, found))}


def _last_convolution(rows: Sequence[Row]) -> str | None:
    """Return the last part with weights whose output has several places."""
    shapes = {row.name: row.output_shape or () for row in rows if row.params}
    wide = [n for n, s in shapes.items() if len(s) == 3 and s[0] * s[1] > 1]
    return wide[-1] if wide else None


def _activated(recipe: Recipe, state: TrainState, images: np.ndarray, part: str) -> str:
    """Return the last part from a convolution on whose output has the same shape.

    That is its activation, whose maps Grad-CAM weights. Those before a ReLU are
    negative in places, and often their weighted sum is nowhere positive.
    """
    shapes: list[tuple[str, tuple[int, ...]]] = []

    def note(x: jax.Array) -> None:
        outputs = part_outputs(_scores(recipe, state), x)
        shapes.extend((name, array.shape) for name, array in outputs.items())

    jax.eval_shape(note, _inputs(recipe, images))
    wanted = dict(shapes).get(part)
    behind = dropwhile(lambda pair: pair[0] != part, shapes)
    same = takewhile(lambda pair: pair[1] == wanted, behind)
    return [part, *(name for name, _ in same)][-1]


def _gradients(
    recipe: Recipe, state: TrainState, images: np.ndarray, classes: np.ndarray
) -> dict[str, np.ndarray]:
    gradient = jax.jit(partial(input_gradient, _scores(recipe, state)))
    found = gradient(_inputs(recipe, images), classes)
    return {"examples/input_gradient": _float(found)}


def _cam(
    recipe: Recipe,
    state: TrainState,
    images: np.ndarray,
    classes: np.ndarray,
    part: str,
) -> dict[str, np.ndarray]:
    cam = jax.jit(partial(grad_cam, _scores(recipe, state), part=part))
    return {"examples/grad_cam": _float(cam(_inputs(recipe, images), classes))}


def _float(array: jax.Array) -> np.ndarray:
    return np.asarray(array.astype("float32"))
