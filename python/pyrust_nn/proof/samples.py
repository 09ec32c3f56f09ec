"""What both models are asked: rows whose tokens they predict, and prompts that they answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrust_nn.proof.conversations import CONVERSATIONS, Encode, prompt_of, rendered_prompt, rendered_rows
from pyrust_nn.proof.logits import cut
from pyrust_nn.training.rows import IGNORED, PreparedRows

ANSWERS = 4
"""Prompts that are answered."""


def built_in(tokenizer: Any, encode: Encode, tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of at most `tokens` tokens and prompts, from the built-in conversations. Without a chat template there are no prompts."""
    prompts = []
    if tokenizer.chat_template is not None:
        prompts = [rendered_prompt(tokenizer, encode, prompt_of(one)) for one in CONVERSATIONS[:ANSWERS]]
    return cut(iter(rendered_rows(tokenizer, encode)), tokens), prompts


def of_dataset(dataset: Any, tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """The same from a prepared data set; from the part that is held out for evaluation if there is one."""
    rows = PreparedRows(dataset["eval_path"] or dataset["path"])
    prompts = []
    for row in rows:
        targets = np.flatnonzero(row.labels != IGNORED)
        if len(targets):
            prompts.append(row.input_ids[: targets[0]].tolist())
        if len(prompts) == ANSWERS:
            break
    return cut((row.input_ids.tolist() for row in rows), tokens), prompts
