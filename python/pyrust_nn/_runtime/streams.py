"""Redirects a step's streams, logging and signals to the session's log, and restores the host's when the step ends."""

from __future__ import annotations

import codecs
import io
import logging
import re
import signal
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from pyrust_nn import _core

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a step with its summary; SIGHUP: the terminal was closed. One that was ignored before stays ignored."""

LOG_EVERY_SECONDS = 5.0
"""A progress bar redraws itself many times a second; the log gets one of its lines per this interval."""

NOISY_LOGGERS = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops", "gguf.gguf_writer")
"""Loggers whose warnings do not help a user: one per 8-bit matrix product of every token, one per import."""


LIBRARIES = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib"))

DEVELOPERS_WARNING = re.compile(r": (Deprecation|Future|PendingDeprecation|Syntax|Import)Warning: ")
"""What Python's `warnings` module writes for those who maintain a package, not for those who use it."""

ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def encodable(text: str) -> str:
    """The text with lone surrogates escaped, which UTF-8 cannot encode. They come from file names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class StreamToLogger(io.TextIOBase):
    """A text stream whose lines become log records. Of lines that overwrite themselves (`\\r`) only some are kept."""

    def __init__(self, origin: str, host: Any, host_threads: set[int]) -> None:
        """`origin` (stdout or stderr) names the records. Output of the threads in `host_threads` goes to the stream `host`."""
        self.origin = origin
        self.host, self.host_threads = host, host_threads
        self.pieces: list[str] = []
        """The unfinished last line, in pieces: `print(".", end="")` a million times must not copy it a million times."""
        self.redrawn_at: float | None = None
        """When the bar on the unfinished line was logged last."""
        self.drawn_at: float | None = None
        """When it was drawn first."""
        self.lock = threading.RLock()
        self.buffer = _ByteStream(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8, as Rust expects."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What cannot be encoded is escaped."""
        return "backslashreplace"

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor of the stream that this one replaces, for child processes. The log gets what is written to it if captured."""
        if self.host is None:
            raise io.UnsupportedOperation("fileno")
        return int(self.host.fileno())

    def reconfigure(self, **settings: Any) -> None:
        """Accept and ignore settings: lines become records at once, in any encoding."""

    def write(self, text: str) -> int:
        """Accept text; complete lines become records at once."""
        if threading.get_ident() in self.host_threads and self.host is not None:
            return int(self.host.write(text))
        with self.lock:
            if "\n" not in text and "\r" not in text:
                self.pieces.append(text)
                return len(text)
            *whole, line = ("".join(self.pieces) + text).split("\n")
            for complete in whole:
                is_bar = "\r" in complete or self.redrawn_at is not None
                self._record(complete.rsplit("\r", 1)[-1], self._end_of_bar() if is_bar else "always")
                self.redrawn_at = self.drawn_at = None
                if is_bar:
                    _core.status("")
            drawn, redraws, rest = line.rpartition("\r")
            self.pieces = [rest]
            if redraws:
                drawn = rest or drawn.rsplit("\r", 1)[-1]
                _core.status(ESCAPE.sub("", drawn).strip())
                now = time.monotonic()
                self.redrawn_at = now if self.redrawn_at is None else self.redrawn_at
                self.drawn_at = now if self.drawn_at is None else self.drawn_at
                if drawn.strip() and now - self.redrawn_at >= LOG_EVERY_SECONDS:
                    self.redrawn_at = now
                    self._record(drawn, "off_terminal")
        return len(text)

    def _end_of_bar(self) -> str:
        """On which consoles the end of a bar is shown: of a short one, only beside debug lines."""
        lasted = 0.0 if self.drawn_at is None else time.monotonic() - self.drawn_at
        return "off_terminal" if lasted >= LOG_EVERY_SECONDS else "verbose"

    def finish(self) -> None:
        """Record an unfinished last line."""
        with self.lock:
            self._record("".join(self.pieces))
            self.pieces = []

    def _record(self, line: str, shown: str = "always") -> None:
        if line.strip():
            # What only a console with debug lines shows, `status` shows with them too.
            _core.log(logging.DEBUG if shown == "verbose" else logging.INFO, self.origin, encodable(line), shown)


class _ByteStream(io.RawIOBase):
    """`sys.stdout.buffer` of a replaced stream."""

    def __init__(self, text: StreamToLogger) -> None:
        """`text` gets what is written here, decoded."""
        self.text = text
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Accept bytes of UTF-8."""
        raw = bytes(data)
        self.text.write(self.decoder.decode(raw))
        return len(raw)


