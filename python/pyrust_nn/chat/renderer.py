"""Renders messages as text by the model's chat template in transformers.

Inference renders its prompts here. Data sets are rendered in Rust; for a template that Rust does not render as transformers
does, it calls this renderer (`renderer_for`) for each text. The turns in the texts are found in Rust (src/data/render/turns.rs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from pyrust_nn import InputError, ModelError, _core
from pyrust_nn.models.tokenizers import read_tokenizer
from pyrust_nn.types import ChatMessage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def renderer_for(folder: str | PathLike[str]) -> ChatRenderer:
    """A renderer with the tokenizer in `folder`, which needs no weights. Called by Rust."""
    return ChatRenderer(read_tokenizer(Path(folder)))


class ChatRenderer:
    """Renders messages by the tokenizer's chat template. `end_tokens` are the special tokens, one of which ends a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raises ModelError if `tokenizer` has no template."""
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template, so conversations cannot be written "
                "for it; use the model's chat or instruct version, or put a chat_template.jinja into its folder"
            )
        self.tokenizer = tokenizer
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.end_tokens = sorted({*tokenizer.all_special_tokens, *added})

    def arguments(self, conversation: Mapping[str, Any]) -> tuple[list[ChatMessage], dict[str, Any]]:
        """The messages and options of `render` for a conversation as Rust reads it from a data set. Called by Rust.

        Options are tools, documents and other variables of the template.
        """
        messages = [{name: value for name, value in message.items() if name != "train"} for message in conversation["messages"]]
        options = {name: conversation[name] for name in ("tools", "documents") if conversation.get(name)}
        # Parameters of `apply_chat_template` itself are not the template's.
        own = {*signature(self.tokenizer.apply_chat_template).parameters, "messages", "conversations"} - {"tools", "documents"}
        given = conversation.get("chat_template_kwargs") or {}
        return messages, options | {name: value for name, value in given.items() if name not in own}

    def render(self, messages: list[ChatMessage], place: str, prompt: bool = False, options: Mapping[str, Any] | None = None) -> str:
        """The template's text of `messages`, followed by the beginning of an answer if `prompt`. `place` names them in errors.

        Raises InputError if the template refuses them.
        """
        given = {name: value for name, value in (options or {}).items() if value is not None}
        # A template comes with a model of others: one that never ends, or uses all memory, is stopped in Rust.
        _core.check_template(self.tokenizer.name_or_path, json.dumps(messages, default=str), json.dumps(given, default=str), prompt)
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **(options or {}))
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, MemoryError, RecursionError) as cause:
            raise InputError(
                f"conversation {place}: the model's chat template refuses it: {cause or type(cause).__name__}; change it or leave it out"
            ) from cause
