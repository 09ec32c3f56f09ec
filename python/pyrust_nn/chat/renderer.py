"""Renders conversations as text by the model's chat template in transformers.

Inference renders its prompts here. Data sets are rendered in Rust by the same rules; for a template that Rust does not
render as transformers does, it calls `ChatRenderer.for_rust`.

A template may rewrite earlier messages (Qwen3 removes the reasoning of earlier turns). Then no single text shows every
turn as inference sees it, and the conversation becomes one text for each trained turn, with the prompt
`apply_chat_template(messages[:i], add_generation_prompt=True)`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from pyrust_nn import InputError, ModelError
from pyrust_nn.models.tokenizers import read_tokenizer
from pyrust_nn.types import ChatMessage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# What a reasoning model's template appends to a prompt, and prepends to an answer without reasoning.
REASONING_PROMPT = re.compile(r"<think>\s*(</think>\s*)?\Z")
EMPTY_REASONING = re.compile(r"<think>\s*</think>\n{0,2}")


@dataclass(frozen=True)
class Turn:
    """A trained turn in a rendered text, as character offsets: the end of its prompt, and the target that is trained on."""

    prompt_end: int
    target_start: int
    target_end: int


@dataclass(frozen=True)
class Rendering:
    """The text of one row. `message` is the index of its trained turn if the conversation became several texts, else None."""

    text: str
    turns: list[Turn]
    message: int | None


def renderer_for(folder: str | PathLike[str]) -> ChatRenderer:
    """A renderer with the tokenizer in `folder`, which needs no weights. Called by Rust."""
    return ChatRenderer(read_tokenizer(Path(folder)))


class ChatRenderer:
    """Renders conversations by the tokenizer's chat template and locates the assistant's turns in the text.

    Not thread-safe: it stores the options of the conversation that it renders.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raises ModelError if `tokenizer` has no template."""
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template, so conversations cannot be written "
                "for it; use the model's chat or instruct version, or put a chat_template.jinja into its folder"
            )
        self.tokenizer = tokenizer
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.end_tokens = {*tokenizer.all_special_tokens, *added}
        self.options: dict[str, Any] = {}
        self.warned: set[str] = set()

    def for_rust(self, conversation: dict[str, Any], index: int) -> list[tuple[str, list[tuple[int, int, int]], int | None]]:
        """The renderings of a conversation as plain tuples: text, turns, message. Called by Rust."""
        options = {name: conversation[name] for name in ("tools", "documents") if conversation.get(name)}
        # Parameters of `apply_chat_template` itself are not the template's.
        own = {*signature(self.tokenizer.apply_chat_template).parameters, "messages", "conversations"} - {"tools", "documents"}
        given = conversation.get("chat_template_kwargs") or {}
        options |= {name: value for name, value in given.items() if name not in own}
        renderings = self.renderings(conversation["messages"], index, **options)
        return [(r.text, [(t.prompt_end, t.target_start, t.target_end) for t in r.turns], r.message) for r in renderings]

    def renderings(self, conversation: list[ChatMessage], index: int, **options: Any) -> list[Rendering]:
        """One text, or one for each trained turn if the template rewrites earlier messages.

        `options` go to `apply_chat_template`: tools, documents, and other variables of the template. A conversation
        without a trained turn becomes a rendering without turns. Raises InputError if the template refuses it.
        """
        self.options = options
        place = f"[{index}]"
        trained = [i for i, message in enumerate(conversation) if message["role"] == "assistant" and message.get("train", True)]
        # A turn that only calls a tool may lack content, which templates concatenate.
        messages = [{k: v for k, v in message.items() if k != "train" and v is not None} for message in conversation]
        for message in messages:
            message.setdefault("content", "")
        whole = self.render(messages, place)
        alone = [(i, *self._turn(messages, i, f"{place}.messages[{i}]")) for i in trained]
        if alone and alone[-1][1].startswith(whole):
            whole = alone[-1][1]  # including the end-of-turn token that the template omits at the end of a text
        if all(whole.startswith(text) for _, text, _ in alone):
            return [Rendering(whole, [turn for _, _, turn in alone], None)]
        return [Rendering(text, [turn], i) for i, text, turn in alone]

    def render(self, messages: list[ChatMessage], place: str, *, prompt: bool = False) -> str:
        """The template's text of `messages`, followed by the beginning of an answer if `prompt`."""
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **self.options)
        except (jinja2.TemplateError, TypeError, ValueError) as cause:
            raise InputError(f"conversation {place}: the model's chat template refuses it: {cause}; change it or leave it out") from cause

    def _turn(self, messages: list[ChatMessage], i: int, place: str) -> tuple[str, Turn]:
        """The text up to the end of turn `i` as inference would see it, and the turn's offsets in it."""
        text = self.render(messages[: i + 1], place)
        prompt = self.render(messages[:i], place, prompt=True) if i else self._first_prompt(messages, text, place)
        reasoning = REASONING_PROMPT.search(prompt)
        opened = reasoning.start() if reasoning else len(prompt)
        if not text.startswith(prompt[:opened]):
            # The turn changes the text before it (Qwen3, two answers in a row), but inference sees the prompt.
            text = prompt[:opened] + self._answer_text(messages[: i + 1], text, prompt[:opened], place)
        start = len(prompt) if text.startswith(prompt) else opened
        if start < len(prompt):
            self._warn(f"at inference prompts end in {prompt[opened:]!r}, which the template does not add to turns")
        text, end = self._with_end_token(messages[: i + 1], text, start, place)
        empty = EMPTY_REASONING.match(text, opened)
        own = messages[i]["content"].lstrip().startswith("<think>")
        return text, Turn(start, max(start, empty.end()) if empty and not own else start, end)

    def _first_prompt(self, messages: list[ChatMessage], text: str, place: str) -> str:
        """The prompt of an answer that is the first message: templates cannot render an empty conversation."""
        without = self.render(messages[:1], place)
        header = self.render(messages[:1], place, prompt=True).removeprefix(without)
        at = text.find(header)
        if at < 0:
            raise InputError(f"conversation {place}: the template shows no answer here; begin with a user's message")
        return text[: at + len(header)]

    def _answer_text(self, messages: list[ChatMessage], text: str, prompt: str, place: str) -> str:
        """The part of `text` after the header of its last message."""
        header = prompt.removeprefix(self.render(messages[:-1], place))
        probe = self.render([*messages[:-1], {"role": "assistant", "content": "x"}], place)
        at = probe.rfind(header) + len(header)
        if header == prompt or at < len(header) or not text.startswith(probe[:at]):
            raise ModelError(
                f"conversation {place}: the chat template renders this turn differently from its own prompt, so no "
                "row can match what inference sees; use a template whose prompts are prefixes of its conversations"
            )
        return text[at:]

    def _with_end_token(self, messages: list[ChatMessage], text: str, start: int, place: str) -> tuple[str, int]:
        """The text with its end-of-turn token, and the offset after that token."""
        stripped = text.rstrip()
        if any(stripped.endswith(token) for token in self.end_tokens) and len(stripped) > start:
            return text, len(stripped)
        # Qwen1.5's first template ends a turn only if another one follows.
        after = self.render([*messages, {"role": "user", "content": "x"}], place).removeprefix(text)
        token = next((token for token in self.end_tokens if after.startswith(token)), "")
        if not token:
            self._warn("the chat template does not end turns with a special token; the model will not learn where to stop")
        return text + token, len(text + token)

    def _warn(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            logger.warning("%s", text)
