"""What a notebook's cell shows while a step runs: one progress bar, and the answers as one output that grows.

Both are displays of IPython, which every notebook's kernel for Python has, and are updated in place.
"""

from __future__ import annotations

import html
import math
import threading
import time
from typing import Any

EVERY_SECONDS = 0.1
"""A display is updated at most so often. A model makes a hundred words a second, and each update holds the whole text."""

LONGEST = 50_000
"""Characters of answers in one output, for the same reason; then another begins."""


class LiveDisplay:
    """One output of a cell, which is replaced by later content."""

    def __init__(self) -> None:
        """There is no output before the first content."""
        self._handle: Any = None
        self._waiting: dict[str, str] | None = None
        self._shown_at = -math.inf

    def show(self, content: dict[str, str], *, after: float = EVERY_SECONDS) -> None:
        """Show this content by MIME type, unless the display was updated within the last `after` seconds. Then it waits."""
        self._waiting = content
        if time.monotonic() - self._shown_at >= after:
            self.flush()

    def flush(self) -> None:
        """Show the content that waits."""
        from IPython.display import display

        content, self._waiting = self._waiting, None
        if content is None:
            return
        self._shown_at = time.monotonic()
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


class CellOutput:
    """The outputs of one step after another. Called by Rust, from any thread."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self._bar: LiveDisplay | None = None
        self._answers = LiveDisplay()
        self._text = ""

    def progress(self, title: str, done: int, total: int, text: str) -> None:
        """Draw the bar of a step, or of an operation in it: `done` of `total`, and a text such as the loss.

        Before something is done there is no bar, and beside answers none either: they show progress themselves.
        """
        with self._lock:
            if self._text or (self._bar is None and done == 0):
                return
            self._bar = self._bar or LiveDisplay()
            self._bar.show(bar(title, done, total, text), after=0 if done >= total else EVERY_SECONDS)

    def stream(self, text: str) -> None:
        """Add text to the answers."""
        with self._lock:
            if len(self._text) > LONGEST:
                self._answers.flush()
                self._answers, self._text = LiveDisplay(), ""
            self._text += text
            # After a line the next text may take long to come.
            self._answers.show(answers(self._text), after=EVERY_SECONDS / 10 if text.endswith("\n") else EVERY_SECONDS)

    def end(self) -> None:
        """The step has ended: show what waits. The next one has outputs of its own."""
        with self._lock:
            for shown in (self._bar, self._answers):
                if shown is not None:
                    shown.flush()
            self._begin()


def bar(title: str, done: int, total: int, text: str) -> dict[str, str]:
    """A progress bar by MIME type."""
    percent = math.floor(100 * min(done, total) / total) if total else 0
    counts = f"{done}/{total}"
    label = html.escape(title)
    drawn = f'<progress value="{done}" max="{max(total, 1)}" aria-label="{label}" style="width:16em;vertical-align:middle"></progress>'
    return {
        "text/plain": "  ".join(part for part in (title, f"{percent}%", counts, text) if part),
        "text/html": f'<div style="white-space:pre-wrap">{label}  {percent}% {drawn} {counts}  {html.escape(text)}</div>',
    }


def answers(text: str) -> dict[str, str]:
    """Answers by MIME type. As plain text a notebook would break them within words."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;word-break:normal"
    return {"text/plain": text, "text/html": f'<pre style="{style}">{html.escape(text)}</pre>'}
