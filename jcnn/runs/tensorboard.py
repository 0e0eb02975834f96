"""Event files for TensorBoard, without TensorFlow."""

import json
import math
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from PIL import Image

# Classes of messages are made at import, which pyright does not see.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams

from .._files import open_file
from .store.folder import read_metrics, read_record
from .verify.resume import FREE

_MOST_BYTES = 1 << 30  # of a file that is read
_NAMES = "events.out.tfevents.*.jcnn"
_SPLITS = {"epoch": "train_epoch", "validation": "validation", "test": "test"}
_OF_THE_RUN = ("epoch", "images_per_second", "seconds", "skipped")


def event_writer(run_dir: Path) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes lines of metrics to event files, as `on_metrics`.

    A run that resumes writes all its lines to a new file in place of the old one, where
    some may have been lost with the process or are computed again. Options that change
    the results are hyper-parameters. The last line of a run brings its pictures.

    Args:
        run_dir: The run's folder; the files go to `tensorboard` in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     line = {"step": 9, "epoch": 1, "loss": 0.5}
    ...     size = Path(folder, "metrics.jsonl").write_text(json.dumps(line) + "\\n")
    ...     event_writer(Path(folder))(line)
    ...     *_, event = read_events(Path(folder))
    >>> event.step, [value.tag for value in event.summary.value]
    (9, ['run/epoch', 'loss/train'])
    """
    files: list[Path] = []

    def write(line: dict[str, Any]) -> None:
        if not files:
            files.append(_begin(run_dir, line["step"]))
        else:
            _append(files[0], [_event(line["step"], summary=_scalars(line))])
        if "interrupted" in line:
            end = [_pictures(run_dir), *hparams({}, {})[2:]]  # it was a success
            _append(files[0], [_event(line["step"], summary=each) for each in end])

    return write


def read_events(run_dir: Path) -> Iterator[Event]:
    """Yield the events of a run's files, of each as far as it is whole."""
    for path in sorted((run_dir / "tensorboard").glob(_NAMES)):
        with open_file(path, _MOST_BYTES) as file:
            content, at = file.read(), 0
        while (start := at + 12) < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            try:
                yield Event.FromString(content[start : start + size])
            except DecodeError:
                break
            at = start + size + 4


def _begin(run_dir: Path, step: int) -> Path:
    """Write all lines of metrics to a new file, the last of them of this step."""
    folder = run_dir / "tensorboard"
    folder.mkdir(exist_ok=True)
    old = [*folder.glob(_NAMES)]
    times: dict[int, float] = {}  # lines of before keep theirs
    for event in read_events(run_dir):
        if event.step < step:
            times.setdefault(event.step, event.wall_time)
    events = [
        _event(0, times.get(0), file_version="brain.Event:2"),
        # A TensorBoard that has read the old file is to forget all of it.
        _event(0, times.get(0), session_log=SessionLog(status=SessionLog.START)),
    ]
    if record := read_record(run_dir):
        # Without an Experiment, of which TensorBoard takes that of one run for all.
        start = hparams(dict(_flat(record["config"])), {})[1]
        events.append(_event(0, times.get(0), summary=start))
    for line in read_metrics(run_dir):
        step = line["step"]
        events.append(_event(step, times.get(step), summary=_scalars(line)))
    path = folder / _NAMES.replace("*", f"{time.time():.6f}")
    _append(path, events)
    for other in old:  # not removed: a TensorBoard that reads one would wait for it
        other.write_bytes(b"")
    return path


def _event(step: int, wall_time: float | None = None, **content: Any) -> Event:
    return Event(step=step, wall_time=wall_time or time.time(), **content)


def _append(path: Path, events: Iterable[Event]) -> None:
    """Append events to a TFRecord file: length, checksum, content, checksum.

    tensorboardX's own writer has a thread, after whose end, say of a full disk, it
    waits for ever.
    """
    with open(path, "ab") as file:
        for event in events:
            content = event.SerializeToString()
            for part in (struct.pack("<Q", len(content)), content):
                file.write(part + struct.pack("<I", masked_crc32c(part)))


def _scalars(line: dict[str, Any]) -> Summary:
    """Return the numbers of a line, of which None stands for those that JSON lacks."""
    values = {k: math.nan if v is None else v for k, v in line.items() if k != "step"}
    return Summary(
        value=[
            Summary.Value(tag=_tag(name), simple_value=value)
            for name, value in values.items()
            if type(value) in (int, float)
        ]
    )


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


def _pictures(run_dir: Path) -> Summary:
    values = []
    for path in sorted(run_dir.glob("*.png")):
        with Image.open(path) as image:
            size = {"width": image.width, "height": image.height}
            colours = len(image.getbands())
        picture = Summary.Image(
            **size, colorspace=colours, encoded_image_string=path.read_bytes()
        )
        values.append(Summary.Value(tag=path.stem, image=picture))
    return Summary(value=values)
