"""How processes and steps end: signals, closed pipes, kills at the worst moment, what user scripts leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import disturbed
import numpy as np
import pytest
import torch
from disturbed import wait_for
from safetensors.torch import load_file, save_file

import pyrust_nn
from pyrust_nn.models.model_folder import model_folder

Cli = Callable[..., subprocess.CompletedProcess[str]]


def summary_of(runs: Path, step: str = "script") -> dict[str, object]:
    loaded: dict[str, object] = json.loads((runs / "s" / step / "summary.json").read_text())
    return loaded


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def tiny_of_its_own(folder: Path) -> Path:
    """A folder with the tiny model's files, each of which a test may replace."""
    folder.mkdir()
    for file in Path(model_folder("builtin:tiny")).iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def test_a_connection_that_the_other_side_closed_is_an_error_and_no_end(tmp_path: Path, runs: Path, cli: Cli) -> None:
    script = write(
        tmp_path / "closed.py",
        "import socket\n"
        "def run(params, session):\n"
        "    one, other = socket.socketpair()\n"
        "    other.close()\n"
        "    try:\n"
        "        one.send(b'x')\n"
        "    except BrokenPipeError:\n"
        "        return {'metrics': {'raised': 1}}\n",
    )
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    assert summary_of(runs)["metrics"] == {"raised": 1}


