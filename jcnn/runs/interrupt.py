"""Ctrl-C and other signals as questions to ask between two pieces of work.

SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone) ask to stop. SIGUSR1, which
schedulers can send before a job's time is over, asks to save and to go on.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOP = (signal.SIGINT, signal.SIGTERM)
# Not on all systems; and whoever has said already what they are to do, as nohup, knows.
_OTHERS = [
    signal.Signals[name]
    for name in ("SIGHUP", "SIGUSR1")
    if name in signal.Signals.__members__
]


class Interrupts:
    """What signals have asked for. Called, it gives the one that asked to stop.

    >>> Interrupts()() is None
    True
    """

    def __init__(self):
        self._stop: signal.Signals | None = None
        self._save = False

    def __call__(self) -> signal.Signals | None:
        return self._stop

    def save_asked(self) -> bool:
        """Whether it was asked to save, since this was called before.

        >>> Interrupts().save_asked()
        False
        """
        asked, self._save = self._save, False
        return asked

    def note(self, number: int) -> None:
        """Note a signal; the first one that asks to stop counts.

        >>> interrupts = Interrupts()
        >>> interrupts.note(signal.SIGTERM)
        >>> interrupts().name
        'SIGTERM'
        """
        if number == getattr(signal, "SIGUSR1", None):
            self._save = True
        else:
            self._stop = self._stop or signal.Signals(number)


@contextmanager
def catch_interrupt() -> Iterator[Interrupts]:
    """Let signals only be noted; the second Ctrl-C or SIGTERM works as usual.

    SIGHUP never does: as a terminal goes, its system and its shell both send one.
    SIGHUP and SIGUSR1 are left as they are if they are ignored or handled already.
    Outside of the main thread, where Python delivers no signals, nothing changes.

    Yields:
        A function without arguments: the signal that asked to stop, or None.

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
