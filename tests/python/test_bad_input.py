"""Invalid input: the message names problem, place and fix; a Failure summary is written; earlier results are kept."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

USER = {"role": "user", "content": "hello"}
ANSWER = {"role": "assistant", "content": "hi"}


def as_file(folder: Path, text: str) -> Path:
    """A data set of that text."""
    path = folder / "data set.json"
    path.write_text(text, encoding="utf-8")
    return path


DATA = {
    "invalid JSON": ('[\n  {"messages": [}\n]', ["line 2, column 17", "invalid JSON"]),
    "truncated": ('[{"messages": [', ["line 1", "invalid JSON: EOF while parsing a list; the file is truncated"]),
    "no known format": ('{"a": 1}', ['has the keys "a", which are no known format']),
    "a number": ("12", ["not a list"]),
    "empty list": ("[]", ["contains no conversations"]),
    "no assistant": (json.dumps([{"messages": [USER]}]), ["[0]", "no assistant turn"]),
    "unknown role": (json.dumps([{"messages": [{"role": "human", "content": "x"}, ANSWER]}]), ['"human"', 'did you mean "user"']),
    "empty content": (json.dumps([{"messages": [USER, {"role": "assistant", "content": " "}]}]), ["messages[1].content", "is empty"]),
    "content no text": (json.dumps([{"messages": [USER, {"role": "assistant", "content": 3}]}]), ["messages[1].content", "not a number"]),
    "no messages": (json.dumps([{"message": [USER, ANSWER]}]), ['has no "messages"']),
}


def test_a_truncated_gz_with_an_error_before_the_break_ends(tmp_path: Path, cli: Cli) -> None:
    bad = json.dumps({"messages": [{"role": "uesr", "content": "x"}, ANSWER]})
    good = json.dumps({"messages": [USER, ANSWER]})
    packed = gzip.compress("\n".join([bad, *[good] * 50_000]).encode())
    (tmp_path / "data.jsonl.gz").write_bytes(packed[:-9])
    for command in ("prepare", "check"):
        done = cli(command, "data.jsonl.gz", "--model", "builtin:tiny", timeout=120)
        told = done.stdout + done.stderr
        assert done.returncode == 2 and "damaged or truncated" in told and "uesr" in told, told


@pytest.mark.parametrize("form", ["lines", "list"])
def test_a_gz_with_wrong_bytes_is_the_only_error(form: str, tmp_path: Path, cli: Cli) -> None:
    """Its text, of which the checksum says at the end that it is not what was written, has faults of its own."""
    rows = [json.dumps({"messages": [USER, ANSWER]})] * 20_000
    text = "\n".join(rows) if form == "lines" else f"[{', '.join(rows)}]"
    packed = bytearray(gzip.compress(text.encode(), compresslevel=0))
    for at in range(100_000, 140_000, 100):
        packed[at] = ord("{")
    (tmp_path / "data.json.gz").write_bytes(packed)
    for command in ("prepare", "check"):
        done = cli(command, "data.json.gz", "--model", "builtin:tiny", timeout=120)
        told = done.stdout + done.stderr
        assert done.returncode == 2 and told.count("damaged or truncated") == 1 and "line" not in told, told


@pytest.mark.parametrize("fault", DATA)
def test_data(fault: str, tmp_path: Path, runs: Path, cli: Cli) -> None:
    text, words = DATA[fault]
    path = as_file(tmp_path, text)
    done = cli("finetune-lora", "--session", "s", "--model", "builtin:tiny", "--dataset-path", path, "--runs-dir", runs)
    assert done.returncode == 2, done.stderr
    for word in [str(path), *words]:
        assert word in done.stderr
    dry = cli("finetune-lora", "--model", "builtin:tiny", "--dataset-path", path, "--runs-dir", tmp_path / "dry", "--dry-run")
    assert (dry.returncode, (tmp_path / "dry").exists()) == (2, False), "a dry run sees it too, and leaves nothing"
    assert not (runs / "s").exists(), "refused"
    with pytest.raises(pyrust_nn.InputError, match=r"data set\.json") as raised:
        pyrust_nn.finetune_lora("t", "builtin:tiny", dataset_path=path, runs_dir=runs)
    assert raised.value.summary is not None and raised.value.summary["status"] == "Failure"


def pickled(folder: Path) -> Path:
    """A model that is whole but for its weights, which are a pickle."""
    from safetensors.torch import load_file

    from pyrust_nn.models.tiny import tiny_model_folder

    made = folder / "pickled"
    shutil.copytree(tiny_model_folder(), made)
    torch.save(load_file(made / "model.safetensors"), made / "pytorch_model.bin")
    (made / "model.safetensors").unlink()
    return made


# What is given beside a good data set, the exit code, the kind and words of the message.
PARAMETERS: dict[str, tuple[dict[str, Any], int, str, list[str]]] = {
    "no data set": ({"dataset_path": "nowhere.json"}, 2, "input", ["nowhere.json", "no data set"]),
    "unknown parameter": ({"lora_rnk": 8}, 2, "usage", ["lora", "rnk", "rank"]),
    "rank out of range": ({"lora_rank": 0}, 2, "usage", ["rank", "integer from 1"]),
    "dropout out of range": ({"lora_dropout": 1.5}, 2, "usage", ["dropout", "0.99"]),
    "negative rate": ({"learning_rate": -1}, 2, "usage", ["rate", "above 0"]),
    "no number": ({"num_epochs": "many"}, 2, "usage", ["epochs", "many"]),
    "no choice": ({"overlong": "cut"}, 2, "usage", ["overlong", "truncate_left"]),
    "no device": ({"device": "gpu"}, 2, "usage", ["device", "cuda"]),
    "unknown folder": ({"model": "./no/model"}, 1, "model", ["./no/model"]),
    "unknown step": ({"model": "@nothing"}, 2, "usage", ["nothing", "run that step first"]),
    "unknown session": ({"model": "frist/finetune_full"}, 2, "usage", ["no session frist", "not looked up on the Hub"]),
    "unknown builtin": ({"model": "builtin:huge"}, 2, "usage", ["builtin:tiny"]),
    "hub while offline": ({"model": "Qwen/Qwen1.5-0.5B-Chat", "offline": True}, 1, "model", ["Qwen/Qwen1.5-0.5B-Chat", "offline"]),
    "step out of place": ({"step": "../other"}, 2, "usage", ["../other", "letters"]),
}


@pytest.mark.parametrize("fault", PARAMETERS)
def test_parameters(fault: str, runs: Path, data_json: str, cli: Cli) -> None:
    given, code, kind, words = PARAMETERS[fault]
    given = {"model": "builtin:tiny", "dataset_path": data_json} | given
    flags = [word for name, value in given.items() for word in ([f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)]))]
    done = cli("finetune-lora", "--session", "s", "--runs-dir", runs, *flags)
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert not runs.exists(), "a refused attempt makes no session"
    with pytest.raises(pyrust_nn.PyrustNNError) as raised:
        pyrust_nn.finetune_lora("t", given.pop("model"), **given, runs_dir=runs)
    assert raised.value.kind == kind
    assert not (runs.parent / "other").exists()


def test_a_pipe_is_no_data_set(tmp_path: Path, runs: Path, cli: Cli) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    done = cli("finetune-lora", "--session", "s", "--model", "builtin:tiny", "--dataset-path", "pipe.json", "--runs-dir", runs, timeout=30)
    assert done.returncode == 2 and "not a regular file" in done.stderr


def test_a_folder_that_is_no_model(tmp_path: Path, runs: Path, data_json: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(pyrust_nn.ModelError, match=r"config\.json"):
        pyrust_nn.finetune_lora("s", tmp_path / "empty", dataset_path=data_json, runs_dir=runs)


def test_weights_only_as_pickle(tmp_path: Path, runs: Path, data_json: str) -> None:
    with pytest.raises(pyrust_nn.ModelError, match="safetensors"):
        pyrust_nn.finetune_lora("s", pickled(tmp_path), dataset_path=data_json, runs_dir=runs)


@pytest.mark.parametrize("session", ["../x", "a/b", ".hidden", "", "a b", "x" * 129])
def test_session_ids(session: str, runs: Path, data_json: str, cli: Cli) -> None:
    done = cli("finetune-lora", "--session", session, "--model", "builtin:tiny", "--dataset-path", data_json, "--runs-dir", runs)
    assert done.returncode == 2
    assert "letters, digits" in done.stderr
    assert not runs.exists()


def test_types_are_strict_where_the_interface_has_types(runs: Path, data_json: str) -> None:
    for given in ({"lora_rank": "16"}, {"lora_rank": True}, {"target_modules": []}, {"target_modules": "q_proj"}, {"use_rslora": 1}):
        with pytest.raises(ValueError, match=next(iter(given))):
            pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, runs_dir=runs, **given)
    with pytest.raises(pyrust_nn.UsageError, match="dataset_path"):
        pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=5, runs_dir=runs)  # type: ignore[arg-type]
    with pytest.raises(pyrust_nn.UsageError, match="learning_rate"):
        pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, learning_rate=float("nan"), runs_dir=runs)


SCRIPT = """
PARAMS = {"fail": False}