def test_a_reader_that_goes_away_costs_no_summary(tmp_path: Path, runs: Path, binary: Path) -> None:
    script = write(tmp_path / "chatty.py", "def run(params, session):\n    for i in range(20000):\n        print('line', i)\n")
    process = disturbed.start([binary, "script", script, "--session", "s", "--runs-dir", runs], stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(60) == 0
    assert summary_of(runs)["status"] == "Success"


def test_stdout_that_cannot_be_written_is_an_error(runs: Path, binary: Path) -> None:
    runs.mkdir()
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([binary, "sessions", "--json", "--runs-dir", runs], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "stdout cannot be written" in done.stderr


def test_ctrl_c_while_the_model_is_hashed_ends_the_pipeline(tmp_path: Path, runs: Path, binary: Path, cli: Cli) -> None:
    folder = tiny_of_its_own(tmp_path / "model")
    with (folder / "notes.json").open("wb") as sparse:
        sparse.truncate(64 << 30)  # minutes of hashing
    write(tmp_path / "quick.py", "def run(params, session):\n    pass\n")
    write(
        tmp_path / "p.toml",
        f'[[step]]\ntask = "convert_model_to_gguf"\nmodel = "{folder}"\n[[step]]\ntask = "script"\nscript = "quick.py"\n',
    )
    process = disturbed.start([binary, "run", "p.toml", "--session", "s", "--runs-dir", runs], stderr=subprocess.DEVNULL)
    wait_for(runs / "s/convert_model_to_gguf/Modelfile")
    time.sleep(1)  # until Python has answered
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    error = summary_of(runs, "convert_model_to_gguf")["error"]
    assert isinstance(error, dict) and error["kind"] == "interrupted"
    assert not (runs / "s/script").exists()
    assert "interrupted" in cli("sessions", "--runs-dir", runs).stdout


MAKE = """
import os

PARAMS = {"text": "x", "large": 0}


def run(params, session):
    for i in range(params.large):
        (session.step_folder / f"large{i}").write_bytes(os.urandom(1 << 20))
    (session.step_folder / "made").write_text(params.text)
"""


@pytest.mark.parametrize(
    ("left", "wanted"), [({"script.old": "first", "script.new": "second"}, "second"), ({"script.old": "first"}, "first")]
)
def test_a_replacement_that_was_killed_loses_nothing(left: dict[str, str], wanted: str, tmp_path: Path, runs: Path, cli: Cli) -> None:
    script = write(tmp_path / "make.py", MAKE)
    for name, text in left.items():
        made = pyrust_nn.run_script("s", script, params={"text": text}, overwrite=True, runs_dir=runs)
        assert made["status"] == "Success"
        (runs / "s/script").rename(runs / "s" / name)  # as a kill between two renames leaves it
    other = cli("script", script, "--session", "s", "--step", "other", "--runs-dir", runs)
    assert other.returncode == 0, other.stderr
    assert (runs / "s/script/made").read_text() == wanted


def test_killed_while_it_replaces_a_step_one_success_is_always_there(tmp_path: Path, runs: Path, binary: Path, cli: Cli) -> None:
    script = write(tmp_path / "make.py", MAKE)
    quick = write(tmp_path / "quick.py", "def run(params, session):\n    pass\n")
    words = [binary, "script", script, "--session", "s", "--runs-dir", runs, "--param", "large=40"]
    assert subprocess.run([*words, "--param", "text=first"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    for number in range(4):
        process = disturbed.start([*words, "--param", f"text=next{number}", "--overwrite"], stderr=subprocess.DEVNULL)
        while process.poll() is None and not (runs / "s/script.new/made").exists():
            time.sleep(0.001)
        time.sleep(0.02 * number)
        process.kill()
        process.wait()
        assert cli("script", quick, "--session", "s", "--step", "q", "--overwrite", "--runs-dir", runs).returncode == 0
        assert summary_of(runs)["status"] == "Success"
        assert (runs / "s/script/made").read_text() in ("first", *(f"next{n}" for n in range(number + 1)))


def test_what_a_script_leaves_to_the_end_of_the_process_happens(tmp_path: Path, runs: Path, cli: Cli) -> None:
    script = write(
        tmp_path / "late.py",
        "import atexit, pathlib, subprocess, threading, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "kept = open(here / 'buffered.txt', 'w')\n"
        "def later():\n"
        "    time.sleep(0.5)\n"
        "    (here / 'thread.txt').write_text('done')\n"
        "def run(params, session):\n"
        "    kept.write('in a buffer')\n"
        "    atexit.register(lambda: (here / 'atexit.txt').write_text('called'))\n"
        "    threading.Thread(target=later).start()\n"
        "    atexit.register(print, 'said at the end')\n"
        "    subprocess.run(['echo', 'said by a child'])\n",
    )
    done = cli("script", script, "--session", "s", "--runs-dir", runs, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "Success"
    assert "said at the end" in done.stderr and "said by a child" in done.stderr
    assert [(tmp_path / name).read_text() for name in ("buffered.txt", "thread.txt", "atexit.txt")] == ["in a buffer", "done", "called"]


def test_libraries_have_nothing_to_say_at_the_end(tmp_path: Path, runs: Path, data_json: str, cli: Cli) -> None:
    write(tmp_path / "quick.py", "def run(params, session):\n    pass\n")
    toml = (
        f'[[step]]\ntask = "finetune_lora"\nmodel = "builtin:tiny"\ndataset_path = "{data_json}"\nnum_epochs = 1\n'
        '[[step]]\ntask = "script"\nscript = "quick.py"\n'
    )
    done = cli("run", write(tmp_path / "p.toml", toml), "--session", "s", "--runs-dir", runs)
    assert done.returncode == 0 and "leak" not in done.stderr, done.stderr


def test_a_second_run_of_an_interrupted_pipeline_costs_no_resume(tmp_path: Path, runs: Path, binary: Path, cli: Cli) -> None:
    write(tmp_path / "quick.py", "def run(params, session):\n    pass\n")
    write(
        tmp_path / "slow.py",
        "import pathlib, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "def run(params, session):\n"
        "    (here / 'sleeps').touch()\n"
        "    if not (here / 'go').exists():\n"
        "        time.sleep(600)\n",
    )
    rows = [("one", "quick.py"), ("two", "slow.py"), ("three", "quick.py")]
    toml = "".join(f'[[step]]\ntask = "script"\nname = "{name}"\nscript = "{script}"\n' for name, script in rows)
    words = ["run", write(tmp_path / "p.toml", toml), "--session", "s", "--runs-dir", runs]
    process = disturbed.start([binary, *words], stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "sleeps")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "`pyrust-nn resume s`" in process.stderr.read() and process.wait() == 130
    refused = cli(*words)
    assert refused.returncode == 2 and "`pyrust-nn resume s`" in refused.stderr
    (tmp_path / "go").touch()
    assert cli("resume", "s", "--runs-dir", runs).returncode == 0
    assert [summary_of(runs, name)["status"] for name, _ in rows] == ["Success"] * 3


def test_a_process_that_a_script_leaves_behind_does_not_hold_the_session(tmp_path: Path, runs: Path, cli: Cli) -> None:
    script = write(
        tmp_path / "fork.py",
        "import os, time\n"
        "def run(params, session):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        for stream in (0, 1, 2): os.close(stream)\n"
        "        time.sleep(3600); os._exit(0)\n"
        "    return {'metrics': {'child': child}}\n",
    )
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    metrics = summary_of(runs)["metrics"]
    assert isinstance(metrics, dict)
    try:
        again = cli("script", script, "--session", "s", "--step", "again", "--runs-dir", runs)
        assert again.returncode == 0, again.stderr
        os.kill(json.loads((runs / "s/again/summary.json").read_text())["metrics"]["child"], signal.SIGKILL)
    finally:
        os.kill(metrics["child"], signal.SIGKILL)


def test_a_summary_that_cannot_be_written_is_a_failure_everywhere(tmp_path: Path, runs: Path, cli: Cli) -> None:
    script = write(tmp_path / "blocked.py", "def run(params, session):\n    (session.step_folder / 'summary.json').mkdir()\n")
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 1
    assert json.loads(cli("sessions", "--json", "--runs-dir", runs).stdout)[0]["state"] == "failure"


@pytest.mark.parametrize("outputs", ["{'model': None}", "{'n': 3}", "{'n': ''}"])
def test_outputs_that_are_no_paths_are_refused(outputs: str, tmp_path: Path, runs: Path, cli: Cli) -> None:
    script = write(tmp_path / "odd.py", f"def run(params, session):\n    return {{'outputs': {outputs}}}\n")
    done = cli("script", script, "--session", "s", "--runs-dir", runs)
    assert done.returncode == 1 and "outputs must be paths" in done.stderr


@pytest.mark.parametrize("line", ["learning_rate = nan", "num_epochs = inf"])
def test_a_number_that_json_cannot_write_is_refused_and_no_default(line: str, tmp_path: Path, runs: Path, data_json: str, cli: Cli) -> None:
    toml = f'[[step]]\ntask = "finetune_lora"\nmodel = "builtin:tiny"\ndataset_path = "{data_json}"\n{line}\n'
    done = cli("run", write(tmp_path / "p.toml", toml), "--session", "s", "--runs-dir", runs)
    assert done.returncode == 2 and "must be a number" in done.stderr, done.stderr


def test_a_prompt_may_begin_with_an_at_sign(tmp_path: Path, runs: Path, cli: Cli) -> None:
    toml = '[[step]]\ntask = "inference"\nmodel = "builtin:tiny"\nprompt = "@alice who are you?"\nmax_new_tokens = 2\n'
    done = cli("run", write(tmp_path / "p.toml", toml), "--session", "s", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr


def test_several_files_need_no_command(tmp_path: Path, runs: Path, cli: Cli) -> None:
    done = cli("--dataset-path", "a.json", "b.json", "--runs-dir", runs)
    assert "there is no pipeline file pipeline.toml" in done.stderr, done.stderr


def test_an_argument_that_is_no_text_is_a_usage_error(binary: Path) -> None:
    done = subprocess.run([bytes(binary), b"check", b"\xff.json"], capture_output=True, check=False)
    assert done.returncode == 2 and b"not UTF-8" in done.stderr and b"panicked" not in done.stderr


def test_check_finds_a_session_s_model_in_the_runs_folder_that_was_given(runs: Path, data_json: str, cli: Cli) -> None:
    pyrust_nn.quantize_model("s", "builtin:tiny", bits=16, runs_dir=runs)
    words = ["check", data_json, "--offline", "--runs-dir", runs, "--json", "--model"]
    done = cli(*words, "s/quantize_model")
    assert done.returncode == 0 and json.loads(done.stdout)["ok"], done.stderr
    assert pyrust_nn.check_dataset("s/quantize_model", dataset_path=data_json, runs_dir=runs)["ok"]
    refused = cli(*words, "@quantize_model")
    assert refused.returncode == 2 and "give <session>/quantize_model" in refused.stderr


@pytest.mark.parametrize("number", [np.int64(4), torch.tensor(4)])
def test_a_scalar_of_numpy_s_or_torch_s_is_a_number(number: object, runs: Path, data_json: str) -> None:
    made = pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, lora_rank=number, dry_run=True, runs_dir=runs)
    assert made["params"]["lora_rank"] == 4


def test_what_is_no_parameter_is_named(data_json: str) -> None:
    itself: list[object] = []
    itself.append(itself)
    for wrong in (itself, object()):
        with pytest.raises(TypeError, match="lora_rank"):
            pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, lora_rank=wrong)


@pytest.mark.parametrize(
    ("number", "outtype", "said"),
    [(1e5, "f16", "outtype bf16"), (1e8, "q8_0", "outtype bf16"), (float("nan"), "bf16", "diverged"), (1e5, "bf16", None)],
)
def test_a_gguf_file_has_no_number_that_is_none(number: float, outtype: str, said: str | None, tmp_path: Path, runs: Path) -> None:
    folder = tiny_of_its_own(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = number
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if said is None:
        assert pyrust_nn.convert_model_to_gguf("s", folder, outtype=[outtype], runs_dir=runs)["status"] == "Success"
        return
    with pytest.raises(pyrust_nn.ModelError, match=rf"blk\.0\.ffn_up\.weight.*{said}"):
        pyrust_nn.convert_model_to_gguf("s", folder, outtype=[outtype], runs_dir=runs)
    assert not list((runs / "s").rglob("*.gguf"))
