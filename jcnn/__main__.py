"""The command `jcnn`, also as `python -m jcnn`."""

import argparse
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from ._extras import missing
from .runs.output import lasting_output, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command line; otherwise the program's.

    Returns:
        The exit status. Of `reproduce`: 0 if the run is identical, 1 if it is not, 2 if
        that cannot be found out. Of `predict`: 0, or 1 if no image could be read. Of
        `doctor`: 0. After Ctrl-C: 130.

    Raises:
        SystemExit: With 0 after `--help`; with 2 if the command line is wrong; with 143
            after SIGTERM.
    """
    options = _parser().parse_args(arguments)
    # As after Ctrl-C, child processes are ended and temporary folders removed.
    usual = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with lasting_output():
            return _status(options.do, options)
    finally:
        signal.signal(signal.SIGTERM, usual)


def _status(
    do: Callable[[argparse.Namespace], int], options: argparse.Namespace
) -> int:
    try:
        return do(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "jcnn":
            raise
        print(f"error: {missing('experiments', error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _reproduce(options: argparse.Namespace) -> int:
    from .runs.verify.reproduce import reproduce

    start, stop = options.steps
    return reproduce(
        options.run,
        start=start,
        stop=stop,
        data_dir=options.data_dir,
        use_recorded_source=options.recorded_source,
    )


def _predict(options: argparse.Namespace) -> int:
    from .runs.predict import predict

    return predict(options.run, options.image, options.output or options.run)


def _export(options: argparse.Namespace) -> int:
    from .runs.store.network import export_network

    path = options.output or options.run / "inference.jaxexport"
    exported = export_network(options.run, path)
    images, output = (
        ", ".join(array.str_short() for array in arrays)
        for arrays in (exported.in_avals, exported.out_avals)
    )
    platforms = ", ".join(exported.platforms)
    print(printable(f"{path} is a program of jax.export for {platforms}:"))
    print(f"images {images} -> output {output}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from .runs.report.page import write_page
    from .runs.report.run import find_runs, read_run

    runs = [read_run(folder) for folder in find_runs(options.run)]
    folder = options.run[0] if len(options.run) == 1 else Path()
    name = "report.html" if len(runs) == 1 else "comparison.html"
    path = options.output or folder / name
    write_page(path, runs)
    print(printable(f"the page is {path}"))
    for run in runs:
        for text in run.missing:
            print(f"missing of {run.name}: {text}", file=sys.stderr)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from .runs.progress import open_console
    from .runs.report.comparison import tables
    from .runs.report.run import find_runs, read_run

    runs = [read_run(folder) for folder in find_runs(options.run)]
    open_console().print(tables(runs))
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from .doctor.report import diagnose

    for line in diagnose():
        print(line, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jcnn",
        description="Use and check runs of experiments, and check the machine.",
    )
    parser.add_argument("--version", action="version", version=f"jcnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "doctor",
        help="check this machine: capabilities, known faults, advice",
        description="Print processor and versions, which algorithms can be used, known "
        "faults of jaxlib, the speed of a convolution, and what to set. It takes some "
        "10 seconds.",
    )
    command.set_defaults(do=_doctor)
    command = commands.add_parser(
        "reproduce",
        help="repeat a run and compare every digest",
        description="Run the configuration that a run folder records once more, in a "
        "fresh process and a temporary folder, and compare the certificates. This "
        "executes the recorded program, which is looked for in the current folder.",
        epilog="The exit status is 0 if the runs are identical to the bit, 1 if they "
        "are not, 2 if the experiment cannot be run, say because the data differ.",
    )
    command.set_defaults(do=_reproduce)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument(
        "--steps",
        type=_steps,
        default=(0, None),
        metavar="A:B",
        help="compare what is recorded after step A up to step B, or to the end for "
        "A:; start with the last checkpoint at or before A, or with the first step",
    )
    command.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder of the prepared data sets, if not the recorded one",
    )
    command.add_argument(
        "--recorded-source",
        action="store_true",
        help="execute the source that RUN holds, not that in the current folder",
    )
    command = commands.add_parser(
        "predict",
        help="classify image files with the network of a run",
        description="Print the five most probable classes of each image, and write "
        "predictions.json and predictions.png. Neither the run's program nor its data "
        "are needed.",
    )
    command.set_defaults(do=_predict)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument(
        "image",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="PNG or JPEG file, or a folder of them, of any size and colour",
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write to, if not RUN"
    )
    command = commands.add_parser(
        "export",
        help="write the network of a run as one file that JAX alone can serve",
        description="Write the network with its weights as a program of jax.export, "
        "for any number of images, for CPUs, GPUs and TPUs. Neither the run's program "
        "nor its data are needed.",
    )
    command.set_defaults(do=_export)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write, if not RUN/inference.jaxexport",
    )
    command = commands.add_parser(
        "report",
        help="write the page of a run, or of the comparison of several",
        description="Write one HTML file that needs no other and no network: curves, "
        "results by class, mistakes, feature maps, the model, and how to reproduce it. "
        "Of several runs it compares options, results and curves.",
    )
    command.set_defaults(do=_report)
    _add_runs(command)
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write, if not RUN/report.html, SWEEP/comparison.html or, for "
        "several folders, comparison.html",
    )
    command = commands.add_parser(
        "compare",
        help="print what differs between runs, and what they reached",
        description="Print a table of runs: the options that are not the same in all, "
        "the test metrics, and mean and standard deviation of those that differ by "
        "their seeds alone.",
    )
    command.set_defaults(do=_compare)
    _add_runs(command)
    return parser


def _add_runs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a run, finished or not, or of a sweep",
    )


def _steps(text: str) -> tuple[int, int | None]:
    """Parse A:B; A is 0 and B is None if they are left out."""
    parts = re.fullmatch("([0-9]{0,10}):([0-9]{0,10})", text)
    start, stop = (int(p) if p else None for p in parts.groups()) if parts else (0, 0)
    start = start or 0
    if stop is not None and start >= stop:
        raise argparse.ArgumentTypeError(
            f"must be A:B, A: or :B with numbers of steps A < B, got {text!r}"
        )
    return start, stop


if __name__ == "__main__":
    sys.exit(main())
