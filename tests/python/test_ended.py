"""What may end a step from outside: signals, exit functions, limits and full disks. Each leaves a summary with the right kind."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disturbed
import pytest
from disturbed import wait_for

Cli = Callable[..., subprocess.CompletedProcess[str]]

WAITING = "import pathlib, time\ndef run(params, session):\n    pathlib.Path('here').touch()\n    time.sleep(params.seconds)\n"
PARAMS = "PARAMS = {'seconds': 600.0}\n"


def summary_of(step: Path) -> dict[str, Any]:
    """The step's summary."""
    summary: dict[str, Any] = json.loads((step / "summary.json").read_text(encoding="utf-8"))
    return summary


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_exit_code_is_128_and_the_signal(number: signal.Signals, binary: Path, tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(PARAMS + WAITING, encoding="utf-8")
    process = disturbed.start(
        [binary, "script", "waiting.py", "--session", "s", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait_for(tmp_path / "here")
    process.send_signal(number)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    error = json.loads(output)["error"]
    assert (error["kind"], error["signal"]) == ("interrupted", number)
    assert error == summary_of(tmp_path / "runs/s/script")["error"]
    assert ("Ctrl-C" if number == signal.SIGINT else number.name) in error["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_training_saves_its_step_first(number: signal.Signals, binary: Path, tmp_path: Path, data_json: str) -> None:
    words = [binary, "finetune-lora", "--session", "s", "--model", "builtin:tiny", "--dataset-path", data_json]
    process = disturbed.start([*words, "--num-epochs", "5000", "--save-steps", "1000000"], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "runs/s/finetune_lora/metrics.jsonl")
    process.send_signal(number)
    assert process.wait(600) == 128 + number
    assert list((tmp_path / "runs/s/finetune_lora/checkpoints").glob("checkpoint-*"))


def test_a_closed_terminal_leaves_the_summary(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(PARAMS + WAITING, encoding="utf-8")
    child, terminal = pty.fork()
    if child == 0:
        os.execv(binary, [str(binary), "script", "waiting.py", "--session", "s"])
    wait_for(tmp_path / "here")
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert "the terminal was closed" in summary_of(tmp_path / "runs/s/script")["error"]["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ignored_at_the_start_stays_ignored(number: signal.Signals, binary: Path, tmp_path: Path) -> None:
    text = f"import os\ndef run(params, session):\n    os.kill(os.getpid(), {int(number)})\n    session.progress(1, 1)\n"
    (tmp_path / "own.py").write_text(text, encoding="utf-8")
    words = [str(binary), "script", "own.py", "--session", "s"]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN), check=False)
    assert done.returncode == 0, done.stderr


EXITS = {
    "os._exit(0)": ("import os", "os._exit(0)"),
    "sys.exit(0)": ("import sys", "sys.exit(0)"),
}


@pytest.mark.parametrize("name", EXITS)
def test_an_exit_is_no_success_and_leaves_the_summary(name: str, cli: Cli, tmp_path: Path) -> None:
    head, call = EXITS[name]
    (tmp_path / "own.py").write_text(f"{head}\ndef run(params, session):\n    {call}\n", encoding="utf-8")
    done = cli("script", "own.py", "--session", "s")
    assert done.returncode == 1, done.stderr
    summary = summary_of(tmp_path / "runs/s/script")
    assert (summary["status"], summary["error"]["kind"]) == ("Failure", "script")


ABRUPT = {
    "C's exit": "import ctypes\ndef run(params, session):\n    ctypes.CDLL(None).exit(0)\n",
    "another thread": (
        "import os, threading, time\ndef run(params, session):\n"
        "    threading.Thread(target=lambda: os._exit(0)).start()\n    time.sleep(600)\n"
    ),
}


@pytest.mark.parametrize("name", ABRUPT)
def test_an_exit_without_a_summary_is_no_success(name: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ABRUPT[name], encoding="utf-8")
    done = cli("script", "own.py", "--session", "s")
    assert done.returncode == 1, done.stderr
    assert "exit" in done.stderr
    assert "interrupted" in cli("sessions").stdout


def test_a_forked_child_may_exit(cli: Cli, tmp_path: Path) -> None:
    text = (
        "import os\ndef run(params, session):\n    child = os.fork()\n    if child == 0:\n        os._exit(7)\n"
        "    return {'metrics': {'code': os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}}\n"
    )
    (tmp_path / "own.py").write_text(text, encoding="utf-8")
    done = cli("script", "own.py", "--session", "s")
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path / "runs/s/script")["metrics"] == {"code": 7}


@pytest.mark.parametrize("kib", [100, 900])
def test_a_file_s_size_limit_is_an_io_error_that_names_the_place(kib: int, binary: Path, tmp_path: Path, data_json: str) -> None:
    # The tiny model's weights, 550 KiB, or those of its optimizer, twice as large, exceed the limit.
    words = [str(binary), "finetune-full", "--session", "s", "--model", "builtin:tiny", "--dataset-path", data_json]
    subprocess.run([str(binary), "prepare", data_json, "--model", "builtin:tiny"], check=False, capture_output=True)
    words += ["--num-epochs", "1", "--save-steps", "2"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))

    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1, done.stderr
    step = tmp_path / "runs/s/finetune_full"
    error = summary_of(step)["error"]
    assert error["kind"] == "io" and "File too large" in error["message"], error
    assert str(step) in error["message"]
    assert not list((step / "checkpoints").iterdir()), "an unfinished checkpoint keeps no space"
