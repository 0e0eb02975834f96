"""What a run says while it goes: a moving bar, a line per epoch.

On a terminal the bar moves below the lines, in a notebook above them; written to a file
or a pipe there are only the lines, without control codes.
"""

import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console

from .output import printable


def open_console() -> Console:
    """A console on standard output, which is a terminal only if it really is one.

    Services that run programs set FORCE_COLOR or TTY_COMPATIBLE, and keep a log of what
    comes through a pipe: in there a moving bar is a line of garbage for each movement.
    In a notebook it prints text, which stays together: Rich would make each line an
    output of its own, as HTML.

    >>> open_console().is_terminal == sys.stdout.isatty()
    True
    """
    terminal = None if sys.stdout.isatty() else False  # None: Rich looks closer
    return Console(file=sys.stdout, force_terminal=terminal, force_jupyter=False)


def say(console: Console, text: str) -> None:
    """Print a line of text as it is: nothing in it is markup or a command, and it stays
    one line.

    >>> say(Console(width=20), "a [bold] name, longer than the line")
    a [bold] name, longer than the line
    """
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def describe_metrics(
    metrics: dict[str, Any], epochs: int, *, watch: str = "accuracy"
) -> str:
    """One line of `metrics.jsonl` in words, in a width that hardly changes.

    Args:
        metrics: The line. Of these the loss and the watched metric are shown, as means
            over the epoch on a line that ends one, else over the steps of the line;
            and the watched metric of the validation and test images.
        epochs: Number of epochs of the whole run.
        watch: Name of the watched metric.

    >>> line = {"epoch": 2.5, "loss": 0.25, "accuracy": 0.9, "images_per_second": 1234}
    >>> describe_metrics(line, 10)
    'epoch  3/10  loss 0.2500  accuracy  90.00%  1,234 images/s'
    >>> line = {"epoch": 1, "loss": 2, "epoch_loss": 3, "test_loss": 4, "test_error": 5}
    >>> describe_metrics(line, 2, watch="error")
    'epoch 1/2  loss 3.0000  test error 5.0000'
    """
    parts = [f"epoch {math.ceil(metrics['epoch']):{len(str(epochs))}}/{epochs}"]
    suffix = f" {watch}"
    for name in dict.fromkeys(("loss", watch)):
        value = metrics.get(f"epoch_{name}", metrics.get(name))
        if value is not None:
            parts.append(f"{name} {_padded(name, value)}")
            suffix = "" if name == watch else suffix
    for split in ("validation", "test"):
        if f"{split}_{watch}" in metrics:
            value = metrics[f"{split}_{watch}"]
            parts.append(f"{split}{suffix} {_padded(watch, value)}")
    if "images_per_second" in metrics:
        parts.append(f"{metrics['images_per_second']:,.0f} images/s")
    return "  ".join(parts)


def is_accuracy(name: str) -> bool:
    """Whether a metric is told in percent.

    >>> is_accuracy("top5_accuracy"), is_accuracy("f1")
    (True, False)
    """
    return name.endswith("accuracy")


def format_metric(name: str, value: float) -> str:
    """A metric's value as people read it, an accuracy in percent.

    >>> format_metric("accuracy", 0.9), format_metric("loss", 2)
    ('90.00%', '2.0000')
    >>> format_metric("loss", 1e-6)
    '1.000e-06'
    """
    if is_accuracy(name):
        return f"{value:.2%}"
    ordinary = not 0 < abs(value) < 1e-3 and not 1e6 <= abs(value) < math.inf
    return f"{value:.4f}" if ordinary else f"{value:.3e}"


def _padded(name: str, value: float) -> str:
    return f"{format_metric(name, value):>{len('100.00%') if is_accuracy(name) else 6}}"


@contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar with the time left, which vanishes at the end.

    It stands below what `console` prints meanwhile, in a notebook above that. Where
    `console` is neither a terminal nor the output of a notebook there is no bar.

    Args:
        console: Where to show it.
        total: Number of steps at which the bar is full.

    Yields:
        A function of the number of steps done and the text to stand beside the bar.

    >>> with progress_bar(Console(), total=20) as show:
    ...     show(10, "half")
    """
    bar = progress.Progress(
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.description}", markup=False),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("left"),
        console=console,
        disable=not (console.is_terminal and console.is_interactive),
        transient=True,
        expand=True,
    )
    with bar, _cell_output(console) as draw:
        task = bar.add_task("compiling", total=total)
        draw(bar)

        def show(completed: int, text: str) -> None:
            bar.update(task, completed=completed, description=text)
            draw(bar)

        yield show


@contextmanager
def _cell_output(console: Console) -> Iterator[Callable[[progress.Progress], None]]:
    """Draw bars into one output of a notebook's cell; elsewhere draw nothing.

    Rich needs ipywidgets for moving bars in notebooks.
    """
    if not (Console().is_jupyter and console.file is sys.stdout):
        yield lambda bar: None
        return
    from IPython.display import DisplayHandle

    handle = DisplayHandle()
    handle.display({}, raw=True)

    def draw(bar: progress.Progress) -> None:
        text = io.StringIO()
        Console(
            file=text,
            width=console.width,
            color_system="truecolor",
            force_terminal=True,
            force_jupyter=False,
        ).print(bar, end="")
        handle.update({"text/plain": text.getvalue().rstrip()}, raw=True)

    try:
        yield draw
    finally:
        handle.update({}, raw=True)
