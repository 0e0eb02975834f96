"""Python programs that may die or hang, in processes of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

# XLA ends a process with a line such as "F1126 13:26:19.020364 21487 file.cc:234] …",
# and after it the functions that led there.
_FATAL = re.compile(r"^F\d{4} [^]\n]*\] (.*)", re.MULTILINE)


class Ended(NamedTuple):
    """The end of a program."""

    status: int | None  # as `subprocess.Popen.returncode`; None if it was killed
    output: str  # what it printed
    errors: str  # what it printed to standard error, or why it did not end

    @property
    def reason(self) -> str:
        """One line on why it failed.

        >>> Ended(1, "", "Traceback …\\n  …\\nValueError: too small\\n").reason
        'ValueError: too small'
        """
        if fatal := _FATAL.search(self.errors):
            return fatal[1]
        lines = self.errors.strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self.status}"


def run(programs: Sequence[str], seconds: float) -> list[Ended]:
    """Run programs at once, and kill those that take longer, with all they started.

    They import what this process imports, and compute on the CPU. XLA's and oneDNN's
    settings in the environment reach them, JAX's do not.

    Args:
        programs: Their texts.
        seconds: How long they may take, all together.

    >>> run(["import time; time.sleep(99)"], 0.1)
    [Ended(status=None, output='', errors='no answer in 0.1 s')]
    """
    deadline = time.monotonic() + seconds
    children = []
    try:
        for program in programs:
            children.append(_start(program))
        return [_end(child, deadline, seconds) for child in children]
    except OSError as error:  # the system starts no more of them
        return [Ended(None, "", str(error))] * len(programs)
    finally:
        for child in children:
            _kill(child)


def _start(program: str) -> "subprocess.Popen[str]":
    variables = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return subprocess.Popen(
        [
            sys.executable or "python3",
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}\n{program}",
        ],
        env=variables | {"JAX_PLATFORMS": "cpu"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # so that it can be killed with what it has started
    )


def _end(child: "subprocess.Popen[str]", deadline: float, seconds: float) -> Ended:
    # At the deadline, what other children have printed is still to be read.
    left = max(deadline - time.monotonic(), 0.5)
    try:
        output, errors = child.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        return Ended(None, "", f"no answer in {seconds:.2g} s")
    return Ended(child.returncode, output, errors)


def _kill(child: "subprocess.Popen[str]") -> None:
    if child.poll() is not None:
        return
    if os.name == "posix":
        with suppress(OSError):  # it has ended meanwhile
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.communicate()
