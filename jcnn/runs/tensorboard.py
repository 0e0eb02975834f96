"""Event files for TensorBoard, without TensorFlow."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from .store.folder import read_metrics, read_record
from .verify.resume import FREE

_SPLITS = {"epoch": "train_epoch", "validation": "validation", "test": "test"}
_OF_THE_RUN = ("images_per_second", "seconds", "skipped")


def event_writer(run_dir: Path) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes lines of metrics to event files, as `on_metrics`.

    The last line of a run brings its options as hyper-parameters, and its pictures.
    When a run resumes, all its lines are written again, and TensorBoard forgets those
    of before: some may have been lost with the process, or are computed again.

    Args:
        run_dir: The run's folder; the files go to `tensorboard` in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     metrics = Path(folder, "metrics.jsonl")
    ...     line = '{"step": 1, "test_loss": 2.5, "interrupted": false}'
    ...     size = metrics.write_text(line + "\\n")
    ...     event_writer(Path(folder))(json.loads(line))
    ...     print(*(path.name[:20] for path in Path(folder, "tensorboard").iterdir()))
    events.out.tfevents.
    """
    writers: list[SummaryWriter] = []
    folder = run_dir / "tensorboard"

    def write(line: dict[str, Any]) -> None:
        lines = [line]
        if not writers:
            name = f".{line['step']}"  # else those of a second would be one file
            new = SummaryWriter(
                str(folder), purge_step=0, flush_secs=5, filename_suffix=name
            )
            writers.append(new)
            lines = read_metrics(run_dir)
        (writer,) = writers
        for line in lines:
            for name, value in line.items():
                if type(value) in (int, float) and name not in ("step", "epoch"):
                    writer.add_scalar(_tag(name), value, line["step"])
        if "interrupted" in line:
            _write_end(writer, run_dir, line)
            writer.close()

    return write


def _write_end(writer: SummaryWriter, run_dir: Path, line: dict[str, Any]) -> None:
    for path in sorted(run_dir.glob("*.png")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        writer.add_image(path.stem, pixels, line["step"], dataformats="HWC")
    record = read_record(run_dir)
    options = dict(_flat(record["config"])) if record else {}
    tested = {_tag(k): v for k, v in line.items() if k.startswith("test_")}
    for summary in hparams(options, tested):  # add_hparams writes a run of its own
        writer.file_writer.add_summary(summary, line["step"])  # pyright: ignore


def _tag(name: str) -> str:
    """Return a metric's name in TensorBoard, where those of one metric stand together.

    >>> [*map(_tag, ("loss", "epoch_loss", "test_top5_accuracy", "seconds"))]
    ['loss/train', 'loss/train_epoch', 'top5_accuracy/test', 'run/seconds']
    """
    if name in _OF_THE_RUN:
        return f"run/{name}"
    split, _, metric = name.partition("_")
    return f"{metric}/{_SPLITS[split]}" if split in _SPLITS else f"{name}/train"


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options that change results, nested ones by dots."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif prefix or name not in FREE:
            plain = isinstance(value, bool | int | float | str)
            yield f"{prefix}{name}", value if plain else json.dumps(value)
