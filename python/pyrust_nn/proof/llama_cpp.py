"""What llama.cpp makes of a GGUF file: its tokens of conversations and its greedy answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrust_nn import InputError, ModelError, SetupError
from pyrust_nn.llama.engine import Engine, EngineSettings, installed
from pyrust_nn.proof.layers import LayerNotRunError

ROOM = 64
"""Positions beside prompt and answer."""


@dataclass(frozen=True)
class LlamaAnswers:
    """Token ids of the conversations, and the greedy answers: `tokens` and whether llama.cpp `ended` them by a stop token."""

    prompts: list[list[int]]
    answers: list[dict[str, Any]]


class LlamaCpp:
    """llama.cpp with a file, which it loads while other layers are computed. Use it in a `with` statement."""

    def __init__(self, file: Path, prompts: list[list[int]], max_tokens: int) -> None:
        """Start it, with room for `prompts` and twice `max_tokens` after each. Nothing is raised before it is asked."""
        context = max([512, *(len(prompt) + 2 * max_tokens + ROOM for prompt in prompts)])
        self.max_tokens, self._ready = max_tokens, False
        self._engine: Engine | None = None
        self._why = "the package xllamacpp is not installed; install pyrust-nn[llama]"
        if installed():
            try:
                self._engine = Engine(EngineSettings(str(file), context), in_background=True)
            except (InputError, ModelError, SetupError) as cause:
                self._why = str(cause)

    def __enter__(self) -> LlamaCpp:
        """For a `with` statement, at whose end llama.cpp is ended."""
        return self

    def __exit__(self, *raised: object) -> None:
        """End llama.cpp."""
        if self._engine:
            self._engine.close()

    def ask(self, conversations: list[list[dict[str, str]]], prompts: list[list[int]]) -> LlamaAnswers:
        """What llama.cpp makes of the file. Raises LayerNotRunError if the package is not installed or llama.cpp cannot run the file."""
        if self._engine is None:
            raise LayerNotRunError(self._why)
        post = self._engine.post
        try:
            if not self._ready:
                self._engine.wait_until_ready()
                self._ready = True
            texts = [post("/apply-template", {"messages": messages})["prompt"] for messages in conversations]
            tokenized = [post("/tokenize", {"content": text, "add_special": True, "parse_special": True}) for text in texts]
            body = {"n_predict": self.max_tokens, "temperature": 0, "cache_prompt": False, "return_tokens": True}
            answers = [post("/completion", {"prompt": prompt, **body}) for prompt in prompts]
        except (InputError, ModelError, SetupError) as cause:
            raise LayerNotRunError(str(cause)) from cause
        return LlamaAnswers(
            [one["tokens"] for one in tokenized],
            [{"tokens": one["tokens"], "ended": one.get("stop_type") == "eos"} for one in answers],
        )
