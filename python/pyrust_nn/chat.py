"""Conversations to token ids and labels, by the model's own chat template.

`encode_dataset` is the whole interface. What it promises:

* A sample's text is what `tokenizer.apply_chat_template` renders, never a copy of a template.
* Labels are -100 (ignored) but at the assistant's words and at the end-of-turn token that closes them. Not trained on:
  the newline after that token, an empty think block that the template adds, turns with `"train": false`.
* Token ids are those of the whole text, except where inference would cut the text otherwise: the prompt ends in a
  newline, so an answer that begins with one would melt into the prompt's last token. There prompt and turn are
  tokenized apart, and `recut_turns` counts it.
* A template may rewrite history (Qwen3 drops the thinking of earlier turns). Then no single text shows every turn as
  inference sees it, and the conversation becomes one sample for each trained turn, its prompt being
  `apply_chat_template(messages[:i], add_generation_prompt=True)`; `split_conversations` counts it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from pyrust_nn import InputError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

IGNORED = -100  # torch's cross_entropy leaves such labels out
TEXTS_AT_ONCE = 512  # tokenized in one call
SHOWN = 5  # overlong samples named in one message
COUNTS = (
    *("rows", "tokens", "target_tokens"),  # of the samples kept
    *("truncated", "dropped", "lost_tokens"),  # samples, samples, and the tokens that this cost
    *("split_conversations", "recut_turns"),
)

Message = dict[str, Any]

# What a thinking template puts at a prompt's end, and in front of an answer that has no thinking.
THINKING_PROMPT = re.compile(r"<think>\s*(</think>\s*)?\Z")
EMPTY_THINKING = re.compile(r"<think>\s*</think>\n{0,2}")


@dataclass(frozen=True)
class Sample:
    """One row to train on.

    `input_ids` and `labels` are int32 arrays of the same length; `labels[k]` is `input_ids[k]` or -100, so whoever
    computes the loss shifts them by one. `labels[0]` is always -100: nothing predicts the first token.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    conversation: int  # index in the data set, from 0

    @property
    def target_tokens(self) -> int:
        """How many tokens are trained on."""
        return int(np.count_nonzero(self.labels != IGNORED))


@dataclass(frozen=True)
class EncodedDataset:
    """The samples in the data set's order, and what became of the data.

    `counts` has the names in COUNTS.
    """

    samples: list[Sample]
    counts: dict[str, int]


@dataclass(frozen=True)
class Turn:
    """Places in a rendered text, as character offsets: where its prompt ends, and what is trained on."""

    prompt_end: int
    target_start: int
    target_end: int


@dataclass(frozen=True)
class Rendering:
    """The text of one sample. `place` names it in messages, such as `[3]` or `[3].messages[5]`."""

    text: str
    turns: list[Turn]
    place: str
    conversation: int


def encode_dataset(
    conversations: Sequence[list[Message]], tokenizer: PreTrainedTokenizerFast, *, max_length: int, overlong: str
) -> EncodedDataset:
    """Render, tokenize and mask `conversations`.

    Args:
        conversations: each a list of messages with `role`, `content`, and optionally `train` and whatever else the
            template reads (`tool_calls`, `reasoning_content`, ...).
        tokenizer: a fast tokenizer that carries the model's chat template.
        max_length: the most tokens a sample may have.
        overlong: what happens beyond: `error`, `drop`, `truncate_left` (the end is kept), `truncate_right`. A sample
            that truncation leaves without a target is dropped.

    Raises:
        InputError: overlong samples with `overlong="error"`; a conversation that the template refuses; nothing left.
        ModelError: a tokenizer without a chat template, or with one that renders prompts and turns apart.
    """
    renderer = ChatRenderer(tokenizer)
    encoder = TextEncoder(tokenizer)
    counts = dict.fromkeys(COUNTS, 0)
    samples: list[Sample] = []
    too_long: list[tuple[str, int]] = []
    too_long_dropped = 0
    for rendering, ids, labels, recut in encoder.encode(_renderings(conversations, renderer, counts)):
        length = len(ids)
        counts["recut_turns"] += recut
        if length > max_length:
            too_long.append((rendering.place, length))
            if overlong in ("truncate_left", "truncate_right"):
                kept = slice(-max_length, None) if overlong == "truncate_left" else slice(max_length)
                ids, labels = ids[kept], labels[kept].copy()
                labels[0] = IGNORED
            else:
                labels = labels[:0]
        sample = Sample(ids, labels, rendering.conversation)
        if sample.target_tokens == 0:
            counts["dropped"] += 1
            counts["lost_tokens"] += length
            too_long_dropped += length > max_length
            continue
        samples.append(sample)
        counts["rows"] += 1
        counts["tokens"] += len(ids)
        counts["target_tokens"] += sample.target_tokens
        counts["truncated"] += len(ids) < length
        counts["lost_tokens"] += length - len(ids)

    if too_long and overlong == "error":
        raise InputError(_too_long_message(too_long, max_length))
    if not samples:
        raise InputError(
            f"nothing is left to train on: all {counts['dropped']} samples are dropped. With overlong {overlong} and max_length "
            f"{max_length}, {too_long_dropped} were too long or lost every turn to train on when cut (raise max_length, or take "
            f'truncate_left, which keeps the last turns); the others have no assistant turn but with "train": false'
        )
    for name, what in (
        ("truncated", f"samples cut to {max_length} tokens"),
        ("dropped", "samples dropped: too long, or no turn to train on"),
        ("split_conversations", "conversations split into one sample a turn, as the template rewrites earlier turns"),
        ("recut_turns", "answers that begin with whitespace, tokenized apart from their prompts"),
    ):
        if counts[name]:
            logger.info("%d %s", counts[name], what)
    return EncodedDataset(samples, counts)


