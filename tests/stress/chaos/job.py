"""The processes of a run, started, hit and waited for as one."""

import signal
import subprocess
import time


class Job:
    """What of `subprocess.Popen` is needed here, for one or several processes.

    Args:
        processes: The first one of them holds the run's folder.
    """

    def __init__(self, *processes: subprocess.Popen[bytes]):
        self._processes = processes
        self._hit = processes[0]

    @property
    def pid(self) -> int:
        """The number of the first process."""
        return self._processes[0].pid

    def poll(self) -> int | None:
        """Return the exit status of the first process, None if it runs."""
        return self._processes[0].poll()

    def send_signal(self, number: signal.Signals, process: int) -> None:
        """Send a signal to one of them, counted from 0."""
        self._hit = self._processes[process]
        self._hit.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait until all have ended.

        Returns:
            The status of the one that was hit, or of the first one; if it is 0, that of
            one that failed.

        Raises:
            subprocess.TimeoutExpired: If it takes longer.
        """
        end = time.monotonic() + seconds
        for process in self._processes:
            process.wait(max(0.0, end - time.monotonic()))
        statuses = (p.returncode for p in (self._hit, *self._processes))
        return next(filter(None, statuses), 0)

    def kill(self) -> None:
        """End all that still run."""
        for process in self._processes:
            process.kill()
            process.wait()
