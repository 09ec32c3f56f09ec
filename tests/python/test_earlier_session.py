"""A session that an earlier build wrote and left interrupted is read, listed and resumed; see tests/earlier-session/README.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pyrust_nn.models.model_folder import model_folder

Cli = Callable[..., subprocess.CompletedProcess[str]]

FIXTURE = Path(__file__).parents[1] / "earlier-session"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A copy of the session in the working directory, its paths filled in."""
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    places = {"@HERE@": str(tmp_path), "@MODEL@": str(model_folder("builtin:tiny"))}
    folder = tmp_path / "runs/earlier"
    filled = ["session.json", "pipeline.log", "finetune_lora/begun.json", "second/begun.json", "second/summary.json"]
    for path in (folder / name for name in filled):
        text = path.read_text(encoding="utf-8")
        for mark, place in places.items():
            text = text.replace(mark, place)
        path.write_text(text, encoding="utf-8")
    marked = [path for path in folder.rglob("*.json") if any(mark in path.read_text(encoding="utf-8") for mark in places)]
    assert not marked, "every placeholder is in the list above"
    return folder


def test_it_is_listed_as_interrupted(session: Path, cli: Cli) -> None:
    status = cli("status", "earlier", "--json")
    assert status.returncode == 0, status.stderr
    told = json.loads(status.stdout)
    assert (told["session"], told["state"]) == ("earlier", "interrupted")
    assert {step["step"]: step["state"] for step in told["steps"]} == {"finetune_lora": "success", "second": "interrupted"}

    table = cli("status", "earlier")
    assert table.returncode == 0, table.stderr
    assert "finetune_lora" in table.stdout
    assert "second" in table.stdout

    sessions = cli("sessions", "--json")
    assert sessions.returncode == 0, sessions.stderr
    assert [(one["session"], one["state"]) for one in json.loads(sessions.stdout)] == [("earlier", "interrupted")]


def test_it_is_resumed_to_the_end(session: Path, cli: Cli) -> None:
    first = (session / "finetune_lora/adapter/adapter_model.safetensors").read_bytes()
    before = (session / "pipeline.log").read_text(encoding="utf-8")

    resumed = cli("resume", "earlier")
    assert resumed.returncode == 0, resumed.stderr
    log = (session / "pipeline.log").read_text(encoding="utf-8")
    assert log.startswith(before), "a resumed session appends to its log"
    new = log.removeprefix(before)
    assert re.search("resumes from checkpoint-11", new), "the training does not start again"
    assert "no complete checkpoint" not in new

    # Steps 1 to 10 are the earlier build's, those after checkpoint-11 the present one's.
    metrics = [json.loads(line) for line in (session / "second/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in metrics if "loss" in line] == [5, 10, 15, 18]
    kept = (FIXTURE / "runs/earlier/second/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert metrics[: len(kept)] == [json.loads(line) for line in kept]

    summaries = {step: read(session / step / "summary.json") for step in ("finetune_lora", "second", "merge")}
    assert {step: summary["status"] for step, summary in summaries.items()} == dict.fromkeys(summaries, "Success")
    assert read(session / "session.json")["state"] == "success"
    assert summaries["second"]["metrics"]["steps"] == 18
    assert (session / "finetune_lora/adapter/adapter_model.safetensors").read_bytes() == first, "what has succeeded stays"

    # The earlier build's adapter was trained on: its rank and its parent's hash are in what came of it.
    adapter = session / summaries["second"]["outputs"]["adapter"]
    assert (read(adapter / "adapter_config.json")["r"], read(adapter / "adapter_config.json")["target_modules"]) == (1, ["q_proj"])
    earlier = read(session / "finetune_lora/adapter/lineage.json")
    lineage = read(adapter / "lineage.json")
    assert lineage["parent"]["sha256"] == earlier["adapter"]["sha256"]
    assert lineage["base"] == earlier["base"]
    assert len(lineage["stages"]) == 2

    merged = AutoModelForCausalLM.from_pretrained(session / summaries["merge"]["outputs"]["model"])
    assert torch.isfinite(merged(torch.arange(8)[None]).logits).all()
    projection = "model.layers.0.self_attn.q_proj.weight"
    tiny = AutoModelForCausalLM.from_pretrained(model_folder("builtin:tiny"))
    assert not torch.equal(merged.state_dict()[projection], tiny.state_dict()[projection]), "the adapter is in the model"


def test_changed_data_is_refused(session: Path, cli: Cli) -> None:
    data = session.parents[1] / "data.json"
    data.write_text(data.read_text(encoding="utf-8").replace("five words", "nine words"), encoding="utf-8")
    resumed = cli("resume", "earlier")
    assert resumed.returncode != 0
    assert "dataset_path has changed" in resumed.stderr