def shown_on(record: logging.LogRecord, text: str) -> str:
    """On which consoles `_core.log` shows a record: `extra={"shown": ...}` of the logging call, else by the file that it comes from."""
    if record.name == "py.warnings":
        return "verbose" if DEVELOPERS_WARNING.search(text) else "always"
    library = record.levelno < logging.WARNING and record.pathname.startswith(LIBRARIES) and not record.name.startswith("pyrust_nn")
    return getattr(record, "shown", "verbose" if library else "always")


class LogHandler(logging.Handler):
    """Sends records to the native log, and those of the host's threads to the host's handlers."""

    def __init__(self, host: list[logging.Handler], host_level: int, host_threads: set[int]) -> None:
        """`host` are the handlers replaced, `host_level` the root logger's level, `host_threads` the threads that existed before."""
        super().__init__(logging.DEBUG)
        self.host, self.host_level, self.host_threads = host, host_level, host_threads

    def emit(self, record: logging.LogRecord) -> None:
        """Errors in formatting a record are reported by `handleError`, not raised into the caller."""
        if record.thread in self.host_threads:
            if record.levelno >= self.host_level:
                for handler in self.host:
                    handler.handle(record)
            return
        try:
            text = encodable(self.format(record))
            _core.log(record.levelno, encodable(record.name), text, shown_on(record, text))
        except Exception:
            self.handleError(record)


class StreamBridge:
    """Holds streams, root logger, warnings and (in the embedded interpreter) signal handlers until `close` restores them."""

    def __init__(self) -> None:
        """Redirect all of them."""
        others = {thread.ident for thread in threading.enumerate() if thread.ident} - {threading.get_ident()}
        self.streams = (sys.stdout, sys.stderr)
        self.ours = (StreamToLogger("stdout", sys.stdout, others), StreamToLogger("stderr", sys.stderr, others))
        sys.stdout, sys.stderr = self.ours  # type: ignore[assignment]
        root = logging.getLogger()
        self.level, self.handlers = root.level, root.handlers[:]
        root.setLevel(logging.DEBUG)
        root.handlers[:] = [LogHandler(self.handlers, self.level, others)]
        self.showwarning, self.filters = warnings.showwarning, warnings.filters[:]
        logging.captureWarnings(True)
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)  # peft's use of transformers
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's in a notebook without ipywidgets: our bar needs none
        self.levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        if _core.EMBEDDED:
            handle_signals(STOPPING_SIGNALS, interrupt)  # Rust restores the earlier ones

    def close(self) -> None:
        """Record unfinished lines and restore everything."""
        for stream in self.ours:
            stream.finish()
        sys.stdout, sys.stderr = self.streams
        root = logging.getLogger()
        root.setLevel(self.level)
        root.handlers[:] = self.handlers
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
        logging.captureWarnings(False)
        warnings.showwarning = self.showwarning
        warnings.filters[:] = self.filters  # type: ignore[index]


def handle_signals(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], Any]) -> dict[signal.Signals, Any]:
    """Make `handler` handle those of the signals that are not ignored, and return the handlers before.

    Only the main thread can: in others nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle all of them alike: raise KeyboardInterrupt, so that the summary is still written."""
    raise KeyboardInterrupt(signal.Signals(number).name)
