"""Processes that are to be disturbed while they work.

They run at the lowest priority, so that on a busy machine the test, which waits for a moment of their work, is heard first.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def start(words: list[str | Path], **more: Any) -> subprocess.Popen[Any]:
    """Start `words`; signals sent to the process reach the program itself, since `nice` becomes it."""
    return subprocess.Popen(["nice", "-n", "19", *map(str, words)], **more)
