"""A terminal for tests: a program runs in it, and what its screen shows can be read."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import weakref
from pathlib import Path

import pyte
from wcwidth import wcswidth


class Terminal:
    """A program on a pseudo-terminal of `columns` x `lines`."""

    def __init__(
        self, *words: str | Path, columns: int = 80, lines: int = 60, cwd: Path | None = None, breaks: bool = True, **environment: str
    ) -> None:
        """Start it. `environment` is added to that of this process. Without `breaks` a word longer than a line stays in one."""
        self.screen = pyte.Screen(columns if breaks else 1000, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"} | environment
        self.process = subprocess.Popen(
            [str(word) for word in words], stdin=child, stdout=child, stderr=child, cwd=cwd, env=env, start_new_session=True
        )
        os.close(child)
        # A test that fails leaves no process behind.
        weakref.finalize(self, self.process.kill)

    def read(self, seconds: float) -> bool:
        """Read what comes within `seconds`. False at the end of the program's output."""
        if not select.select([self.parent], [], [], seconds)[0]:
            return True
        try:
            block = os.read(self.parent, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.raw += block
        self.stream.feed(block)
        return bool(block)

    def wait_for(self, path: Path, timeout: float = 120) -> None:
        """Read until `path` exists, and then what was written before it did."""
        end = time.monotonic() + timeout
        while not path.exists():
            assert self.read(0.05) and time.monotonic() < end, self.text
        while self.read_ready():
            pass

    def read_ready(self) -> bool:
        """Read what is there within a moment that is longer than the redraw of a bar."""
        before = len(self.raw)
        return self.read(0.5) and len(self.raw) > before

    def finish(self, timeout: float = 300) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + timeout
        while self.read(1):
            assert time.monotonic() < end, self.text
        os.close(self.parent)
        return self.process.wait(timeout)

    @property
    def lines(self) -> list[str]:
        """The screen's lines without trailing blanks, to the last that is not empty."""
        return [line.rstrip() for line in self.text.split("\n")]

    @property
    def text(self) -> str:
        """The screen as text."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def broken(self) -> list[str]:
        """Words that the terminal broke at its edge. Paths, and what is longer than a line, it must break."""
        found = []
        for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode())):
            for word in re.finditer(r"\S+", line):
                start, length = wcswidth(line[: word.start()]), wcswidth(word[0])
                crosses = start // self.screen.columns != (start + length - 1) // self.screen.columns
                if crosses and "/" not in word[0] and length <= self.screen.columns:
                    found.append(word[0])
        return found

    @property
    def unwrapped(self) -> str:
        """The screen's words, of which the terminal broke none."""
        return " ".join("".join(self.screen.display).split())
