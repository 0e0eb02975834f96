"""Signals handled between steps: SIGINT, SIGTERM and SIGHUP stop, SIGUSR1 saves.

Schedulers can send SIGUSR1 before a job's time is over.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOP = (signal.SIGINT, signal.SIGTERM)
# Not on all systems, and left alone if they are ignored already, as by nohup.
_OTHERS = [
    signal.Signals[name]
    for name in ("SIGHUP", "SIGUSR1")
    if name in signal.Signals.__members__
]


class Interrupts:
    """The signals received; calling it returns the one that stops the run, or None.

    >>> Interrupts()() is None
    True
    """

    def __init__(self):
        self._stop: signal.Signals | None = None
        self._save = False

    def __call__(self) -> signal.Signals | None:
        return self._stop

    def save_asked(self) -> bool:
        """Return whether SIGUSR1 has come since the last call."""
        asked, self._save = self._save, False
        return asked

    def note(self, number: int) -> None:
        """Note a signal; the first one that stops counts."""
        if number == getattr(signal, "SIGUSR1", None):
            self._save = True
        else:
            self._stop = self._stop or signal.Signals(number)


@contextmanager
def catch_interrupt() -> Iterator[Interrupts]:
    """Note signals within the block; a second Ctrl-C or SIGTERM works as usual.

    A second SIGHUP does not: a closing terminal and its shell both send one. SIGHUP and
    SIGUSR1 that are ignored or handled already are left alone. Outside the main thread
    nothing changes.

    >>> with catch_interrupt() as interrupted:
    ...     before = interrupted()
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(before, interrupted().name)
    None SIGINT
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    previous = {number: signal.getsignal(number) for number in _STOP}
    usual = (signal.getsignal(number) for number in _OTHERS)
    previous |= {n: h for n, h in zip(_OTHERS, usual) if h is signal.SIG_DFL}

    def restore(numbers):
        for number in numbers:
            signal.signal(number, previous[number])

    def note(number, frame):
        interrupts.note(number)
        if number in _STOP:
            restore(_STOP)

    for number in previous:
        signal.signal(number, note)
    try:
        yield interrupts
    finally:
        restore(previous)
