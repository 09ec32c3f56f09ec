"""Answers on a terminal, in the order of their prompts, while several are generated at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


class AnswersInOrder:
    """Shows the first answer that is not complete while it grows. What comes of later ones waits."""

    def __init__(self, write: Callable[[str], None], headings: Sequence[str]) -> None:
        """`headings` are shown before the answers, one each; the only prompt has none."""
        self._write, self._headings = write, headings
        self._several = len(headings) > 1
        self._waiting = [""] * len(headings)
        self._complete = [False] * len(headings)
        self._first = -1
        self._lock = threading.Lock()
        self._next()

    def text(self, index: int, text: str) -> None:
        """Of the answer to prompt `index`, the next characters."""
        with self._lock:
            if index == self._first:
                self._write(text)
            else:
                self._waiting[index] += text

    def end(self, index: int) -> None:
        """The answer to prompt `index` is complete."""
        with self._lock:
            self._complete[index] = True
            while self._first < len(self._complete) and self._complete[self._first]:
                self._write("\n\n" if self._several else "\n")
                self._next()

    def _next(self) -> None:
        """Go to the next answer: its heading, and what there is of it."""
        self._first += 1
        if self._first < len(self._headings):
            if self._several:
                self._write(f"> {self._headings[self._first]}\n")
            if self._waiting[self._first]:
                self._write(self._waiting[self._first])
