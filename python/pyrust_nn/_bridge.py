"""A step's streams, logging and signals, led into the session's log; the host gets everything back when the step ends."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
import time
import warnings
from types import FrameType
from typing import Any

from pyrust_nn import _core

LOG_EVERY_SECONDS = 5.0
"""A progress bar redraws itself many times a second; the log gets one of its lines in this time."""

CHATTY = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops", "gguf.gguf_writer")
"""Loggers whose warnings tell a user nothing: one for every 8-bit product of every token, one for every import."""


class StreamToLogger(io.TextIOBase):
    """A text stream whose lines become records; lines that overwrite themselves (`\\r`) are thinned out."""

    def __init__(self, origin: str, host: Any, host_threads: set[int]) -> None:
        """Records get `origin` (stdout or stderr) as their name. What the host's own threads write goes to its own stream."""
        self.origin = origin
        self.host, self.host_threads = host, host_threads
        self.line = ""
        self.redrawn_at: float | None = None
        self.lock = threading.RLock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Text goes to Rust, which is UTF-8 throughout."""
        return "utf-8"

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Take text as it comes; whole lines become records at once."""
        if threading.get_ident() in self.host_threads and self.host is not None:
            return int(self.host.write(text))
        with self.lock:
            *whole, self.line = (self.line + text).split("\n")
            for line in whole:
                self._record(line.rsplit("\r", 1)[-1])
                self.redrawn_at = None
            if "\r" in self.line:
                drawn, _, rest = self.line.rpartition("\r")
                self.line = rest
                drawn = rest or drawn.rsplit("\r", 1)[-1]
                now = time.monotonic()
                self.redrawn_at = now if self.redrawn_at is None else self.redrawn_at
                if drawn.strip() and now - self.redrawn_at >= LOG_EVERY_SECONDS:
                    self.redrawn_at = now
                    self._record(drawn)
        return len(text)

    def finish(self) -> None:
        """Record what has no newline yet."""
        with self.lock:
            if self.line:
                self._record(self.line)
                self.line = ""

    def _record(self, line: str) -> None:
        if line.strip():
            _core.log(logging.INFO, self.origin, line)


class LogHandler(logging.Handler):
    """Hands records to the native log; those of the host's own threads to the host's handlers."""

    def __init__(self, host: list[logging.Handler], host_level: int, host_threads: set[int]) -> None:
        """Takes every level."""
        super().__init__(logging.DEBUG)
        self.host, self.host_level, self.host_threads = host, host_level, host_threads

    def emit(self, record: logging.LogRecord) -> None:
        """Errors in a record's own formatting are reported the standard way, not raised into the caller."""
        if record.thread in self.host_threads:
            if record.levelno >= self.host_level:
                for handler in self.host:
                    handler.handle(record)
            return
        try:
            _core.log(record.levelno, record.name, self.format(record))
        except Exception:
            self.handleError(record)


class Bridge:
    """Streams, root logger, warnings and (in the embedded interpreter) signals, until `close`, which gives them back."""

    def __init__(self) -> None:
        """Take over."""
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
        self.levels = {name: logging.getLogger(name).level for name in CHATTY}
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.signals: dict[int, Any] = {}
        if _core.EMBEDDED and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.signals[number] = signal.signal(number, interrupt)

    def close(self) -> None:
        """Give everything back, the last unfinished lines written."""
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


def interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C and SIGTERM end a step alike: the summary is still written."""
    raise KeyboardInterrupt(signal.Signals(number).name)