def _renderings(conversations: Sequence[list[Message]], renderer: ChatRenderer, counts: dict[str, int]) -> Iterator[Rendering]:
    for index, messages in enumerate(conversations):
        renderings = renderer.renderings(messages, index)
        counts["split_conversations"] += len(renderings) > 1
        yield from renderings


def _too_long_message(too_long: list[tuple[str, int]], max_length: int) -> str:
    named = ", ".join(f"{place} has {length}" for place, length in too_long[:SHOWN])
    more = f", and {len(too_long) - SHOWN} more" if len(too_long) > SHOWN else ""
    return (
        f"{len(too_long)} samples have more than max_length {max_length} tokens: conversation {named}{more}. "
        f"Raise max_length (the longest needs {max(length for _, length in too_long)}), or set overlong to "
        "drop, truncate_left or truncate_right"
    )


class ChatRenderer:
    """Renders conversations by the tokenizer's chat template and finds the places of the assistant's turns."""

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
        self.warned: set[str] = set()

    def renderings(self, conversation: list[Message], index: int) -> list[Rendering]:
        """One sample, or one for each trained turn where the template rewrites history.

        A conversation without a trained turn gives a rendering without turns.
        """
        place = f"[{index}]"
        trained = [i for i, message in enumerate(conversation) if message["role"] == "assistant" and message.get("train", True)]
        # A turn that only calls a tool may lack content, and templates add it to text.
        messages = [{"content": "", **{k: v for k, v in message.items() if k != "train" and v is not None}} for message in conversation]
        whole = self.render(messages, place)
        alone = [(i, *self._turn(messages, i, f"{place}.messages[{i}]")) for i in trained]
        if alone and alone[-1][1].startswith(whole):
            whole = alone[-1][1]  # with the end-of-turn token that the template left out at the very end
        if all(whole.startswith(text) for _, text, _ in alone):
            return [Rendering(whole, [turn for _, _, turn in alone], place, index)]
        return [Rendering(text, [turn], f"{place}.messages[{i}]", index) for i, text, turn in alone]

    def render(self, messages: list[Message], place: str, *, prompt: bool = False) -> str:
        """The template's text of `messages`, with the opening of the next answer if it is to be a prompt."""
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
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


class TextEncoder:
    """Tokenizes rendered texts and turns places in them into labels."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raise ModelError where `tokenizer` cannot tell the places of its tokens."""
        if not tokenizer.is_fast:
            raise ModelError(f"the tokenizer of {tokenizer.name_or_path} has no tokenizer.json; convert it first")
        self.tokenizer = tokenizer
        # Text is cut at these before anything else, so what stands behind one is tokenized as if nothing stood before.
        self.borders = [
            id
            for id, token in tokenizer.added_tokens_decoder.items()
            if not (token.lstrip or token.rstrip or token.normalized or token.single_word)
        ]
        self.tails: dict[str, list[int]] = {}

    def encode(self, renderings: Iterable[Rendering]) -> Iterator[tuple[Rendering, np.ndarray, np.ndarray, int]]:
        """For each rendering: token ids and labels (int32), and the number of turns tokenized apart."""
        batch: list[Rendering] = []
        for rendering in renderings:
            batch.append(rendering)
            if len(batch) == TEXTS_AT_ONCE:
                yield from self._encode_batch(batch)
                batch = []
        if batch:
            yield from self._encode_batch(batch)

    def _encode_batch(self, batch: list[Rendering]) -> Iterator[tuple[Rendering, np.ndarray, np.ndarray, int]]:
        for rendering, tokens in zip(batch, self._tokenize([r.text for r in batch]), strict=True):
            cuts = [turn.prompt_end for turn in rendering.turns if not self._cut_there(rendering.text, tokens, turn.prompt_end)]
            if cuts:
                tokens = self._tokenize_apart(rendering.text, cuts)
            ids, begins, ends = tokens
            target = np.zeros(len(ids), dtype=bool)
            for turn in rendering.turns:
                target |= (begins >= turn.target_start) & (ends <= turn.target_end)
            target[:1] = False
            yield rendering, ids, np.where(target, ids, np.int32(IGNORED)), len(cuts)

    def _tokenize(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each text: ids, and where each token begins and ends (characters)."""
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        result = []
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            begins, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
            # Some tokenizers report a token without its whitespace; it begins where the one before it ended.
            begins = np.minimum(begins, np.concatenate(([0], ends[:-1])) if len(ends) else begins)
            result.append((np.array(ids, dtype=np.int32), begins, ends))
        return result

    def _cut_there(self, text: str, tokens: tuple[np.ndarray, np.ndarray, np.ndarray], place: int) -> bool:
        """Whether `text[:place]` alone has the very tokens that it has within `text`."""
        ids, begins, ends = tokens
        count = int(np.searchsorted(ends, place, side="right"))
        if count < len(ids) and begins[count] < place:
            return False
        borders = np.flatnonzero(np.isin(ids[:count], self.borders))
        first = int(borders[-1]) + 1 if len(borders) else 0
        tail = text[int(ends[first - 1]) if first else 0 : place]
        if tail not in self.tails:
            self.tails[tail] = self.tokenizer(tail, add_special_tokens=False, verbose=False)["input_ids"]
        return self.tails[tail] == ids[first:count].tolist()

    def _tokenize_apart(self, text: str, cuts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        edges = [0, *cuts, len(text)]
        pieces = self._tokenize([text[a:b] for a, b in pairwise(edges)])
        ids = np.concatenate([piece[0] for piece in pieces])
        begins = np.concatenate([piece[1] + edge for piece, edge in zip(pieces, edges, strict=False)])
        ends = np.concatenate([piece[2] + edge for piece, edge in zip(pieces, edges, strict=False)])
        return ids, begins, ends
