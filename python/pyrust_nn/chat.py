"""Conversations as text, by transformers' rendering of the model's own chat template.

Inference renders its prompts here. Data sets are rendered in Rust (src/data/render.rs) by the same rules; where that cannot
render a template as transformers does, it calls `ChatRenderer.for_rust`.

A template may rewrite history (Qwen3 drops the thinking of earlier turns). Then no single text shows every turn as
inference sees it, and the conversation becomes one text for each trained turn, its prompt being
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
from pyrust_nn.models import read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Message = dict[str, Any]

# What a thinking template puts at a prompt's end, and in front of an answer that has no thinking.
THINKING_PROMPT = re.compile(r"<think>\s*(</think>\s*)?\Z")
EMPTY_THINKING = re.compile(r"<think>\s*</think>\n{0,2}")


@dataclass(frozen=True)
class Turn:
    """Places in a rendered text, as character offsets: where its prompt ends, and what is trained on."""

    prompt_end: int
    target_start: int
    target_end: int


@dataclass(frozen=True)
class Rendering:
    """The text of one sample; `message` is the index of the turn it is for, where a conversation became several."""

    text: str
    turns: list[Turn]
    message: int | None


def renderer_for(folder: str | PathLike[str]) -> ChatRenderer:
    """A renderer by the tokenizer in `folder`; data need no weights. For Rust."""
    return ChatRenderer(read_tokenizer(Path(folder)))


class ChatRenderer:
    """Renders conversations by the tokenizer's chat template and finds the places of the assistant's turns.

    One thread at a time: a conversation's options are held while it is rendered.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raise ModelError where `tokenizer` has no template."""
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
        """The renderings of a conversation as plain tuples: text, turns, message."""
        options = {name: conversation[name] for name in ("tools", "documents") if conversation.get(name)}
        # What `apply_chat_template` itself would take is decided here.
        own = {*signature(self.tokenizer.apply_chat_template).parameters, "messages", "conversations"} - {"tools", "documents"}
        given = conversation.get("chat_template_kwargs") or {}
        options |= {name: value for name, value in given.items() if name not in own}
        renderings = self.renderings(conversation["messages"], index, **options)
        return [(r.text, [(t.prompt_end, t.target_start, t.target_end) for t in r.turns], r.message) for r in renderings]

    def renderings(self, conversation: list[Message], index: int, **options: Any) -> list[Rendering]:
        """One text, or one for each trained turn where the template rewrites history.

        `options` go to `apply_chat_template`: tools, documents, and what else the template reads. A conversation without
        a trained turn gives a rendering without turns.
        """
        self.options = options
        place = f"[{index}]"
        trained = [i for i, message in enumerate(conversation) if message["role"] == "assistant" and message.get("train", True)]
        # A turn that only calls a tool may lack content, and templates add it to text.
        messages = [{k: v for k, v in message.items() if k != "train" and v is not None} for message in conversation]
        for message in messages:
            message.setdefault("content", "")
        whole = self.render(messages, place)
        alone = [(i, *self._turn(messages, i, f"{place}.messages[{i}]")) for i in trained]
        if alone and alone[-1][1].startswith(whole):
            whole = alone[-1][1]  # with the end-of-turn token that the template left out at the very end
        if all(whole.startswith(text) for _, text, _ in alone):
            return [Rendering(whole, [turn for _, _, turn in alone], None)]
        return [Rendering(text, [turn], i) for i, text, turn in alone]

    def render(self, messages: list[Message], place: str, *, prompt: bool = False) -> str:
        """The template's text of `messages`, with the opening of the next answer if it is to be a prompt."""
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **self.options)
        except (jinja2.TemplateError, TypeError, ValueError) as cause:
            raise InputError(f"conversation {place}: the model's chat template refuses it: {cause}; change it or leave it out") from cause

    def _turn(self, messages: list[Message], i: int, place: str) -> tuple[str, Turn]:
        """The text up to the end of turn `i`, as inference would have made it, and the turn's places in it."""
        text = self.render(messages[: i + 1], place)
        prompt = self.render(messages[:i], place, prompt=True) if i else self._opening(messages, text, place)
        thinking = THINKING_PROMPT.search(prompt)
        opened = thinking.start() if thinking else len(prompt)
        if not text.startswith(prompt[:opened]):
            # The turn's presence changes what stands before it (Qwen3, two answers in a row); inference has the prompt.
            text = prompt[:opened] + self._answer(messages[: i + 1], text, prompt[:opened], place)
        start = len(prompt) if text.startswith(prompt) else opened
        if start < len(prompt):
            self._warn(f"prompts end in {prompt[opened:]!r} at inference, which the template does not write into turns")
        text, end = self._closed(messages[: i + 1], text, start, place)
        empty = EMPTY_THINKING.match(text, opened)
        own = messages[i]["content"].lstrip().startswith("<think>")
        return text, Turn(start, max(start, empty.end()) if empty and not own else start, end)

    def _opening(self, messages: list[Message], text: str, place: str) -> str:
        """The prompt of a conversation's very first message: templates render no prompt from nothing."""
        without = self.render(messages[:1], place)
        header = self.render(messages[:1], place, prompt=True).removeprefix(without)
        at = text.find(header)
        if at < 0:
            raise InputError(f"conversation {place}: the template shows no answer here; begin with a user's message")
        return text[: at + len(header)]

    def _answer(self, messages: list[Message], text: str, prompt: str, place: str) -> str:
        """What the last message of `text` adds behind the words that open an answer."""
        header = prompt.removeprefix(self.render(messages[:-1], place))
        probe = self.render([*messages[:-1], {"role": "assistant", "content": "x"}], place)
        at = probe.rfind(header) + len(header)
        if header == prompt or at < len(header) or not text.startswith(probe[:at]):
            raise ModelError(
                f"conversation {place}: the chat template writes this turn in another way than its own prompt, so no "
                "sample can show what inference sees; use a template whose prompts are the beginnings of conversations"
            )
        return text[at:]

    def _closed(self, messages: list[Message], text: str, start: int, place: str) -> tuple[str, int]:
        """The text with its end-of-turn token, and the offset behind that token."""
        stripped = text.rstrip()
        if any(stripped.endswith(token) for token in self.end_tokens) and len(stripped) > start:
            return text, len(stripped)
        # Qwen1.5's first template closes a turn only when another one follows.
        after = self.render([*messages, {"role": "user", "content": "x"}], place).removeprefix(text)
        token = next((token for token in self.end_tokens if after.startswith(token)), "")
        if not token:
            self._warn("the chat template ends turns without a special token; the model will not learn where to stop")
        return text + token, len(text + token)

    def _warn(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            logger.warning("%s", text)