def run(params, session):
    (session.step_folder / "made.txt").write_text("whole")
    if params.fail:
        raise RuntimeError("no luck") from KeyError("deep")
    return {"outputs": {"answers": "made.txt"}, "metrics": {"n": 1}}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that fails when told to."""
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return path


def test_an_existing_step_stays(runs: Path, script: Path, cli: Cli) -> None:
    words = ["script", script, "--session", "s", "--runs-dir", runs]
    assert cli(*words).returncode == 0
    before = {path: path.read_bytes() for path in (runs / "s/script").iterdir()}

    refused = cli(*words)
    assert refused.returncode == 2 and "overwrite" in refused.stderr
    failed = cli(*words, "--overwrite", "--param", "fail=true")
    assert failed.returncode == 1 and "no luck" in failed.stderr and "caused by: KeyError" in failed.stderr
    assert {path: path.read_bytes() for path in (runs / "s/script").iterdir()} == before
    beside = json.loads((runs / "s/script.failed/summary.json").read_text())
    assert beside["status"] == "Failure" and beside["error"]["causes"] == ["KeyError: 'deep'"]
    assert "mine.py" not in beside["error"]["message"] and "RuntimeError: no luck" in beside["error"]["message"]

    assert cli(*words, "--overwrite").returncode == 0
    assert not list((runs / "s").glob("script.*")) or not (runs / "s/script.old").exists()


def test_a_failed_step_may_run_again(runs: Path, script: Path, cli: Cli) -> None:
    words = ["script", script, "--session", "s", "--runs-dir", runs]
    assert cli(*words, "--param", "fail=true").returncode == 1
    assert cli(*words).returncode == 0
    assert json.loads((runs / "s/script/summary.json").read_text())["status"] == "Success"


def test_a_folder_that_is_no_step_is_left_alone(runs: Path, script: Path, cli: Cli) -> None:
    (runs / "s/script").mkdir(parents=True)
    (runs / "s/script/notes.txt").write_text("mine")
    done = cli("script", script, "--session", "s", "--runs-dir", runs)
    assert done.returncode == 2
    assert (runs / "s/script/notes.txt").read_text() == "mine"


def test_unknown_command_and_missing_parameters(cli: Cli) -> None:
    for words in (["finetune-lra"], ["-q", "finetune-lra"], ["--runs-dir", "x", "finetune-lra"]):
        done = cli(*words)
        assert done.returncode == 2 and "finetune-lora" in done.stderr
    done = cli("finetune-lora", "--session", "s", "--model", "builtin:tiny")
    assert done.returncode == 2 and "--dataset-path" in done.stderr
    done = cli("status", "nothing-here")
    assert done.returncode == 2 and "no session" in done.stderr


def test_no_setup_refuses_with_the_fix(cli: Cli, runs: Path, tmp_path: Path, data_json: str) -> None:
    words = ["finetune-lora", "--model", "builtin:tiny", "--dataset-path", data_json, "--session", "s", "--runs-dir", runs]
    done = cli(*words, "--no-setup", "--python-env", tmp_path / "none")
    assert done.returncode == 1
    assert "pyrust-nn setup" in done.stderr
    assert not (runs / "s").exists()
