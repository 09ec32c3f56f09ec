"""The layer `answers`: greedy answers by the program that will run the file, beside those of the model by transformers.

Equal answers prove little, because wrong rows of a matrix may change none. What fails a file is an answer that does not end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pyrust_nn.proof.layers import Layer, judged

MAX_TOKENS = 48
"""Tokens that the model may take to end an answer, and the candidate too."""


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, without the stop token, and whether it ended by itself."""

    tokens: list[int]
    ended: bool


Ask = Callable[[list[list[int]]], list[Answer]]
"""The candidate's greedy answers to prompts, of at most `MAX_TOKENS`."""


def transformers_answers(model: Any, prompts: list[list[int]], stops: set[int]) -> list[Answer]:
    """Greedy answers of a model in transformers."""
    return [_continued(model, prompt, [], stops) for prompt in prompts]


def reference_answers(model: Any, prompts: list[list[int]], found: list[Answer], stops: set[int]) -> list[Answer]:
    """The model's greedy answers. As far as they equal the candidate's, one pass over those computes them."""
    return [_beside(model, prompt, answer, stops) for prompt, answer in zip(prompts, found, strict=True)]


@torch.inference_mode()
def _beside(model: Any, prompt: list[int], found: Answer, stops: set[int]) -> Answer:
    guess = found.tokens[: MAX_TOKENS - 1]
    logits = model(torch.tensor([prompt + guess], device=next(model.parameters()).device), use_cache=False).logits
    said = logits[0, len(prompt) - 1 :].argmax(-1).tolist()
    for place, token in enumerate(said):
        if token in stops:
            return Answer(said[:place], True)
        if place == len(guess) or token != guess[place]:
            return _continued(model, prompt, said[: place + 1], stops)
    raise AssertionError("the last prediction is behind the guess")


@torch.inference_mode()
def _continued(model: Any, prompt: list[int], begun: list[int], stops: set[int]) -> Answer:
    """One greedy answer, which begins with `begun`. No setting of the model's generation config takes part."""
    device = next(model.parameters()).device
    tokens, cache = list(begun), None
    ids = torch.tensor([prompt + tokens], device=device)
    while len(tokens) < MAX_TOKENS:
        output = model(ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = int(output.logits[0, -1].argmax())
        if token in stops:
            return Answer(tokens, True)
        tokens.append(token)
        ids = torch.tensor([[token]], device=device)
    return Answer(tokens, False)


def llama_answers(raw: list[dict[str, Any]], stops: set[int]) -> list[Answer]:
    """llama.cpp's answers; some of its versions list the stop token."""
    return [Answer([token for token in one["tokens"] if token not in stops], one["ended"]) for one in raw]


def answers_layer(prompts: list[list[int]], wanted: list[Answer], found: list[Answer], ask: Ask) -> Layer:
    """The layer. `ask` asks the candidate again where its answer does not end and the model's does.

    Rounding may turn an answer into a longer one. So the candidate then continues the model's own answer, and must end that.
    """
    first = [first_difference(ours, theirs) for ours, theirs in zip(wanted, found, strict=True)]
    endless = [index for index, (ours, theirs) in enumerate(zip(wanted, found, strict=True)) if ours.ended and not theirs.ended]
    if endless:
        continued = ask([prompts[index] + wanted[index].tokens for index in endless])
        endless = [index for index, answer in zip(endless, continued, strict=True) if not answer.ended]
    measured = {
        "prompts": len(wanted),
        "ended": sum(answer.ended for answer in found),
        "reference_ended": sum(answer.ended for answer in wanted),
        "equal": sum(place is None for place in first),
        "first_difference": first,
    }
    faults = [
        f"answer {index} does not end, not even after the model's {len(wanted[index].tokens)} tokens, and the model's ends there"
        for index in endless
    ]
    return judged(measured, faults)


def first_difference(wanted: Answer, found: Answer) -> int | None:
    """The place of the first token that differs; None for equal answers. An answer that did not end is compared as far as it goes."""
    for place, (ours, theirs) in enumerate(zip(wanted.tokens, found.tokens, strict=False)):
        if ours != theirs:
            return place
    if not wanted.ended or len(wanted.tokens) == len(found.tokens):
        return None
    return min(len(wanted.tokens), len(found.tokens))
