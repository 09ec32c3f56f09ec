"""Processes that are to be disturbed while they work.

They run at the lowest priority, so that on a busy machine the test, which waits for a moment of their work, is heard first.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any


def start(words: list[str | Path], **more: Any) -> subprocess.Popen[Any]:
    """Start `words`; signals sent to the process reach the program itself, since `nice` becomes it."""
    return subprocess.Popen(["nice", "-n", "19", *map(str, words)], **more)


def wait_for(path: Path) -> None:
    """Wait until `path` exists, a sign that the process has come so far."""
    until = time.monotonic() + 600
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)
