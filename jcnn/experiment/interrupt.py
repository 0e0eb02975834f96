"""Ctrl-C as a question to ask between two pieces of work."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def catch_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only be noted; the second one ends the program as usual.

    Outside of the main thread, where Python delivers no signals, nothing changes.

    Yields:
        A function without arguments: has Ctrl-C been pressed?

    >>> import os, signal
    >>> with catch_interrupt() as interrupted:
    ...     before = interrupted()
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(before, interrupted())
    False True
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(signal_number, frame):
        pressed.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
