"""A headless Chromium, spoken to by the DevTools protocol through a pipe."""

import fcntl
import json
import os
import shutil
import signal

NAME = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One page; all messages of its console, errors and requests are kept.

    `Runtime.evaluate` and the other methods are described at
    https://chromedevtools.github.io/devtools-protocol/.
    """

    def __init__(self, profile, *, width=1000, dark=False):
        self._out, writes = os.pipe()
        reads, self._in = os.pipe()
        options = "--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe"
        command = [NAME, *options.split(), f"--user-data-dir={profile}", "about:blank"]
        spare = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (reads, writes)]
        self._process = os.posix_spawn(  # a fork beside JAX's threads would be a danger
            NAME,
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, spare[0], 3),  # it reads from 3
                (os.POSIX_SPAWN_DUP2, spare[1], 4),  # and writes to 4
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        for end in (reads, writes, *spare):
            os.close(end)
        self._count, self._buffer, self._session, self.events = 0, b"", None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method, **params):
        """Call a method and return its result; keep the events before it."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def open(self, path):
        """Open a file and wait until it is loaded."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(self._read())

    def run(self, expression):
        """Return what a JavaScript expression gives, or what its promise does."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition):
        """Wait until a JavaScript expression is true; an error after 20 seconds."""
        assert self.run(
            f"""new Promise((done) => {{
              const end = Date.now() + 20000;
              const look = () => ({condition}) ? done(true)
                : Date.now() < end ? setTimeout(look, 20) : done(false);
              look();
            }})"""
        ), condition[:100]

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def named(self, method):
        return [event["params"] for event in self.events if event["method"] == method]

    def close(self):
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._out)
        os.close(self._in)

    def _read(self):
        while b"\0" not in self._buffer:
            part = os.read(self._out, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
