"""Ctrl-C and SIGTERM as a question to ask between two pieces of work."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def catch_interrupt() -> Iterator[Callable[[], signal.Signals | None]]:
    """Let the first Ctrl-C or SIGTERM only be noted; the second works as usual.

    Outside of the main thread, where Python delivers no signals, nothing changes.

    Yields:
        A function without arguments: the signal that came, or None.

    >>> with catch_interrupt() as interrupted:
    ...     before = interrupted()
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(before, interrupted().name)
    None SIGINT
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore():
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(signal_number, frame):
        came.append(signal.Signals(signal_number))
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        restore()
