"""`status` and `sessions`: what happened, in words that a person reads, at the width of the terminal."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Terminal

Cli = Callable[..., subprocess.CompletedProcess[str]]
ENDINGS = {
    "success": "    return {'metrics': {'last_loss': 0.5}}",
    "failure": "    raise ValueError('no such thing')",
    "interrupted": "    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)\n    session.progress(1, 1)",
}


@pytest.fixture
def ended(cli: Cli, runs: Path, tmp_path: Path) -> Path:
    """The folder of three sessions, each with a script that ended in its own way."""
    for name, body in ENDINGS.items():
        path = tmp_path / f"{name}.py"
        path.write_text(f"def run(params, session):\n{body}\n")
        cli("script", path, "--session", name, "--runs-dir", runs)
    return runs


def test_what_happened_is_a_line_and_no_traceback(ended: Path, cli: Cli) -> None:
    shown = {name: cli("status", name, "--runs-dir", ended).stdout for name in ENDINGS}
    assert "script: interrupted by Ctrl-C; " in shown["interrupted"] and "`pyrust-nn resume interrupted`" in shown["interrupted"]
    assert "script: " in shown["failure"] and "no such thing" in shown["failure"]
    for text in shown.values():
        assert "Traceback" not in text and "KeyboardInterrupt" not in text and "DEBUG" not in text
    assert "Traceback" in cli("status", "failure", "--runs-dir", ended, "--verbose").stdout


def test_no_record_of_a_level_is_said(ended: Path, cli: Cli) -> None:
    done = cli("status", "success", "--level", "warning", "--runs-dir", ended)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "no such log records", done.stdout
    assert "no such log records" not in cli("status", "failure", "--level", "error", "--runs-dir", ended).stdout
    assert "log records" not in cli("status", "success", "-n", "0", "--runs-dir", ended).stdout


def test_a_state_has_the_same_word_everywhere(ended: Path, cli: Cli) -> None:
    import pyrust_nn

    listed = {one["session"]: one for one in json.loads(cli("sessions", "--json", "--runs-dir", ended).stdout)}
    in_python = {one["session"]: one for one in pyrust_nn.list_sessions(runs_dir=ended)}
    table = cli("sessions", "--runs-dir", ended).stdout
    for state in ENDINGS:
        assert listed[state]["state"] == listed[state]["steps"][0]["state"] == in_python[state]["state"] == state
        assert json.loads((ended / state / "session.json").read_text())["state"] == state
        assert f"{state}  " in cli("status", state, "--runs-dir", ended).stdout
        assert any(line.split()[:2] == [state, state] for line in table.splitlines())


def test_an_interrupted_pipeline_says_interrupted(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "stop.py").write_text(f"def run(params, session):\n{ENDINGS['interrupted']}\n")
    (tmp_path / "p.toml").write_text('[[step]]\ntask = "script"\nscript = "stop.py"\n')
    done = cli("run", "p.toml", "--session", "s", "--runs-dir", runs, cwd=tmp_path)
    assert done.returncode == 130 and done.stdout.splitlines()[1].split()[:2] == ["script", "interrupted"]


def test_the_list_fits_the_terminal(ended: Path, binary: Path, cli: Cli) -> None:
    """Model, task, loss, size and age are in aligned columns; on a narrow terminal those that do not fit are below their session."""
    wide = cli("sessions", "--runs-dir", ended).stdout.splitlines()
    assert wide[0].split() == ["session", "state", "model", "task", "loss", "size", "age"]
    column = wide[0].index("task")
    assert all(line[column:].startswith("script") for line in wide[1:])
    success = next(line.split() for line in wide if line.startswith("success"))
    assert success[2:5] == ["-", "script", "0.5"] and success[6] in ("kB", "B") and success[-1] == "s"
    terminal = Terminal(binary, "sessions", "--runs-dir", ended, columns=40)
    assert terminal.finish() == 0
    assert max(map(len, terminal.lines)) <= 40
    assert terminal.lines[0].split() == ["session", "state", "task", "loss"]
    at = next(i for i, line in enumerate(terminal.lines) if line.startswith("success"))
    assert terminal.lines[at].split() == ["success", "success", "script", "0.5"]
    assert terminal.lines[at + 1].startswith("  size: ") and terminal.lines[at + 2].startswith("  age: ")


def test_the_log_and_an_error_are_broken_between_words_and_their_rest_hangs(binary: Path, cli: Cli, runs: Path, tmp_path: Path) -> None:
    words = "the quantization of experts in a mixture needs considerably more memory than this machine has available, unfortunately; "
    (tmp_path / "own.py").write_text(f"def run(params, session):\n    print({words * 3!r})\n    raise ValueError({words * 2!r})\n")
    assert cli("script", "own.py", "--session", "s", "--runs-dir", runs, cwd=tmp_path).returncode == 1
    for columns, follow in ((80, []), (140, []), (80, ["--follow"])):
        terminal = Terminal(binary, "status", "s", "--runs-dir", runs, *follow, columns=columns)
        assert terminal.finish() == 0
        assert not terminal.broken, terminal.text
        assert terminal.unwrapped.count(words.strip()) >= 5, terminal.text
        records = [i for i, line in enumerate(terminal.lines) if re.match(r"20\d\d-", line)]
        first, last = records[0], records[-1]
        rest = [line for i, line in enumerate(terminal.lines[first:last], first) if i not in records]
        assert rest and all(line.startswith("    ") for line in rest), terminal.text
        at = next(i for i, line in enumerate(terminal.lines) if line.startswith("script: "))
        assert terminal.lines[at + 1].startswith("  "), terminal.text


def test_no_table_drops_anything_at_80_columns(binary: Path, cli: Cli, runs: Path, tmp_path: Path) -> None:
    """A pipeline's steps and the list of sessions, with names as long as the sample's."""
    (tmp_path / "long.py").write_text(
        "def run(params, session):\n    (session.step_folder / 'answers-of-the-model.jsonl').write_text('')\n"
        "    session.metric({'loss': 0.012345})\n"
        "    return {'outputs': {'answers': 'answers-of-the-model.jsonl'}, 'metrics': {'first_loss': 7.0312, 'last_loss': 0.0186109, "
        "'eval_loss': 0.25}}\n"
    )
    name = "convert_model_to_gguf_as_well"
    (tmp_path / "p.toml").write_text(f'[[step]]\ntask = "script"\nscript = "long.py"\nname = "{name}"\n')
    session = "20261126-202300-a-long-name"
    terminal = Terminal(binary, "run", "p.toml", "--session", session, "--runs-dir", runs, cwd=tmp_path)
    assert terminal.finish() == 0
    for words in (name, "success", "loss 7.031 → 0.01861, evaluation loss 0.25", f"{name}/answers-of-the-model.jsonl"):
        assert words in terminal.unwrapped, terminal.text
    terminal = Terminal(binary, "sessions", "--runs-dir", runs)
    assert terminal.finish() == 0
    for line in cli("sessions", "--runs-dir", runs).stdout.splitlines()[1:]:
        *cells, age = re.split(r"\s{2,}", line)
        assert all(cell in terminal.text for cell in cells if cell != "-") and age[-1] == "s", terminal.text
    assert re.search(r"^  (age|size): |age$", terminal.text, re.MULTILINE), terminal.text


def test_following_shows_what_comes_and_ends_with_the_step(binary: Path, cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(
        "import os, time\n\ndef run(params, session):\n    print('before')\n    session.metric({'loss': 1.5, 'eta_seconds': 90})\n"
        "    open('reached', 'w').close()\n    while not os.path.exists('go on'):\n        time.sleep(0.02)\n    print('after')\n"
    )
    step = subprocess.Popen([binary, "script", "wait.py", "--session", "s", "--runs-dir", runs], cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (tmp_path / "reached").exists():
        assert step.poll() is None
        time.sleep(0.02)
    state = json.loads(cli("status", "s", "--json", "--runs-dir", runs).stdout)["steps"][0]
    assert (state["state"], state["loss"], state["eta_seconds"]) == ("running", 1.5, 90) and state["duration_s"] > 0
    assert cli("status", "s", "--runs-dir", runs).stdout.splitlines()[1].split()[2] == "running"
    with subprocess.Popen([binary, "status", "s", "--follow", "--runs-dir", runs], stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        first = ""
        while "before" not in first:
            first = following.stdout.readline()
            assert first
        (tmp_path / "go on").touch()
        rest = following.stdout.read()
    assert step.wait() == 0 and following.returncode == 0
    assert "stdout: after" in rest and "step script succeeded" in rest
    assert rest.splitlines()[-1].split()[:3] == ["script", "script", "success"]


def test_the_bars_of_libraries_are_debug_lines(cli: Cli, runs: Path, tmp_path: Path) -> None:
    bar = "sys.stderr.write('\\rLoading weights: 50%'); sys.stderr.write('\\rLoading weights: 100%\\n')"
    (tmp_path / "bar.py").write_text(f"import sys\ndef run(params, session):\n    {bar}\n    print('mine')\n    return {{}}\n")
    assert cli("script", "bar.py", "--session", "s", "--runs-dir", runs).returncode == 0
    shown = cli("status", "s", "--runs-dir", runs).stdout
    assert "Loading weights" not in shown and "mine" in shown, shown
    assert "Loading weights: 100%" in cli("status", "s", "--runs-dir", runs, "--verbose").stdout
