"""How an answer is generated, whatever generates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """The parameters of `inference` that decide an answer. None: the model's own."""

    max_new_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: Sequence[str] = ()
    seed: int = 42

    @classmethod
    def of(cls, params: Any, index: int = 0) -> Sampling:
        """Those of a step's parameters, for one of several answers to a prompt."""
        return cls(
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            stop=tuple(params.stop or ()),
            seed=(params.seed + index) % 2**32,
        )


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first of these strings, and whether there is one."""
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def held_back(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of these strings."""
    lengths = [length for word in stop for length in range(1, len(word)) if text.endswith(word[:length])]
    return max(lengths, default=0)
