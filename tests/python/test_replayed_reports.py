"""Faults that users of other tools reported, replayed: what is given is honoured, converted, or refused with its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import pyrust_nn
from pyrust_nn import InputError
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.model_folder import model_folder

IDS = torch.tensor([[5, 9, 300, 77, 41, 1000, 3]])
ANSWER = {"role": "assistant", "content": "a"}
QUESTION = {"role": "user", "content": "q"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path_factory.mktemp("replayed") / "base"))


# Data. Each was trained on without a word by some tool, without what it says.
REFUSED: dict[str, tuple[str, str]] = {
    "pictures beside the messages (LLaMA-Factory, ms-swift)": (
        json.dumps({"messages": [{"role": "user", "content": "<image>What is it?"}, ANSWER], "images": ["cat.png"]}),
        r"\[0\]\.images.*text",
    ),
    "pictures of a message (TRL)": (
        json.dumps({"messages": [QUESTION | {"images": ["cat.png"]}, ANSWER]}),
        r"\[0\]\.messages\[0\]\.images.*text",
    ),
    "a picture in a content": (
        json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER]}),
        'a part of type "image_url" is not supported',
    ),
    "a refusal instead of a content (OpenAI)": (
        json.dumps({"messages": [QUESTION, {"role": "assistant", "content": None, "refusal": "No."}]}),
        r"messages\[1\]",
    ),
    "token ids (pretokenized for Axolotl)": (json.dumps({"input_ids": [1, 2], "labels": [-100, 2]}), "input_ids"),
    "segments (Axolotl without a template)": (json.dumps({"segments": [{"label": True, "text": "a"}]}), "segments"),
    "parts of a turn that are trained on (Axolotl)": (
        json.dumps({"messages": [QUESTION, ANSWER | {"train_detail": [{"begin_offset": 0, "end_offset": 0, "train": False}]}]}),
        '"train_detail" is not understood',
    ),
    "columns between semicolons": ("frage;antwort\nq;a\n", '"frage", "antwort", which are no known format'),
    "half of a character": (
        '{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}]}',
        "surrogate|escape",
    ),
    "two answers to choose from (OpenAI's logs)": (
        json.dumps({"messages": [QUESTION], "choices": [{"message": ANSWER}]}),
        "no assistant turn",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_data_that_would_lose_its_meaning_is_refused_with_its_place(what: str, base: Path, tmp_path: Path) -> None:
    text, words = REFUSED[what]
    path = tmp_path / ("data.csv" if ";" in text.partition("\n")[0] and text[0] != "{" else "data.jsonl")
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=words):
        pyrust_nn.prepare_dataset(base, dataset_path=path)


def test_an_empty_list_of_pictures_is_nothing(base: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": [QUESTION, ANSWER], "images": [], "videos": None}) + "\n")
    assert pyrust_nn.prepare_dataset(base, dataset_path=tmp_path / "data.jsonl")["rows"] == 1


# Adapters


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


WHOLE: dict[str, dict[str, Any]] = {
    "the embedding of a model with one matrix for both": {"modules_to_save": ["embed_tokens"]},
    "the output matrix of a model with one matrix for both": {"modules_to_save": ["lm_head"]},
    "both of a model with one matrix for both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "both, kept equal": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "the embedding, low-rank": {"target_modules": ["q_proj", "embed_tokens"]},
    "single tokens": {"trainable_token_indices": [3, 77, 1000]},
}


@pytest.mark.parametrize("what", WHOLE)
def test_an_adapter_of_the_vocabulary_is_merged_to_what_peft_computes(what: str, base: Path, tmp_path: Path, runs: Path) -> None:
    """Merged by peft and saved, some of these lose what was trained: the two matrices are tied again when the model is loaded."""
    torch.manual_seed(3)
    config = peft.LoraConfig(**({"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | WHOLE[what]))
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.2 if "lora_" in name else 0.02))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    expected = logits(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval())
    torch.testing.assert_close(expected, logits(model.eval()), rtol=1e-4, atol=1e-4)
    loaded = load_model(str(tmp_path / "adapter"), device=torch.device("cpu"), dtype=torch.float32)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    pyrust_nn.merge("s", tmp_path / "adapter", runs_dir=runs, device="cpu")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(runs / "s/merge/model")), expected, rtol=1e-4, atol=1e-4)


def test_a_template_without_a_tokenizer_in_an_adapter_is_refused(base: Path, tmp_path: Path, runs: Path) -> None:
    """A tool wrote only the template that it trained with; answers would be asked for with that of the base."""
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter)
    (adapter / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    for call in (
        lambda: pyrust_nn.inference("s", adapter, prompt="a", runs_dir=runs, device="cpu"),
        lambda: pyrust_nn.inference("s", adapter, prompt="a", base_model=base, runs_dir=runs, device="cpu"),
        lambda: pyrust_nn.merge("s", adapter, runs_dir=runs, device="cpu"),
        lambda: pyrust_nn.check_dataset(adapter, dataset_path=data(tmp_path)),
        lambda: pyrust_nn.finetune_lora(
            "s", base, step="f", checkpoint_lora=adapter, dataset_path=data(tmp_path), runs_dir=runs, device="cpu"
        ),
    ):
        with pytest.raises(InputError, match=r"chat_template\.jinja and no tokenizer\.json"):
            call()


def data(folder: Path) -> Path:
    (folder / "d.jsonl").write_text(json.dumps({"messages": [QUESTION, ANSWER]}) + "\n")
    return folder / "d.jsonl"
