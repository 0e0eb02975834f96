"""The page of a run, or of the comparison of several: one HTML file without links.

The template escapes every text. A content security policy allows the page's own scripts
alone, and no request to a network.
"""

import base64
import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ..._files import write_file
from ...inspect.reader import total
from ...metrics import f1, iou, precision, recall
from ..output import printable
from ..progress import format_metric
from . import images
from .comparison import final_metrics, means_over_seeds, options, results
from .contents import BINS, Contents
from .curves import charts
from .run import Run, read_run

_HERE = Path(__file__).parent
_SCRIPTS = ("uPlot.iife.min.js", "page.js")
_STYLES = ("uPlot.min.css", "page.css")
_MOST_CLASSES, _MOST_FILTERS, _MOST_CONFUSED = 25, 64, 30


def write_page(path: Path, runs: Sequence[Run]) -> None:
    """Write the page of one run, or of several compared.

    Raises:
        OSError: If it cannot be written; an old one stays.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [(_HERE / name).read_text() for name in _SCRIPTS]
    content = environment.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"Comparison of {len(runs)} runs",
        styles=[(_HERE / name).read_text() for name in _STYLES],
        scripts=scripts,
        policy=_policy(scripts),
        charts=_script_json(charts(runs)),
        runs=runs,
        metric=format_metric,
        **(_one(runs[0]) if len(runs) == 1 else _several(runs)),
    )
    # Names of files can contain bytes that no encoding has.
    write_file(path, content.encode(errors="backslashreplace"))


def try_page(path: Path, folders: Sequence[Path]) -> None:
    """Write the page of runs; one that cannot be made is told of on stderr.

    Nothing that was computed is in a page alone, so none may end a run.

    Raises:
        OSError: If the file cannot be written, with its name.
    """
    try:
        write_page(path, [read_run(folder) for folder in folders])
    except OSError:
        raise
    except Exception as error:
        print(f"{path} could not be written: {error}", file=sys.stderr)


def _policy(scripts: Sequence[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}"
    )


def _script_json(value: Any) -> str:
    """Return JSON that ends no script element, whatever is in its texts."""
    return json.dumps(value).replace("<", "\\u003c")


def _one(run: Run) -> dict[str, Any]:
    """Return what the template shows of a run; what is damaged is told as missing."""

    def attempt(what: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:  # files can hold anything
            run.missing.append(printable(f"{what}: {error!r}"))
            return None

    arrays = run.contents.arrays
    names = _class_names(run.contents)
    makers = {
        "finals": lambda: final_metrics(run),
        "classes": lambda: _classes(arrays, names),
        "calibration": lambda: _calibration(arrays.get("calibration")),
        "mistakes": lambda: _labelled(arrays, names, "mistakes"),
        "examples": lambda: _examples(arrays, names),
        "filters": lambda: _filters(run),
        "maps": lambda: _maps(arrays),
        "table": lambda: _table(run.contents.facts),
        "pictures": lambda: [(path.stem, _file(path)) for path in run.pictures],
        "options": lambda: options(run),
        "environment": lambda: _environment(run.environment),
        "certificate": lambda: _certificate(run.certificate),
    }
    shown = {what: attempt(what, make) for what, make in makers.items()}
    command = f"jcnn reproduce {shlex.quote(str(run.folder))}"
    cam = run.contents.facts.get("cam")
    return {"run": run, "cam": cam, "command": command, **shown}


def _several(runs: Sequence[Run]) -> dict[str, Any]:
    return {"run": None, "results": results(runs), "means": means_over_seeds(runs)}


def _class_names(contents: Contents) -> list[str]:
    """Return a name for each row of the confusion matrix, its number if it has none."""
    found = contents.facts.get("class_names")
    names = list(map(str, found)) if isinstance(found, list) else []
    number = len(contents.arrays.get("matrix", ()))
    return names + [str(i) for i in range(len(names), number)]


def _classes(arrays: dict[str, np.ndarray], names: list[str]) -> dict[str, Any] | None:
    """Return the rows of the confusion matrix, or of a large one the largest errors."""
    matrix = arrays.get("matrix")
    if matrix is None:
        return None
    ratios = {"precision": precision, "recall": recall, "F1": f1}
    if "mistakes/images" not in arrays:  # of pixels
        ratios["IoU"] = iou
    columns = {name: ratio(matrix) for name, ratio in ratios.items()}
    errors = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    worst = np.argsort(-errors, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = [divmod(int(i), len(matrix)) for i in worst if errors.flat[i]]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    return {
        "names": names,
        "of": "pixels" if "IoU" in ratios else "images",
        "mistakes": int(errors.sum()),
        "matrix": matrix.tolist() if len(matrix) <= _MOST_CLASSES else None,
        "shares": np.sqrt(shares).tolist(),  # small ones are to be seen
        "confused": [(names[i], names[j], int(matrix[i, j])) for i, j in pairs],
        "ratios": list(columns),
        "rows": [
            (name, int(count), ["–" if np.isnan(v) else f"{v:.1%}" for v in values])
            for name, count, *values in zip(names, matrix.sum(1), *columns.values())
        ],
    }


def _calibration(bins: np.ndarray | None) -> dict[str, Any] | None:
    if bins is None or bins.shape != (BINS, 3) or not bins[:, 0].sum():
        return None
    counts, probabilities, right = bins.T
    gaps = np.abs(probabilities - right)
    return {
        "error": gaps.sum() / counts.sum(),
        "bins": [
            (i / BINS, int(n), p / n, r / n)
            for i, (n, p, r) in enumerate(zip(counts, probabilities, right))
            if n
        ],
        "width": 1 / BINS,
    }


def _labelled(
    arrays: dict[str, np.ndarray], names: list[str], kind: str
) -> list[dict[str, Any]]:
    try:
        columns = [
            arrays[f"{kind}/{name}"]
            for name in ("images", "labels", "predictions", "probabilities")
        ]
    except KeyError:
        return []
    return [
        {
            "image": images.picture(image),
            "label": names[label],
            "prediction": names[prediction],
            "probability": f"{probability:.1%}",
            "right": bool(label == prediction),
        }
        for image, label, prediction, probability in zip(*columns)
    ]


def _examples(arrays: dict[str, np.ndarray], names: list[str]) -> list[dict[str, Any]]:
    examples = _labelled(arrays, names, "examples")
    gradients = arrays.get("examples/input_gradient")
    cams = arrays.get("examples/grad_cam")
    for i, example in enumerate(examples):
        if gradients is not None:
            strongest = np.abs(gradients[i]).argmax(-1)[..., None]
            values = np.take_along_axis(gradients[i], strongest, -1)[..., 0]
            example["gradient"] = images.signed(values)
        if cams is not None:
            image = arrays["examples/images"][i]
            example["cam"] = images.overlaid(image, cams[i])
    return examples


def _maps(arrays: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    return [
        (name.partition(" ")[2], images.tiles(array))
        for name, array in sorted(arrays.items())
        if name.startswith("maps/") and array.ndim == 3 and array.size
    ]


def _filters(run: Run) -> tuple[str, list[str], str] | None:
    """Return the first convolution's name and filters, and what their colours mean."""
    rows = [str(row.get("name")) for row in run.contents.facts.get("table", [])]
    name = next((n for n in rows if n in run.kernels), None)
    if name is None:
        return None
    kernel = run.kernels[name][..., :_MOST_FILTERS]
    channels, colours = kernel.shape[2], "Blue weights are negative, red ones positive."
    if channels == 3:
        colours = ""
    elif channels > 1:
        colours += f" The first of {channels} input channels is shown."
    return name, images.filters(kernel), colours


