"""Standard streams whose errors do not end a run, and printable text."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast


@contextmanager
def lasting_output() -> Iterator[None]:
    """Keep printing within the block from raising errors.

    Characters that the encoding lacks are printed as escapes. If a stream ends, say
    because of `| head -1` or a full disk, the other one reports it once; further output
    to it is lost. Warnings of jcnn are printed as one line, without the place in its
    source. It is a decorator too: `@lasting_output()`.

    >>> import io
    >>> from contextlib import redirect_stdout
    >>> pipe = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    >>> with redirect_stdout(pipe), lasting_output():
    ...     print("é")
    >>> pipe.buffer.getvalue()
    b'\\\\xe9\\n'
    """
    usual, usual_format = (sys.stdout, sys.stderr), warnings.formatwarning

    def format_warning(message, category, filename, *where: Any, **how: Any) -> str:
        if Path(filename).is_relative_to(Path(__file__).parents[1]):
            return f"warning: {message}\n"
        return usual_format(message, category, filename, *where, **how)

    with open(os.devnull, "w") as nowhere:  # for a process that was started without
        output = _Lasting(usual[0] or nowhere, "standard output")
        errors = _Lasting(usual[1] or nowhere, "standard error")
        output.other, errors.other = errors, output
        sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
        warnings.formatwarning = format_warning
        try:
            yield
        finally:
            output.flush()  # what is left would be written where it is not caught
            errors.flush()
            sys.stdout, sys.stderr = usual
            warnings.formatwarning = usual_format


def reason_of(error: Exception) -> str:
    """Return the first line of an error's message; its type's name without one.

    >>> reason_of(ValueError("no such file\\nsee above")), reason_of(KeyError())
    ('no such file', 'KeyError')
    """
    return [*str(error).splitlines(), type(error).__name__][0]


def printable(text: str) -> str:
    """Return a text with escapes for line ends, control characters and invalid bytes.

    >>> printable("a\\nb\\x1b[2J é \\udce9")
    'a\\\\nb\\\\x1b[2J é \\\\udce9'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def in_line(value: Any) -> str:
    """Return a value read from a file as one printable line: text, or else JSON.

    >>> in_line("a\\nb"), in_line([1, None])
    ('a\\\\nb', '[1, null]')
    """
    return printable(value) if isinstance(value, str) else json.dumps(value)


class _Lasting:
    """A text stream whose `write` and `flush` raise no errors."""

    other: "_Lasting"

    def __init__(self, stream: TextIO, name: str):
        self._stream = stream
        self._name = name
        self._ended = False

    def write(self, text: str) -> int:
        # File names can contain bytes that no encoding has.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        plain = text.encode(encoding, "backslashreplace").decode(encoding)
        self._attempt(self._stream.write, plain)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def close(self) -> None:
        """Leave the stream open: a logger that was made in the block may close it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Callable[..., Any], *arguments: Any) -> None:
        if self._ended:
            return
        try:
            action(*arguments)
        except (OSError, ValueError) as error:  # the latter of a stream that was closed
            self._ended = True
            self._discard()
            reason = getattr(error, "strerror", None) or error
            self.other.write(
                f"{self._name} has ended ({reason}): what is printed there is lost "
                "from here on, and the program goes on\n"
            )
            self.other.flush()

    def _discard(self) -> None:
        """Redirect the stream to the null device: its buffer is still written."""
        with suppress(OSError, ValueError, AttributeError):  # it may be no real file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)
