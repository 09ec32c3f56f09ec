"""samples.jsonl and data_report.json of a training: they say what the model answers and what the data holds, and the report shows it."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_report import Page, checked

import pyrust_nn
from pyrust_nn.models.tokenizers import load_tokenizer


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tune(runs: Path, data: str, session: str = "s", **params: Any) -> Path:
    settings = {"lora_rank": 4, "num_epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "max_length": 256, "seed": 3}
    pyrust_nn.finetune_lora(session, "builtin:tiny", dataset_path=data, runs_dir=runs, **settings | params)
    return runs / session / "finetune_lora"


def test_answers_are_those_of_inference_before_and_after(runs: Path, data_json: str) -> None:
    step = tune(runs, data_json, eval_split=0.2)
    samples = lines(step / "samples.jsonl")
    assert len(samples) == 4 and all(one["held_out"] for one in samples) and len({one["row"] for one in samples}) == 4
    tokenizer = load_tokenizer("builtin:tiny")
    by_prompt = {}
    for conversation in json.loads(Path(data_json).read_text(encoding="utf-8")):
        earlier = conversation["messages"][:-1]
        by_prompt[tokenizer.apply_chat_template(earlier, tokenize=False, add_generation_prompt=True)] = conversation["messages"]
    asked = [by_prompt[one["prompt"]] for one in samples]
    for one, messages in zip(samples, asked, strict=True):
        assert one["message"] == messages[-2]["content"] and one["expected"].strip() == messages[-1]["content"]
    for model, when in (("builtin:tiny", "before"), (str(step / "adapter"), "after")):
        prompts = [messages[:-1] for messages in asked]
        made = pyrust_nn.inference(f"ask-{when}", model, prompt=prompts, temperature=0, max_new_tokens=48, runs_dir=runs)
        assert [one["text"] for one in made["result"]] == [one[when] for one in samples]
    assert any(one["before"] != one["after"] for one in samples)


def test_samples_change_nothing_in_the_training(runs: Path, data_json: str) -> None:
    without = tune(runs, data_json, "without", sample_prompts=0, lora_dropout=0.1)
    with_samples = tune(runs, data_json, "with", lora_dropout=0.1)
    assert not (without / "samples.jsonl").exists() and (without / "data_report.json").exists()
    weights = [(step / "adapter/adapter_model.safetensors").read_bytes() for step in (without, with_samples)]
    assert weights[0] == weights[1]


def test_a_failed_training_has_the_answers_from_before(runs: Path, data_json: str) -> None:
    with pytest.raises(pyrust_nn.ModelError, match="diverged"):
        tune(runs, data_json, learning_rate=10.0, max_grad_norm=0, weight_decay=10.0, num_epochs=60)
    samples = lines(runs / "s/finetune_lora/samples.jsonl")
    assert samples and all(isinstance(one["before"], str) and one["after"] is None for one in samples)
    assert not samples[0]["held_out"], "nothing was held out, so the prompts are trained ones"


def test_the_data_report_counts_what_the_rows_are_and_the_page_shows_it(runs: Path, data_json: str) -> None:
    step = tune(runs, data_json, eval_split=0.2)
    report = json.loads((step / "data_report.json").read_text(encoding="utf-8"))
    summary = json.loads((step / "summary.json").read_text(encoding="utf-8"))
    bins = report["lengths"]["histogram"]
    assert sum(one["rows"] for one in bins) == report["train_rows"] == summary["metrics"]["rows"] - summary["metrics"]["eval_rows"]
    assert all(one["from"] <= one["to"] for one in bins)
    assert all(first["to"] < second["from"] for first, second in pairwise(bins))
    assert bins[-1]["to"] == report["lengths"]["max"] <= 256
    checked_by = pyrust_nn.check_dataset(
        "builtin:tiny", dataset_path=data_json, max_length=256, eval_split=0.2, batch_size=4, num_epochs=2, lora_rank=4
    )
    assert report["estimate"]["steps"] == checked_by["estimate"]["steps"] == summary["metrics"]["steps"]
    assert report["estimate"]["trainable_parameters"] == summary["metrics"]["trainable_parameters"]
    shown = report["samples"][0]
    trained = [text for text, learned in shown["segments"] if learned]
    conversations = json.loads(Path(data_json).read_text(encoding="utf-8"))
    answers = [message["content"] for one in conversations for message in one["messages"] if message["role"] == "assistant"]
    assert any(trained[-1].startswith(answer) for answer in answers), "what is marked is an answer"

    page: Page = checked((runs / "s/report.html").read_text(encoding="utf-8"))
    for words in (
        "Before and after training",
        "Answer in the data",
        "the rows as the model saw them",
        "Estimated and what happened",
        "as estimated",
    ):
        assert words in page.text, words
    assert page.all("mark"), "what was learned is marked"


def test_what_check_finds_is_kept_and_shown_once_for_the_same_rows(runs: Path, data_json: str, tmp_path: Path) -> None:
    conversations = json.loads(Path(data_json).read_text(encoding="utf-8"))
    conversations[3]["mystery"] = ["a key <that> nobody knows"]
    data = tmp_path / "keys.json"
    data.write_text(json.dumps(conversations), encoding="utf-8")
    found = pyrust_nn.check_dataset("builtin:tiny", dataset_path=data, max_length=256)
    assert len(found["warnings"]) == 1 and '"mystery"' in found["warnings"][0]
    step = tune(runs, str(data), sample_prompts=0)
    tune(runs, str(data), sample_prompts=0, step="again")
    kept = json.loads((step / "data_report.json").read_text(encoding="utf-8"))
    assert (kept["warnings"], kept["notes"]) == (found["warnings"], found["notes"])
    page = checked((runs / "s/report.html").read_text(encoding="utf-8"))
    assert "finetune_lora, again: the rows as the model saw them" in page.text
    assert len(re.findall("as check says it: ?these keys are not used", page.text)) == 1
