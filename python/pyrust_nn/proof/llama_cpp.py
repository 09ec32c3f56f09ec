"""What llama.cpp makes of a GGUF file: its tokens of conversations and its greedy answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrust_nn import InputError, ModelError, SetupError
from pyrust_nn.llama.engine import Engine, EngineSettings, installed
from pyrust_nn.proof.layers import NotRun

ROOM = 64
"""Positions beside prompt and answer."""


@dataclass(frozen=True)
class LlamaAnswers:
    """Token ids of the conversations, and the greedy answers: `tokens` and whether llama.cpp `ended` them by a stop token."""

    prompts: list[list[int]]
    answers: list[dict[str, Any]]


def ask(file: Path, conversations: list[list[dict[str, str]]], prompts: list[list[int]], max_tokens: int) -> LlamaAnswers:
    """What llama.cpp makes of a file. Raises NotRun if the package is not installed or llama.cpp cannot run the file."""
    if not installed():
        raise NotRun("the package xllamacpp is not installed; install pyrust-nn[llama]")
    context = max([512, *(len(prompt) + max_tokens + ROOM for prompt in prompts)])
    try:
        with Engine(EngineSettings(str(file), context)) as engine:
            texts = [engine.post("/apply-template", {"messages": messages})["prompt"] for messages in conversations]
            tokenized = [engine.post("/tokenize", {"content": text, "add_special": True, "parse_special": True}) for text in texts]
            body = {"n_predict": max_tokens, "temperature": 0, "cache_prompt": False, "return_tokens": True}
            answers = [engine.post("/completion", {"prompt": prompt, **body}) for prompt in prompts]
    except (InputError, ModelError, SetupError) as cause:
        raise NotRun(str(cause)) from cause
    return LlamaAnswers(
        [one["tokens"] for one in tokenized],
        [{"tokens": one["tokens"], "ended": one.get("stop_type") == "eos"} for one in answers],
    )
