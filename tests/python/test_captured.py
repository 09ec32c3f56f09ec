"""What child processes and C libraries write while a step runs reaches the log, and the terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = """
import ctypes, os, subprocess, sys
def run(params, session):
    subprocess.run(["echo", "a child's line"])
    subprocess.run(["sh", "-c", "echo an error of a child >&2; printf '10%%\\\\r20%%\\\\r30%%\\\\n'"])
    subprocess.run(["echo", "by fileno"], stdout=sys.stdout)
    os.write(1, b"raw and unfinished")
    ctypes.CDLL(None).printf(b"by printf\\n")
    print("by print")
"""
LINES = [
    ("stdout", "a child's line"),
    ("stderr", "an error of a child"),
    ("stdout", "30%"),
    ("stdout", "by fileno"),
    ("stdout", "by print"),
]


def log_of(runs: Path) -> list[tuple[str, str]]:
    """Origin and text of the log's records."""
    text = (runs / "s/pipeline.log").read_text(encoding="utf-8")
    return re.findall(r"^\S+ \[\w+ *\] (\S+): (.*)$", text, re.MULTILINE)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def test_the_log_and_the_terminal_have_every_line(script: Path, runs: Path, cli: Cli) -> None:
    done = cli("script", script, "--session", "s")
    assert done.returncode == 0, done.stderr
    found = log_of(runs)
    for origin, text in LINES:
        assert (origin, text) in found, (origin, text, found)
        assert text in done.stderr
    said = "\n".join(text for _, text in found)
    assert "raw and unfinished" in said
    assert "by printf" in said


def test_json_stays_alone_on_stdout(script: Path, runs: Path, cli: Cli) -> None:
    done = cli("script", script, "--session", "s", "--json")
    assert json.loads(done.stdout)["status"] == "Success"
    assert any(text == "by fileno" for _, text in log_of(runs))


def test_last_words_before_a_fatal_signal_are_shown(tmp_path: Path, runs: Path, cli: Cli) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import os\ndef run(params, session):\n    os.write(2, b'last words')\n    os.abort()\n", encoding="utf-8")
    done = cli("script", path, "--session", "s")
    assert done.returncode == -6
    assert "last words" in done.stderr


def test_a_process_left_behind_is_not_waited_for(tmp_path: Path, runs: Path, cli: Cli) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import subprocess\ndef run(params, session):\n    return {'pid': subprocess.Popen(['sleep', '300']).pid}\n", encoding="utf-8"
    )
    done = cli("script", path, "--session", "s", "--json", timeout=120)
    pid = json.loads(done.stdout)["result"]["pid"]
    subprocess.run(["kill", str(pid)], check=True)


def test_a_forked_process_does_not_hold_the_terminal(tmp_path: Path, runs: Path, cli: Cli) -> None:
    path = tmp_path / "mine.py"
    text = (
        "import os, time\ndef run(params, session):\n    child = os.fork()\n    if not child:\n        os.write(1, b'from the fork\\n')\n"
    )
    text += "        time.sleep(3600)\n        os._exit(0)\n    time.sleep(1)\n    return {'metrics': {'child': child}}\n"
    path.write_text(text, encoding="utf-8")
    # `cli` waits until nothing holds stdout and stderr any more.
    done = cli("script", path, "--session", "s", timeout=120)
    assert done.returncode == 0, done.stderr
    assert ("stdout", "from the fork") in log_of(runs)
    summary = json.loads((runs / "s/script/summary.json").read_text(encoding="utf-8"))
    subprocess.run(["kill", str(summary["metrics"]["child"])], check=True)


HOST = """
import os, subprocess, sys
import pyrust_nn
pyrust_nn.set_console(False)
pyrust_nn.capture_output(CAPTURE)
pyrust_nn.run_script("s", "mine.py")
os.write(1, b"after\\n")
subprocess.run(["echo", "after too"])
"""


@pytest.mark.parametrize("capture", [False, True])
def test_a_host_program_keeps_its_descriptors_unless_it_asks(capture: bool, script: Path, runs: Path, tmp_path: Path) -> None:
    program = HOST.replace("CAPTURE", str(capture))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ("a child's line" in done.stdout) is not capture
    assert done.stdout.endswith("after\nafter too\n")
    assert any(text == "a child's line" for _, text in log_of(tmp_path / "runs")) is capture
