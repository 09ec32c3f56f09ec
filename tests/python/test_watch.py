"""`watch` on a terminal: what it shows, and that it leaves the terminal as it was, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Terminal
from test_report import summary, write_metrics, write_session

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def session(runs: Path) -> Path:
    metrics = {"first_loss": 3.0, "last_loss": 0.01}
    folder = write_session(runs, [summary("finetune_lora", "tune", metrics=metrics)], "first")
    write_metrics(folder / "tune", ({"step": i, "loss": 3 / i, "tokens_per_second": 5000 + i} for i in range(1, 301)))
    (folder / "pipeline.log").write_text("2026-01-01T00:00:00.000Z [INFO ] a: a fact\n2026-01-01T00:00:01.000Z [WARN ] a: a warning\n")
    return folder


def until(terminal: Terminal, words: str, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while words not in terminal.text:
        assert terminal.read(0.2) and time.monotonic() < end, terminal.text


def settings(terminal: Terminal) -> list[object]:
    return termios.tcgetattr(terminal.parent)


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (140, 50)])
def test_it_shows_curves_steps_and_log_and_leaves_the_terminal_as_it_was(binary: Path, session: Path, columns: int, lines: int) -> None:
    # A shell that stays keeps the terminal open after the program, so that its state can be read.
    words = ["/bin/sh", "-c", '"$0" watch first --runs-dir "$1"; echo "left with $?"; read end', binary, session.parent]
    terminal = Terminal(*words, columns=columns, lines=lines)
    before = settings(terminal)
    until(terminal, "q leaves")
    text = terminal.text
    assert "first  success  1 step" in text and "tune  success" in text and "loss 3 → 0.01 at step 300, lowest 0.01" in text
    assert "tokens per second 5,300" in text or "tokens per second 5300" in text
    assert "a fact" in text and "a warning" in text and any(block in text for block in "▁▂▃▄▅▆▇█")
    assert settings(terminal) != before, "keys come as they are pressed"
    os.write(terminal.parent, b"l")
    until(terminal, "log, warn and above")
    assert "a fact" not in terminal.text and "a warning" in terminal.text
    os.write(terminal.parent, b"q")
    until(terminal, "left with 0")
    assert settings(terminal) == before
    assert terminal.raw.count(b"\x1b[?1049h") == terminal.raw.count(b"\x1b[?1049l") == 1
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l"), "the cursor is shown again"
    os.write(terminal.parent, b"\n")
    assert terminal.finish() == 0


@pytest.mark.parametrize("columns", [80, 140])
def test_no_word_of_an_error_is_cut_off(binary: Path, session: Path, columns: int) -> None:
    message = " ".join(f"reason{i}" for i in range(1, 31))
    error = {"kind": "script", "message": message, "causes": [], "traceback": None}
    write_session(session.parent, [summary("script", "own", status="Failure", error=error)], "second", state="failure")
    record = f"2026-01-01T00:00:00.000Z [ERROR] pyrust_nn::step::run: step own failed (script): {message}\n"
    (session.parent / "second/pipeline.log").write_text(record)
    terminal = Terminal(binary, "watch", "second", "--runs-dir", session.parent, columns=columns, lines=30)
    until(terminal, "q leaves")
    steps, _, log = terminal.text.partition("log, info and above")
    for part in (steps, log):
        shown = part.split()
        assert [f"reason{i}" for i in range(1, 31) if f"reason{i}" not in shown] == []
    os.write(terminal.parent, b"q")
    assert terminal.finish() == 0


@pytest.mark.parametrize(("end", "code"), [("key", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_every_end_restores_the_terminal(binary: Path, session: Path, end: str | signal.Signals, code: int) -> None:
    words = ["/bin/sh", "-c", 'trap "" INT HUP TERM; (trap - INT HUP TERM; exec "$0" watch --runs-dir "$1"); echo "left with $?"; read end']
    terminal = Terminal(*words, binary, session.parent, columns=80, lines=24)
    before = settings(terminal)
    until(terminal, "q leaves")
    if isinstance(end, signal.Signals):
        found = subprocess.run(["pgrep", "-P", str(terminal.process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[0]), end)
    else:
        os.write(terminal.parent, b"\x03")  # Ctrl-C as the terminal sends it
    until(terminal, f"left with {code}")
    assert settings(terminal) == before
    assert terminal.raw.count(b"\x1b[?1049h") == terminal.raw.count(b"\x1b[?1049l") == 1
    os.write(terminal.parent, b"\n")
    assert terminal.finish() == 0


def test_what_cannot_be_watched_is_said(cli: Cli, binary: Path, session: Path, tmp_path: Path) -> None:
    refused = cli("watch", "first", "--runs-dir", session.parent)
    assert refused.returncode == 2 and "pyrust-nn status SESSION --follow" in refused.stderr
    for words, why in ((["fist"], "did you mean first?"), (["--runs-dir", str(tmp_path / "none")], "there is no session in")):
        terminal = Terminal(binary, "watch", *([*words, "--runs-dir", str(session.parent)] if words == ["fist"] else words))
        assert terminal.finish() == 2
        assert why in " ".join(terminal.text.split()) and b"\x1b[?1049h" not in terminal.raw
