"""What both models are asked: rows whose tokens they predict, and prompts that they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrust_nn.proof.conversations import accepted, prompt_of, rendered_prompt, rendered_rows
from pyrust_nn.proof.logits import cut
from pyrust_nn.proof.reference import Reference
from pyrust_nn.training.rows import IGNORED, PreparedRows

TOKENS_PER_ANSWER = 128
"""Of the tokens that are compared; for each so many a prompt is answered."""
ANSWERS = 4
"""The most prompts that are answered."""


@dataclass(frozen=True)
class Samples:
    """Token ids of rows and of prompts."""

    rows: list[list[int]]
    prompts: list[list[int]]


def answer_count(tokens: int) -> int:
    """The number of prompts that are answered."""
    return max(1, min(ANSWERS, tokens // TOKENS_PER_ANSWER))


def built_in(reference: Reference, tokens: int) -> Samples:
    """Rows of at most `tokens` tokens and prompts, from the built-in conversations. Without a chat template there are no prompts."""
    tokenizer, encode = reference.tokenizer, reference.encode
    asked = accepted(tokenizer, encode)[: answer_count(tokens)]
    prompts = [rendered_prompt(tokenizer, encode, prompt_of(one)) for one in asked]
    return Samples(cut(iter(rendered_rows(tokenizer, encode)), tokens), prompts)


def of_dataset(dataset: Any, tokens: int) -> Samples:
    """The same from a prepared data set; from the part that is held out for evaluation if there is one."""
    rows = PreparedRows(dataset["eval_path"] or dataset["path"])
    prompts = []
    for row in rows:
        targets = np.flatnonzero(row.labels != IGNORED)
        if len(targets):
            prompts.append(row.input_ids[: targets[0]].tolist())
        if len(prompts) == answer_count(tokens):
            break
    return Samples(cut((row.input_ids.tolist() for row in rows), tokens), prompts)
