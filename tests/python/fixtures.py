"""Conversations of one question and one answer, and their loss by transformers and peft alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from pyrust_nn.models.tokenizers import load_tokenizer


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """Questions and answers as a data set."""
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
    path.write_text(json.dumps(rows))
    return path


def answer_loss(model: Any, dataset: Path) -> float:
    """Mean loss per answer token of a model with the tiny one's tokenizer."""
    tokenizer, total, count = load_tokenizer("builtin:tiny"), 0.0, 0
    for row in json.loads(dataset.read_text()):
        prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=False)
        answer = tokenizer(row["messages"][1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item()
        count += len(answer)
    return total / count


def plain_loss(base: Path, adapter: Path, dataset: Path) -> float:
    """The same of an adapter on its base."""
    return answer_loss(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval(), dataset)