def _table(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of the model's table."""

    def number(value: int | None) -> str:
        return "?" if value is None else f"{value:,}"

    def sum_of(name: str) -> str:
        return number(total([row.get(name) for row in rows]))

    rows = facts.get("table", [])
    cells = [
        (
            str(row["name"]),
            "×".join(map(str, row["output_shape"] or "?")),
            number(row["params"]),
            number(row["multiply_adds"]),
            "×".join(map(number, row["receptive_field"])),
            number(row.get("output_bytes")),
            str(row.get("algorithm", "")),
        )
        for row in rows
    ]
    sums = sum_of("params"), sum_of("multiply_adds"), "", sum_of("output_bytes"), ""
    return [*cells, ("total", "", *sums)] if rows else []


def _certificate(lines: list[dict[str, Any]]) -> dict[str, str]:
    """Return the digests of the data and of the last state, by name."""
    if not lines:
        return {}
    found = {
        f"{split} {name}": "{dtype} {shape}, SHA-256 {sha256}".format(**array)
        for split, arrays in lines[0]["data"].items()
        for name, array in arrays.items()
    }
    last = lines[-1] if len(lines) > 1 else {}
    return found | {name: str(value) for name, value in last.items()}


def _environment(environment: dict[str, Any]) -> dict[str, str]:
    device, cpus = environment.get("device", {}), environment.get("cpus", {})
    versions = environment.get("distributions", {})
    names = ("jax", "jaxlib", "optax", "numpy")
    commit = environment.get("commit")
    if commit and environment.get("dirty"):
        commit += ", with changes: see source.json"
    found = {
        "device": " ".join(str(device.get(k, "")) for k in ("count", "kind")),
        "cores": cpus.get("usable"),
        "platform": environment.get("platform"),
        "Python": environment.get("python"),
        "jcnn": environment.get("jcnn"),
        **{name: versions.get(name) for name in names},
        "XLA_FLAGS": environment.get("XLA_FLAGS"),
        "commit": commit,
    }
    return {name: str(value) for name, value in found.items() if value}


def _file(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
