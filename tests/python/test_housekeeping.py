"""Keeping sessions in order: `sessions rm`, `sessions gc`, sorting and filtering; the log's limit and the filters of `status`."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = """
import logging
PARAMS = {"size": 1000, "fails": False, "lines": 0}
def run(params, session):
    folder = session.step_folder / "checkpoints" / "checkpoint-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").write_bytes(bytes(params.size))
    (session.step_folder / "kept").write_text("kept")
    logging.warning("a warning of %s", session.id)
    for number in range(params.lines):
        print("line", number)
    if params.fails:
        raise ValueError("it failed\\non purpose")
    return {"metrics": {"last_loss": params.size / 1e6}, "outputs": {"answers": "kept"}}
"""


@pytest.fixture
def made(cli: Cli, runs: Path, tmp_path: Path) -> Path:
    """Sessions: `small` and `large` succeeded; `failed` failed; `twice` succeeded and then failed."""
    (tmp_path / "s.py").write_text(SCRIPT)
    step = ["script", tmp_path / "s.py", "--runs-dir", runs]
    assert cli(*step, "--session", "small").returncode == 0
    assert cli(*step, "--session", "large", "--param", "size=3000000").returncode == 0
    assert cli(*step, "--session", "failed", "--param", "fails=true").returncode == 1
    assert cli(*step, "--session", "twice").returncode == 0
    assert cli(*step, "--session", "twice", "--overwrite", "--param", "fails=true").returncode == 1
    return runs


@pytest.fixture
def running(binary: Path, made: Path, tmp_path: Path) -> Iterator[str]:
    """A session in use."""
    (tmp_path / "wait.py").write_text("import time\ndef run(params, session):\n    open('reached', 'w').close()\n    time.sleep(600)\n")
    step = subprocess.Popen([binary, "script", "wait.py", "--session", "busy", "--runs-dir", made], cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (tmp_path / "reached").exists():
        assert step.poll() is None
        time.sleep(0.02)
    yield "busy"
    step.kill()
    step.wait()


def names(runs: Path) -> set[str]:
    return {one["session"] for one in pyrust_nn.list_sessions(runs_dir=runs)}


def test_removing_sessions(made: Path, cli: Cli) -> None:
    before = names(made)
    tried = cli("sessions", "rm", "large", "--dry-run", "--runs-dir", made)
    assert tried.returncode == 0 and "3.0 MB" in tried.stdout and "nothing was removed" in tried.stdout
    refused = cli("sessions", "rm", "large", "--runs-dir", made, input="y\n")
    assert refused.returncode == 2 and "--yes" in refused.stderr, "a pipe is nobody who can be asked"
    assert cli("sessions", "rm", "larg", "--yes", "--runs-dir", made).returncode == 2
    assert cli("sessions", "rm", "--yes", "--runs-dir", made).returncode == 2, "nothing is named"
    assert names(made) == before
    done = json.loads(cli("sessions", "rm", "large", "--yes", "--json", "--runs-dir", made).stdout)
    assert done["removed"] is True and done["bytes"] > 3_000_000 and done["parts"][0]["part"] == "session"
    assert cli("sessions", "rm", "--state", "failure", "--yes", "--runs-dir", made).returncode == 0
    assert names(made) == {"small", "twice"}, "a later step of `twice` failed, and the one that succeeded is worth keeping"
    assert cli("sessions", "rm", "--older-than", "1d", "--yes", "--runs-dir", made).stdout == "there is nothing to remove\n"
    assert cli("sessions", "rm", "--older-than", "0s", "--yes", "--runs-dir", made).returncode == 0
    assert [path.name for path in made.iterdir()] in ([], [".sessions.jsonl"])


@pytest.mark.parametrize(("answer", "is_removed"), [("y", True), ("n", False), ("", False)])
def test_it_asks_on_a_terminal(made: Path, binary: Path, answer: str, is_removed: bool) -> None:
    terminal = Terminal(binary, "sessions", "rm", "small", "--runs-dir", made)
    while "[y/N]" not in terminal.text:
        assert terminal.read(60), terminal.text
    os.write(terminal.parent, answer.encode() + b"\r")
    assert terminal.finish() == 0
    assert ("small" not in names(made)) == is_removed


def test_what_is_no_longer_needed(made: Path, cli: Cli) -> None:
    assert cli("sessions", "gc", "--yes", "--runs-dir", made).returncode == 2, "it does not say what"
    kept = {one: pyrust_nn.list_sessions(runs_dir=made)[0]["size_bytes"] for one in ["small"]}
    done = json.loads(cli("sessions", "gc", "--checkpoints", "--failed", "--json", "--yes", "--runs-dir", made).stdout)
    parts = {(part["session"], part["part"]) for part in done["parts"]}
    assert parts == {(one, "script/checkpoints") for one in ("small", "large", "twice")} | {("twice", "script.failed")}
    for session in ("small", "large", "twice"):
        assert (made / session / "script/kept").exists() and not (made / session / "script/checkpoints").exists()
    assert (made / "failed/script/checkpoints/checkpoint-1/state").exists(), "needed to resume"
    assert pyrust_nn.list_sessions(runs_dir=made)[0]["size_bytes"] == kept["small"] - 1000, "the list knows"
    assert json.loads(cli("sessions", "gc", "--checkpoints", "--failed", "--json", "--yes", "--runs-dir", made).stdout)["parts"] == []


def test_a_session_in_use_is_not_touched(made: Path, cli: Cli, running: str) -> None:
    refused = cli("sessions", "rm", running, "--yes", "--runs-dir", made)
    assert refused.returncode == 1 and "is in use by process" in refused.stderr
    assert cli("sessions", "rm", "--older-than", "0s", "--yes", "--runs-dir", made).returncode == 0
    assert cli("sessions", "gc", "--checkpoints", "--failed", "--yes", "--runs-dir", made).returncode == 0
    assert names(made) == {running} and (made / running / "script/begun.json").exists()


def test_archived_sessions_come_back_as_they_were(made: Path, cli: Cli, tmp_path: Path) -> None:
    before = {path.relative_to(made): path.read_bytes() for path in (made / "small").rglob("*") if path.is_file() and path.name != "lock"}
    archives = tmp_path / "archives"
    tried = cli("sessions", "archive", "small", "--into", archives, "--dry-run", "--runs-dir", made)
    assert tried.returncode == 0 and "nothing was archived" in tried.stdout and (made / "small").is_dir() and not archives.exists()
    assert cli("sessions", "archive", "small", "--into", archives, "--runs-dir", made).returncode == 2, "nobody can be asked"
    done = cli("sessions", "archive", "small", "--into", archives, "--yes", "--json", "--runs-dir", made)
    assert json.loads(done.stdout)["archived"] is True and not (made / "small").exists(), done.stderr
    assert cli("import", archives / "small.tar.zst", "--runs-dir", made).returncode == 0
    after = {path: (made / path).read_bytes() for path in before}
    assert {path for path in before if before[path] != after[path]} <= {Path("small/session.json")}, "it names its origin"
    again = cli("sessions", "archive", "small", "--into", archives, "--yes", "--runs-dir", made)
    assert again.returncode == 2 and "exists already" in again.stderr and (made / "small").is_dir(), again.stderr


def test_a_removal_that_was_killed_is_completed(made: Path, cli: Cli) -> None:
    (made / "large").rename(made / ".removed-large-77")
    assert "large" not in names(made)
    assert cli("sessions", "rm", "small", "--yes", "--runs-dir", made).returncode == 0
    assert not list(made.glob(".removed-*"))


def test_the_list_is_sorted_and_filtered(made: Path, cli: Cli) -> None:
    def listed(*words: str) -> list[str]:
        done = cli("sessions", *words, "--json", "--runs-dir", made)
        assert done.returncode == 0, done.stderr
        return [one["session"] for one in json.loads(done.stdout)]

    assert listed() == listed("--sort", "age", "--reverse") == ["small", "large", "failed", "twice"]
    assert listed("--sort", "session") == ["failed", "large", "small", "twice"]
    assert listed("--sort", "size")[-1] == "large"
    assert listed("--sort", "loss") == ["small", "large", "failed", "twice"] or listed("--sort", "loss")[-1] == "failed"
    assert listed("--filter", "state=failure") == ["failed", "twice"]
    assert listed("--filter", "state=failure", "--filter", "session=tw") == ["twice"]
    assert "no such sessions" in cli("sessions", "--filter", "task=merge", "--runs-dir", made).stdout
    for wrong in (["--filter", "state"], ["--filter", "colour=red"], ["--sort", "colour"]):
        assert cli("sessions", *wrong, "--runs-dir", made).returncode == 2


def test_the_log_is_filtered(made: Path, cli: Cli) -> None:
    def shown(*words: str) -> str:
        done = cli("status", "twice", *words, "--runs-dir", made)
        assert done.returncode == 0, done.stderr
        return done.stdout[done.stdout.index("\n\n") + 2 :]

    warnings = shown("--level", "warning")
    assert "a warning of twice" in warnings and "it failed" in warnings and "[INFO" not in warnings
    errors = shown("--level", "error")
    assert "it failed" in errors and "a warning" not in errors
    assert "Traceback" in shown("--level", "debug", "-n", "400") and "Traceback" not in shown("-n", "400")
    found = shown("--grep", "on purpose", "--level", "error").splitlines()
    assert any("it failed" in line for line in found) and any("on purpose" in line for line in found), "the whole record"
    assert shown("--since", "1h", "-n", "400") == shown("-n", "400") and shown("--since", "2199-01-01") == "no such log records\n"
    assert json.loads(cli("status", "twice", "--level", "error", "--json", "--runs-dir", made).stdout)["log"] == errors
    for wrong in (["--grep", "("], ["--since", "yesterday"], ["--level", "loud"]):
        refused = cli("status", "twice", *wrong, "--runs-dir", made)
        assert refused.returncode == 2 and wrong[1] in refused.stderr


def test_a_log_has_a_limit(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SCRIPT)
    limited: dict[str, Any] = {"env": os.environ | {"PYRUST_NN_LOG_MAX_BYTES": "40KiB"}}
    words = ["script", tmp_path / "s.py", "--param", "lines=3000", "--session", "s", "--runs-dir", runs]
    assert cli(*words, **limited).returncode == 0
    parts = [runs / "s/pipeline.log.1", runs / "s/pipeline.log"]
    assert all(part.stat().st_size <= 20 << 10 for part in parts)
    first = parts[1].read_text().splitlines()[0]
    assert "[INFO ]" in first and "the records before this one are in pipeline.log.1" in first and "PYRUST_NN_LOG_MAX_BYTES" in first
    log = pyrust_nn.get_status("s", runs_dir=runs)
    numbers = [int(line.rsplit(" ", 1)[1]) for line in log.splitlines() if ": line " in line]
    assert numbers == list(range(numbers[0], 3000)) and len(numbers) > 200, "the newest records, without a gap"
    assert "step script succeeded" in log
    assert pyrust_nn.get_status("s", 250, runs_dir=runs).splitlines() == log.splitlines()[-250:]
    refused = cli(*words, "--overwrite", env=os.environ | {"PYRUST_NN_LOG_MAX_BYTES": "much"})
    assert refused.returncode == 2 and "PYRUST_NN_LOG_MAX_BYTES=much is not a size" in refused.stderr
    refused = cli(*words, "--overwrite", env=os.environ | {"PYRUST_NN_MAX_RECORD_BYTES": "much"})
    assert refused.returncode == 2 and "PYRUST_NN_MAX_RECORD_BYTES=much is not a size" in refused.stderr
