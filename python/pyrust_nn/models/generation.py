"""generation_config.json: what inference uses of it, and the tokens that end an answer.

A setting that has a wrong type or value, that transformers does not know, or that concerns the caller of `generate` and not
the model is left out with a line in the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import _core
from pyrust_nn.models.model_folder import first_line, read_json

if TYPE_CHECKING:
    from transformers import GenerationConfig

logger = logging.getLogger(__name__)

GENERATION_CONFIG = "generation_config.json"
# Qwen's models end an answer with one of these.
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def _number(low: float, high: float = float("inf"), *, above: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (low < value if above else low <= value) and value <= high

    return fits


def _count(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _bool(value: Any) -> bool:
    return isinstance(value, bool)


def _ids(value: Any) -> bool:
    return _count(0)(value) or (isinstance(value, list) and bool(value) and all(map(_count(0), value)))


def _lists_of_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, list) and all(map(_count(0), part)) for part in value)


# What a setting may be. A setting that is not listed is left out.
_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "do_sample": _bool,
    "temperature": _number(0.0),
    "top_p": _number(0.0, 1.0, above=True),
    "top_k": _count(0),
    "min_p": _number(0.0, 1.0),
    "typical_p": _number(0.0, 1.0, above=True),
    "epsilon_cutoff": _number(0.0, 1.0),
    "eta_cutoff": _number(0.0, 1.0),
    "repetition_penalty": _number(0.0, above=True),
    "no_repeat_ngram_size": _count(0),
    "num_beams": _count(1),
    "length_penalty": _number(float("-inf")),
    "early_stopping": lambda value: _bool(value) or value == "never",
    "stop_strings": lambda value: (
        (isinstance(value, str) and bool(value))
        or (isinstance(value, list) and bool(value) and all(isinstance(part, str) and part for part in value))
    ),
    "bad_words_ids": _lists_of_ids,
    "suppress_tokens": lambda value: isinstance(value, list) and all(map(_count(0), value)),
    "begin_suppress_tokens": lambda value: isinstance(value, list) and all(map(_count(0), value)),
    "renormalize_logits": _bool,
    "eos_token_id": _ids,
    "pad_token_id": _count(0),
    "bos_token_id": _count(0),
    "max_length": _count(1),
    "max_new_tokens": _count(1),
    "min_length": _count(0),
    "min_new_tokens": _count(0),
    "use_cache": _bool,
}
# Left out without a word: they change no answer.
_SILENT = ("transformers_version", "_from_model_config")


def read_generation_config(folder: Path) -> GenerationConfig | None:
    """The generation config in a folder, without what cannot be used; None if it has none. Raises ModelError for broken JSON."""
    from transformers import GenerationConfig

    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return None
    kept, left_out = usable_settings(read_json(path))
    if left_out:
        logger.warning("%s: %s; left out", path, "; ".join(left_out))
    if kept.get("temperature") == 0:  # greedy, in the words of other programs
        kept = {name: value for name, value in kept.items() if name not in SAMPLING} | {"do_sample": False}
    try:
        config = GenerationConfig(**kept)
    except ValueError as cause:
        logger.warning("%s: its settings contradict each other (%s); only its tokens are used", path, first_line(cause))
        config = GenerationConfig(**{name: value for name, value in kept.items() if name.endswith("_token_id")})
    return config


def usable_settings(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings that can be used, and what is said of the others."""
    kept, left_out = {}, []
    for name, value in settings.items():
        if value is None or name in _SILENT:
            continue
        if (fits := _SETTINGS.get(name)) is None:
            if value is not False and value != [] and value != {}:
                left_out.append(f"{name} ({json.dumps(value)[:60]}) is not used by inference")
        elif not fits(value):
            left_out.append(f"{name} cannot be {json.dumps(value)[:60]}")
        else:
            kept[name] = value
    return kept, left_out


def end_of_turn(folder: Path) -> str | None:
    """The token with which the chat template in `folder` closes an answer; None if there is no template or no such token."""
    conversation = {"messages": [{"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer."}]}
    try:
        (rendered,) = _core.render_chat(folder, [json.dumps(conversation)])
    except Exception as cause:  # a tokenizer or a template that Rust does not read
        logger.debug("the end of a turn is unknown: %s", cause)
        return None
    if isinstance(rendered, str) or not rendered or not rendered[-1][1]:
        return None
    text, turns, _ = rendered[-1]
    _, start, end = turns[-1]
    closing = text.encode()[start:end].decode().rpartition("Answer.")[2]
    return closing.strip() or None


def set_stop_tokens(generation: GenerationConfig | None, tokenizer: Any, end: str | None = None) -> None:
    """Make generation stop at every token that may end an answer, in addition to its present stop tokens.

    end: the token that closes a turn in the model's own template. Call it before training: a generation config that cannot be
    saved must not be discovered afterwards.
    """
    if generation is None:
        return
    known = generation.eos_token_id
    known = [known] if isinstance(known, int) else list(known or [])
    vocabulary = tokenizer.added_tokens_encoder
    ends = [vocabulary[token] for token in (end, *END_TOKENS) if token in vocabulary]
    own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    stops = list(dict.fromkeys([*ends, *own, *known]))
    if stops:
        generation.eos_token_id = stops
    try:
        generation.validate(strict=True)
    except ValueError as cause:
        # Published configs set a temperature for greedy decoding, which ignores it; transformers refuses to save that after a change.
        logger.debug("sampling parameters were removed from the generation config: %s", cause)
        for name in SAMPLING:
            setattr(generation, name, None)
