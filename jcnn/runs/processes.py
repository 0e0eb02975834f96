"""Several processes that train one run together: how they begin and what they agree on.

All compute the same steps. The first one alone writes the run's folder.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._jax_internals import process_of_job, wait_for_job
from .config import OptionError
from .output import reason_of

_WAIT = 300  # seconds for the others to begin
_LOADING = 24 * 3600  # seconds for the others to load their data
T = TypeVar("T")


class OthersEnded(Exception):
    """Another process of the run cannot be reached any more."""


@contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Be one of a run's processes within the block; without coordinator the only one.

    Call it before the first computation.

    Args:
        coordinator: HOST:PORT of the first process, or "auto".
        num_processes, process_id: As in `RunConfig`.

    Raises:
        OptionError: If the options do not fit, or the coordinator cannot be reached.

    >>> with joined(None, None, None):
    ...     is_first()
    True
    """
    given = num_processes is not None or process_id is not None
    if coordinator in (None, "auto") and given:
        raise OptionError(
            "--num-processes and --process-id need a --coordinator HOST:PORT, got "
            f"{coordinator}"
        )
    if coordinator is None:
        yield
        return
    where: dict[str, Any] = {}
    if coordinator != "auto":
        where = _explicit(coordinator, num_processes, process_id)
        # JAX would end this process by a signal.
        if process_id:
            reach(coordinator, _WAIT)
        else:
            check_port(coordinator)
    name = "" if process_id is None else f" {process_id}"
    text = f"process{name} waits for the others, at most {_WAIT} seconds"
    print(text, file=sys.stderr, flush=True)
    try:
        with _ended_by_interrupt():
            jax.distributed.initialize(initialization_timeout=_WAIT, **where)
    except (RuntimeError, ValueError) as error:
        reason = reason_of(error)
        if coordinator == "auto" and "coordinator_address" in reason:
            reason = (
                "no job of a scheduler is found; --coordinator HOST:PORT, "
                "--num-processes and --process-id do without one"
            )
        raise OptionError(f"--coordinator {coordinator}: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        # JAX notes SIGTERM from here on, which would end nothing before training.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    try:
        yield
    finally:
        jax.distributed.shutdown()  # waits for the others


def leave(status: int) -> int:
    """Return the exit status after an error; of several processes, end this one.

    The others wait for it in a step: its end, which JAX notices, ends them.
    """
    if are_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not to wait for them
    return status


def reach(coordinator: str, seconds: float) -> None:
    """Wait until a coordinator can be reached.

    Raises:
        OptionError: If that takes longer.

    >>> reach("localhost:1", seconds=0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: --coordinator: localhost:1 cannot be reached for 0
    seconds: ...
    """
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), 10).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise OptionError(
                    f"--coordinator: {coordinator} cannot be reached for {seconds} "
                    f"seconds: {error}"
                ) from error
        time.sleep(0.5)


def check_port(coordinator: str) -> None:
    """Check that the first process can be reached at the port of a coordinator.

    Raises:
        OptionError: If another program of this machine uses it, or it may not be used.

    >>> with socket.create_server(("", 0)) as other:
    ...     check_port(f"localhost:{other.getsockname()[1]}")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    jcnn.runs.config.OptionError: --coordinator: port ... cannot be used: Address
    already in use
    """
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise OptionError(
            f"--coordinator: port {port} cannot be used: {reason}"
        ) from error


def is_first() -> bool:
    """Return whether this process writes the run's folder."""
    return process_of_job()[0] == 0


def are_several() -> bool:
    """Return whether this is one of several processes."""
    return process_of_job()[1] > 1


def gather(value: Any) -> list[Any]:
    """Return the values of all processes as JSON has them; each process calls this.

    Raises:
        OthersEnded: If one of them has ended.

    >>> gather({"step": 3})
    [{'step': 3}]
    """
    text = json.dumps(value)
    if not are_several():
        return [json.loads(text)]
    content = np.frombuffer(text.encode(), np.uint8)
    with _reaching_others():
        sizes = multihost_utils.process_allgather(np.int32(content.size))
        padded = np.pad(content, (0, sizes.max() - content.size))
        rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def together(function: Callable[[], T]) -> T:
    """Return a function's result; if it fails in one process, raise an error in all.

    Raises:
        OptionError: If the function fails in another process.
        Exception: Its error in this one.

    >>> together(lambda: 3)
    3
    """
    results, error = [], None
    try:
        results.append(function())
    except Exception as failed:
        error = failed
    if are_several():  # else Gloo would wait 30 seconds for those that load data
        with _reaching_others():
            wait_for_job(_LOADING)
    reasons = gather(error and (str(error) or type(error).__name__))
    if error is not None:
        raise error
    for reason in filter(None, reasons):
        raise OptionError(f"another process: {reason}")
    return results[0]


def same_arrays(tree: Any) -> Any:
    """Return the first process's arrays, as NumPy's: others may have rounded otherwise.

    Args:
        tree: Arrays of the same shapes and dtypes in all processes.
    """
    if not are_several():
        return tree
    host = jax.tree.map(lambda x: np.array(x, order="C"), tree)
    # As bytes, since they come as sums, in which -0.0 + 0.0 is 0.0.
    plain = jax.tree.map(lambda x: x.reshape(-1).view(np.uint8), host)
    shared = multihost_utils.broadcast_one_to_all(plain, is_first())
    return jax.tree.map(
        lambda x, b: np.asarray(b).view(x.dtype).reshape(x.shape), host, shared
    )


def is_divided(x: Any) -> bool:
    """Return whether each process has a part of an array only."""
    return isinstance(x, jax.Array) and not (
        x.is_fully_addressable or x.is_fully_replicated
    )


def on_host(tree: Any) -> Any:
    """Return a pytree of arrays as NumPy's, whole; all processes call this."""

    def whole(x: Any) -> Any:
        return multihost_utils.process_allgather(x, tiled=True) if is_divided(x) else x

    return jax.device_get(jax.tree.map(whole, tree))


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end this process at once: Python would do so after JAX's call only."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    usual = usual and threading.current_thread() is threading.main_thread()
    if usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _reaching_others() -> Iterator[None]:
    """Turn JAX's errors of communication into one."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise OthersEnded(
            f"another process has ended, and its output says why: {reason_of(error)}"
        ) from error


def _explicit(
    coordinator: str, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """Return the arguments of `jax.distributed.initialize`, checked."""
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise OptionError(
            f'--coordinator must be HOST:PORT or "auto", got {coordinator!r}'
        )
    if num_processes is None or process_id is None:
        raise OptionError(
            f"--coordinator {coordinator} needs --num-processes and --process-id"
        )
    if not 0 <= process_id < num_processes:
        raise OptionError(
            f"--process-id must be at least 0 and below {num_processes}, the "
            f"--num-processes, got {process_id}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",
    }
