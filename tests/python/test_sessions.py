"""Logs, records and user scripts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import disturbed
import pytest

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

RECORD = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[(DEBUG|INFO |WARN |ERROR)\] (\S+): (.*)$")

NOISY = """
import logging
import sys

PARAMS = {"count": 3, "rate": 0.5, "name": "x", "tags": ["a"], "deep": False, "any": None}


def run(params, session):
    print("first")
    logging.getLogger("mine").warning("second\\nof two lines")
    print("third", file=sys.stderr)
    for i in range(1000):
        print(f"\\rbar {i}/1000", end="", file=sys.stderr)
    print(file=sys.stderr)
    for i in range(params.count):
        session.metric({"i": i, "path": session.step_folder})
    print("last, without a newline", end="")
    return {"metrics": {"count": params.count}, "result": vars(params)}
"""


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """A script that says things in every way."""
    path = tmp_path / "noisy.py"
    path.write_text(NOISY)
    return path


def test_one_log_in_order_with_nothing_lost(noisy: Path, runs: Path, cli: Cli) -> None:
    assert cli("script", noisy, "--session", "s", "--runs-dir", runs).returncode == 0
    lines = (runs / "s/pipeline.log").read_text().splitlines()
    records = [match.groups() for line in lines if (match := RECORD.match(line))]
    assert all(RECORD.match(line) or line.startswith("    ") for line in lines), lines
    texts = [text for _, _, text in records]
    order = [texts.index(word) for word in ("first", "second", "third", "last, without a newline")]
    assert order == sorted(order)
    assert "    of two lines" in lines
    assert {origin for _, origin, _ in records} >= {"stdout", "stderr", "mine", "pyrust_nn::step::run"}
    bars = [text for text in texts if text.startswith("bar ")]
    assert 1 <= len(bars) <= 3 and bars[-1] == "bar 999/1000", bars
    assert pyrust_nn.get_status("s", 2, runs_dir=runs) == "\n".join(lines[-2:]) + "\n"
    assert pyrust_nn.get_status("s", runs_dir=runs) == "\n".join(lines) + "\n"


def test_a_script_s_parameters_are_typed(noisy: Path, runs: Path, cli: Cli) -> None:
    done = cli(
        "script", noisy, "--session", "s", "--runs-dir", runs, "--json", "--param", "count=2", "--param", "name=5", "--param", "rate=1"
    )
    result = json.loads(done.stdout)["result"]
    assert result == {"count": 2, "rate": 1.0, "name": "5", "tags": ["a"], "deep": False, "any": None}
    assert [json.loads(line)["i"] for line in (runs / "s/script/metrics.jsonl").read_text().splitlines()] == [0, 1]
    for wrong, words in (({"cuont": 2}, "did you mean count"), ({"count": "2"}, "of type int"), ({"deep": 1}, "of type bool")):
        with pytest.raises(pyrust_nn.UsageError, match=words):
            pyrust_nn.run_script("t", noisy, params=wrong, runs_dir=runs)
    done = cli("script", noisy, "--session", "u", "--runs-dir", runs, "--param", "count=many")
    assert done.returncode == 2 and "of type int" in done.stderr
    done = cli("script", noisy, "--session", "u", "--runs-dir", runs, "--param", "count")
    assert done.returncode == 2 and "NAME=VALUE" in done.stderr


def test_a_script_is_a_pipeline_s_step(noisy: Path, runs: Path, cli: Cli, tmp_path: Path) -> None:
    step = '[[step]]\ntask = "script"\nscript = "noisy.py"\n'
    (tmp_path / "mine.toml").write_text(f'{step}name = "one"\nparams = {{count = 1}}\n{step}name = "two"\n')
    done = cli("run", "mine.toml", "--session", "s", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^one +success .*\n^two +success", done.stdout, re.MULTILINE), done.stdout
    assert json.loads((runs / "s/one/summary.json").read_text())["metrics"] == {"count": 1}
    summaries = pyrust_nn.run_pipeline("mine.toml", session="t", runs_dir=str(runs))
    assert [one["step"] for one in summaries] == ["one", "two"]


def test_a_pipeline_stops_at_the_step_that_fails(runs: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def run(params, session):\n    raise ValueError('no')\n")
    (tmp_path / "p.toml").write_text(
        '[[step]]\ntask = "script"\nscript = "bad.py"\n[[step]]\ntask = "script"\nscript = "bad.py"\nname = "two"\n'
    )
    done = cli("run", "p.toml", "--session", "s", "--runs-dir", runs)
    assert done.returncode == 1
    assert re.search(r"^two +not run", done.stdout, re.MULTILINE), done.stdout
    assert "ValueError: no" in done.stderr
    assert not (runs / "s/two").exists()


def test_session_json_says_what_ran_on_what(runs: Path, data_json: str) -> None:
    pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, num_epochs=1, seed=7, runs_dir=runs)
    record = json.loads((runs / "s/session.json").read_text())
    assert record["sha256"][data_json] == hashlib.sha256(Path(data_json).read_bytes()).hexdigest()
    weights = [path for path in record["sha256"] if path.endswith("model.safetensors")]
    assert len(weights) == 1, "the base model's files are hashed, also where it is no folder of the user's"
    assert record["sha256"][weights[0]] == hashlib.sha256(Path(weights[0]).read_bytes()).hexdigest()
    assert record["seeds"] == {"finetune_lora": 7}
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers", "peft"} <= record["packages"].keys()
    assert [one["status"] for one in record["invocations"]] == ["Success"]
    summary = json.loads((runs / "s/finetune_lora/summary.json").read_text())
    assert (runs / "s" / summary["outputs"]["adapter"]).is_dir()
    assert (runs / "s/finetune_lora/script.py").read_text().startswith('"""LoRA')


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_step_leaves_its_summary(number: int, binary: Path, runs: Path, data_json: str) -> None:
    words = [binary, "finetune-lora", "--session", "s", "--model", "builtin:tiny", "--dataset-path", data_json, "--runs-dir", runs]
    process = disturbed.start([*words, "--num-epochs", "5000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 6000
    while time.monotonic() < until and not (runs / "s/finetune_lora/metrics.jsonl").exists():
        time.sleep(0.1)
    assert pyrust_nn.list_sessions(runs_dir=runs)[0]["state"] == "running"
    process.send_signal(number)
    assert process.wait(120) == 128 + number
    summary = json.loads((runs / "s/finetune_lora/summary.json").read_text())
    assert (summary["status"], summary["error"]["kind"]) == ("Failure", "interrupted")
    assert not (runs / "s/finetune_lora/adapter").exists()


def test_a_killed_step_reads_as_interrupted_and_frees_the_session(binary: Path, runs: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef run(params, session):\n    print('here')\n    time.sleep(60)\n")
    (tmp_path / "quick.py").write_text("def run(params, session):\n    pass\n")
    process = disturbed.start([binary, "script", "slow.py", "--session", "s", "--runs-dir", runs], stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if b"here" in line:
            break
    busy = cli("script", "quick.py", "--session", "s", "--step", "other", "--runs-dir", runs)
    assert busy.returncode == 1 and f"process {process.pid}" in busy.stderr
    process.kill()
    process.wait()
    assert re.search(r"script +script +interrupted", cli("status", "s", "--runs-dir", runs).stdout)
    assert cli("script", "quick.py", "--session", "s", "--runs-dir", runs).returncode == 0


def test_offline_lets_nothing_out(runs: Path, tmp_path: Path, cli: Cli) -> None:
    script = "import socket\ndef run(params, session):\n    socket.create_connection(({host!r}, 9), timeout=1)\n"
    for name, host in (("net.py", "203.0.113.1"), ("own.py", "127.0.0.1")):
        (tmp_path / name).write_text(script.format(host=host))
    done = cli("script", "net.py", "--session", "s", "--runs-dir", runs, "--offline")
    assert done.returncode == 1 and "offline" in done.stderr
    assert json.loads((runs / "s/script/summary.json").read_text())["error"]["kind"] == "model"
    done = cli("script", "own.py", "--session", "t", "--runs-dir", runs, "--offline")
    assert json.loads((runs / "t/script/summary.json").read_text())["error"]["message"].startswith("ConnectionRefusedError")


def test_runs_dir_from_the_environment(tmp_path: Path, noisy: Path, cli: Cli) -> None:
    other = tmp_path / "other"
    assert cli("script", noisy, "--session", "s", env=os.environ | {"PYRUST_NN_RUNS": str(other)}).returncode == 0
    assert (other / "s/session.json").is_file() and not Path("runs").exists()


def test_offline_a_socket_in_the_file_system_is_no_network(runs: Path, tmp_path: Path) -> None:
    script = tmp_path / "local.py"
    script.write_text(
        "import os, socket, tempfile\n"
        "def run(params, session):\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        with socket.socket(socket.AF_UNIX) as here, socket.socket(socket.AF_UNIX) as there:\n"
        "            here.bind(os.path.join(folder, 'socket')); here.listen()\n"
        "            there.connect(os.path.join(folder, 'socket'))\n"
        "            return {'metrics': {'connected': 1}}\n"
    )
    assert pyrust_nn.run_script("s", script, runs_dir=runs, offline=True)["metrics"] == {"connected": 1}
