"""The command `jcnn`, also as `python -m jcnn`."""

import argparse
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from . import __version__
from ._extras import missing
from .runs.output import lasting_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for.

    Args:
        arguments: Command line; otherwise the program's.

    Returns:
        The exit status: 0 if the run is identical, 1 if it is not, 2 if that cannot be
        found out, 130 after Ctrl-C; `doctor` ends with 0 whatever it finds.

    Raises:
        SystemExit: With 0 after `--help`; with 2 if the command line is wrong; with 143
            after SIGTERM.
    """
    options = _parser().parse_args(arguments)
    return options.do(options)


def _reproduce(options: argparse.Namespace) -> int:
    try:
        from .runs.verify.reproduce import reproduce
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "jcnn":
            raise
        print(f"error: {missing('experiments', error)}", file=sys.stderr)
        return 2
    compare = partial(
        reproduce,
        options.run,
        start=options.steps[0],
        stop=options.steps[1],
        data_dir=options.data_dir,
        use_recorded_source=options.recorded_source,
    )
    return _attempt(compare)


def _doctor(_: argparse.Namespace) -> int:
    from .doctor.report import diagnose

    def report() -> int:
        for line in diagnose():
            print(line, flush=True)
        return 0

    return _attempt(report)


def _attempt(work: Callable[[], int]) -> int:
    # As Ctrl-C does: what was started ends too, and its folder goes.
    usual = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with lasting_output():
            return _status(work)
    finally:
        signal.signal(signal.SIGTERM, usual)


def _status(work: Callable[[], int]) -> int:
    try:
        return work()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jcnn", description="Runs of experiments, and the machine they run on."
    )
    parser.add_argument("--version", action="version", version=f"jcnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "doctor",
        help="tell what this machine can do, what is wrong with it, and what to set",
        description="Print processor and versions, which algorithms can be used, known "
        "faults of jaxlib, the speed of a convolution, and what to set. It takes some "
        "10 seconds.",
    )
    command.set_defaults(do=_doctor)
    command = commands.add_parser(
        "reproduce",
        help="run a run's configuration again and compare every digest",
        description="Run the configuration that a run folder records once more, in a "
        "fresh process and a temporary folder, and compare the certificates. This "
        "executes the recorded program, which is looked for in the current folder.",
        epilog="The exit status is 0 if the runs are identical to the bit, 1 if they "
        "are not, 2 if the experiment cannot be run, say because the data are others.",
    )
    command.set_defaults(do=_reproduce)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument(
        "--steps",
        type=_steps,
        default=(0, None),
        metavar="A:B",
        help="compare what is recorded after step A up to step B, A: to the end; it "
        "begins with the last checkpoint at or before A, with the first step if A is 0",
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
    return parser


def _steps(text: str) -> tuple[int, int | None]:
    """Both numbers of A:B, of which A is 0 and B None if they are left out."""
    parts = re.fullmatch("([0-9]{0,10}):([0-9]{0,10})", text)
    if parts is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: A:B, A: or :B with numbers of steps"
        )
    start, stop = int(parts[1] or 0), int(parts[2]) if parts[2] else None
    if stop is not None and start >= stop:
        raise argparse.ArgumentTypeError(
            f"{text} is not allowed: A must be less than B"
        )
    return start, stop


if __name__ == "__main__":
    sys.exit(main())
