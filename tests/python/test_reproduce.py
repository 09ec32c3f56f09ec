"""`reproduce`: a session's steps run again, and what they made is compared."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

PIPELINE = """
session = "first"
model = "builtin:tiny"
dataset_path = "data.json"
max_new_tokens = 4
num_epochs = 1

[[step]]
task = "finetune_lora"

[[step]]
task = "merge"
model = "@finetune_lora"

[[step]]
task = "convert_model_to_gguf"
model = "@merge"
outtype = ["f16"]

[[step]]
task = "inference"
model = "@merge"
prompt = ["What is Pyrust-NN?", "Who made first-again?"]

[[step]]
task = "script"
script = "count.py"
params = {of = "first/merge"}
"""

SCRIPT = """
PARAMS = {"of": None, "api_key": ""}

def run(params, session):
    return {"of": params.of, "files": 3}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_json: str) -> Path:
    """A folder with data, a pipeline, and its session `first`."""
    place = tmp_path_factory.mktemp("reproduce")
    shutil.copy(data_json, place / "data.json")
    (place / "pipeline.toml").write_text(PIPELINE)
    (place / "count.py").write_text(SCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        pyrust_nn.run_pipeline()
    return place


@pytest.fixture
def own(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, for a test that changes it; the working directory."""
    shutil.copytree(place, tmp_path / "own")
    for record in (tmp_path / "own/runs").rglob("*.json"):
        # As if it had run there.
        record.write_text(record.read_text().replace(str(place), str(tmp_path / "own")))
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def weights(folder: Path) -> dict[str, str]:
    """The hash of each tensor, read by safetensors itself."""
    tensors: dict[str, str] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            tensors |= {name: hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest() for name in file.keys()}  # noqa: SIM118
    return tensors


def reproduce(cli: Cli, place: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = cli("reproduce", "first", *words, "--json", cwd=place)
    return done.returncode, json.loads(done.stdout)


def test_what_runs_again_is_the_same(own: Path, cli: Cli) -> None:
    done = cli("reproduce", "first", cwd=own)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "same: session first-again made what session first made"
    runs = own / "runs"
    assert weights(runs / "first/merge/model") == weights(runs / "first-again/merge/model") != {}
    # The steps of the repetition use each other, not those of the first session.
    config = json.loads((runs / "first-again/finetune_lora/adapter/adapter_config.json").read_text())
    assert "first" not in config["base_model_name_or_path"]
    merged = json.loads((runs / "first-again/merge/begun.json").read_text())
    assert any("first-again/finetune_lora" in path for files in merged["inputs"].values() for path in files)

    # A name that is taken: the next one.
    code, result = reproduce(cli, own)
    assert code == 0 and result["same"] and result["reproduced_as"] == "first-again-2" and result["likely_cause"] is None
    assert {step["step"]: step["compared"] for step in result["steps"]} == {
        "finetune_lora": ["metrics", "result", "adapter"],
        "merge": ["result", "model"],
        "convert_model_to_gguf": ["result", "gguf"],
        "inference": ["result", "answers"],
        "script": ["result"],
    }


def changed(path: Path, at: int, to: bytes) -> None:
    data = bytearray(path.read_bytes())
    assert data[at : at + len(to)] != to
    data[at:] = to + data[at + len(to) :]
    path.write_bytes(data)


def test_every_difference_is_found_and_named(own: Path, cli: Cli) -> None:
    """What the first session says it made is changed in one place for each step, so each must differ."""
    first = own / "runs/first"
    rows = [json.loads(line) for line in (first / "finetune_lora/metrics.jsonl").read_text().splitlines()]
    rows[-1]["loss"] += 1e-12
    (first / "finetune_lora/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed(first / "merge/model/model.safetensors", -1, b"\x7f")
    changed(next((first / "convert_model_to_gguf").glob("*.gguf")), -3, b"\x7f")
    answers = (first / "inference/answers.jsonl").read_text()
    (first / "inference/answers.jsonl").write_text(answers.replace('"finish_reason": "length"', '"finish_reason": "stop"', 1))
    summary = json.loads((first / "script/summary.json").read_text())
    summary["result"]["files"] = 4
    (first / "script/summary.json").write_text(json.dumps(summary))

    code, result = reproduce(cli, own)
    assert code == 1 and not result["same"]
    found = {step["step"]: step["difference"] for step in result["steps"]}
    assert found["finetune_lora"].startswith(f"metrics: at optimizer step {rows[-1]['step']}, loss: ")
    assert found["merge"] == "model: model.safetensors: its bytes differ"
    assert found["convert_model_to_gguf"].endswith(" differs") and "tensor " in found["convert_model_to_gguf"]
    assert found["inference"] == 'answers: answers.jsonl: [0].finish_reason: "stop" and "length"'
    assert found["script"] == "result: files: 4 and 3"
    assert result["likely_cause"].startswith("data, parameters and versions are the same; kernels")


def test_changed_data_are_the_cause(own: Path, cli: Cli) -> None:
    rows = json.loads((own / "data.json").read_text())
    (own / "data.json").write_text(json.dumps(rows[1:]))
    done = cli("reproduce", "first", "--into", "check", cwd=own)
    assert done.returncode == 1, done.stderr
    *_, differs, cause = done.stdout.splitlines()
    assert differs == "session check differs from session first"
    assert cause.startswith("likely cause: dataset_path (SHA-256): ") and " then, " in cause and cause.endswith(" now")


def test_a_missing_or_new_file_is_a_difference(own: Path) -> None:
    (own / "runs/first/merge/model/generation_config.json").rename(own / "runs/first/merge/model/other.json")
    result = pyrust_nn.reproduce("first", "check")
    assert {step["step"]: step["difference"] for step in result["steps"] if step["difference"]} == {"merge": "model: other.json is missing"}


def test_a_script_that_depends_on_chance_is_said_to(own: Path) -> None:
    (own / "count.py").write_text("import os\n\n\ndef run(params, session):\n    return {'number': os.urandom(8).hex()}\n")
    pyrust_nn.run_script("other", "count.py")
    result = pyrust_nn.reproduce("other")
    assert not result["same"] and result["likely_cause"].startswith("data, parameters and versions are the same; the script may depend on")


def test_a_step_that_fails_ends_it(own: Path, cli: Cli) -> None:
    pyrust_nn.run_script("other", "count.py", params={"of": 1})
    (own / "count.py").write_text(SCRIPT.replace("return", "raise ValueError('not again')\n    return"))
    with pytest.raises(pyrust_nn.ScriptError, match="not again"):
        pyrust_nn.reproduce("other")
    done = cli("reproduce", "other", cwd=own)
    assert done.returncode == 1 and "not again" in done.stderr and "same" not in done.stdout


def test_secrets_are_asked_for_again(own: Path) -> None:
    pyrust_nn.run_script("other", "count.py", params={"of": 1, "api_key": "very-secret"})
    with pytest.raises(pyrust_nn.UsageError, match=r"step script cannot run without api_key"):
        pyrust_nn.reproduce("other")
    assert not (own / "runs/other-again").exists()
    assert pyrust_nn.reproduce("other", secrets={"api_key": "very-secret"})["same"]


def test_what_cannot_run_again_is_refused(own: Path, cli: Cli) -> None:
    (own / "bad.py").write_text("def run(params, session):\n    raise ValueError('no')\n")
    assert cli("script", "bad.py", "--session", "failed", cwd=own).returncode == 1
    for words, message in [
        (("frist",), "did you mean first?"),
        (("first", "--into", "failed"), "session failed exists in runs; name another one with --into"),
        (("first", "--into", "a/b"), "a/b"),
        (("failed",), "no step of session failed has succeeded, so there is nothing to reproduce"),
    ]:
        done = cli("reproduce", *words, cwd=own)
        assert done.returncode == 2 and message in done.stderr, done.stderr
