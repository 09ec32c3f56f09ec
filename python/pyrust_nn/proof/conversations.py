"""The built-in conversations of the proof: what tokenizers and chat templates treat differently, and enough text to compare predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

WORDS = 300
"""Words of the vocabulary in a prompt."""

CONVERSATIONS: list[list[dict[str, str]]] = [
    [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris. It lies on the Seine and has about 2,100,000 inhabitants."},
    ],
    [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Air scatters short waves of light, which are blue, more than long ones, which are red."},
        {"role": "user", "content": "And at sunset?"},
        {"role": "assistant", "content": "The light passes through more air, which scatters the blue away, so red remains."},
    ],
    [
        {"role": "user", "content": "Write a function that adds 12.5 and 300 in Python.\n\n    def total():\n\t\treturn None\n"},
        {"role": "assistant", "content": "def total():\n    # 312.5\n    return 12.5 + 300\n"},
    ],
    [
        {"role": "user", "content": "Übersetze: 你好，世界！ Привет, мир! 🌍 naïve café — I'LL don't  two   spaces"},
        {"role": "assistant", "content": "Hallo, Welt! Hallo, Welt! Naives Café: Ich werde nicht zwei Leerzeichen."},
    ],
]


Encode = Callable[[str], list[int]]
"""Token ids of a text, without special tokens around it."""


def prompt_of(conversation: list[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation up to its last answer."""
    return conversation[:-1]


def accepted(tokenizer: Any, encode: Encode) -> list[list[dict[str, str]]]:
    """The built-in conversations that the chat template accepts; some templates refuse a system message. None without a template."""
    if tokenizer.chat_template is None:
        return []
    found = []
    for one in CONVERSATIONS:
        try:
            rendered_prompt(tokenizer, encode, prompt_of(one))
            tokenizer.apply_chat_template(one, tokenize=False)
        except Exception:  # a template raises what it likes
            logger.debug("the chat template refuses a built-in conversation", exc_info=True)
            continue
        found.append(one)
    return found


@lru_cache(maxsize=1)
def prompt_conversations(tokenizer: Any, encode: Encode) -> list[list[dict[str, str]]]:
    """The prompts whose tokens are compared: the built-in ones, and one of words of the vocabulary itself.

    A word of several kinds of characters, such as `.append`, is in a vocabulary because its pre-tokenizer leaves it whole. Another
    pre-tokenizer would cut it. Digits stand between the words, because a space would cut them for every pre-tokenizer.

    Finding the words takes a moment, and the steps of a pipeline have the same tokenizer.
    """
    added = tokenizer.added_tokens_decoder
    ordinary = [index for index in range(len(tokenizer)) if index not in added]
    shares = (ordinary[len(ordinary) * part // WORDS : len(ordinary) * (part + 1) // WORDS] for part in range(WORDS))
    spread = [word for share in shares if (word := _mixed_word(tokenizer.backend_tokenizer, share)) is not None]
    return [*(prompt_of(one) for one in accepted(tokenizer, encode)), [{"role": "user", "content": "1".join(spread)}]]


def _mixed_word(tokenizer: Tokenizer, share: list[int]) -> str | None:
    """The first word with characters of several kinds among these tokens."""
    words = (tokenizer.decode([index]) for index in share)
    return next((word for word in words if _is_mixed(word) and _normalized(tokenizer, word) == word), None)


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    """A text as the tokenizer normalizes it. llama.cpp does not, so texts in another form become other tokens in every file."""
    normalizer = tokenizer.normalizer
    return text if normalizer is None else str(normalizer.normalize_str(text))


def _is_mixed(word: str) -> bool:
    """Whether a word has characters of two kinds, beside a space before it."""
    kinds = {"letter" if c.isalpha() else "digit" if c.isnumeric() else "space" if c.isspace() else "mark" for c in word.removeprefix(" ")}
    return len(kinds) > 1 and "\ufffd" not in word


def encoder(folder: Path, tokenizer: Any) -> Encode:
    """Encodes by the tokenizer.json of a folder as it is: transformers may replace its pre-tokenizer by that of the model's class."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    return _encoder(path.read_bytes())


@lru_cache(maxsize=1)
def _encoder(written: bytes) -> Encode:
    """Reading takes a third of a second, and a merged model has the tokenizer of its base."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(written)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def rendered_rows(tokenizer: Any, encode: Encode) -> list[list[int]]:
    """The token ids of every conversation; without a chat template those of the contents."""
    if tokenizer.chat_template is None:
        texts = ["\n".join(message["content"] for message in one) for one in CONVERSATIONS]
    else:
        texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in accepted(tokenizer, encode)]
    return [encode(text) for text in texts]


def rendered_prompt(tokenizer: Any, encode: Encode, messages: list[dict[str, str]]) -> list[int]:
    """The token ids of a prompt, up to the beginning of the answer. Raises whatever the template raises."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return encode(text)
