"""A Qwen tokenizer as GGUF keys: tokens, their types, merges, special tokens, the chat template.

Tokens, types and merges are references (`TokenizerField`): the native core copies them from tokenizer.json into the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf

from pyrust_nn import ModelError, _core
from pyrust_nn.files import write_text
from pyrust_nn.models.generation import END_TOKENS, end_of_turn
from pyrust_nn.models.tokenizers import shared_tokenizer

# llama.cpp's names of the pre-tokenizers, by the regular expression in tokenizer.json.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {_QWEN2: "qwen2", _QWEN35: "qwen35"}

# llama.cpp's converter identifies a tokenizer by the SHA-256 of the ids of this text (get_vocab_base_pre in
# conversion/base.py). That has priority; the regular expression decides for vocabularies that it does not know.
_PROBE_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫\ufe0f (multiple emojis concatenated"
    ") ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作131415"
    "1天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he'"
    "s there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
_KNOWN_HASHES = {
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
    "d30d75d9059f1aa2c19359de71047b3ae408c70875e8a3ccf8c5fba56c9d8af4": "qwen35",
    "1444df51289cfa8063b96f0e62b1125440111bc79a52003ea14b6eac7016fd5f": "qwen35",
}


@dataclass(frozen=True)
class TokenizerField:
    """A key's value that the native core copies from the tokenizer: `tokens`, `types` or `merges`."""

    name: str


def add_vocabulary(writer: gguf.GGUFWriter, folder: Path, size: int) -> dict[str, Any]:
    """Add the keys of the tokenizer in `folder`. Returns the plan's entry `vocabulary`, padded to `size` ids (the embedding's rows).

    Raises ModelError if llama.cpp has no such tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json, which holds the vocabulary; copy or download it again, or load the "
            "tokenizer with transformers and save it there with save_pretrained"
        )
    tokenizer = shared_tokenizer(str(folder))
    keys, kinds = gguf.Keys.Tokenizer, gguf.GGUFValueType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer, folder))
    writer.add_key_value(keys.LIST, TokenizerField("tokens"), kinds.ARRAY, kinds.STRING)
    writer.add_key_value(keys.TOKEN_TYPE, TokenizerField("types"), kinds.ARRAY, kinds.INT32)
    writer.add_key_value(keys.MERGES, TokenizerField("merges"), kinds.ARRAY, kinds.STRING)
    _add_special_tokens(writer, tokenizer, folder)
    return {"tokenizer": str(path), "size": size, "added": _added_tokens(tokenizer)}


def _added_tokens(tokenizer: Any) -> list[dict[str, Any]]:
    added = []
    for index, entry in sorted(tokenizer.added_tokens_decoder.items()):
        text = entry.content
        if not entry.normalized:
            # llama.cpp searches texts for added tokens without normalizing them.
            text = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        looks_special = text.startswith("<|") and text.endswith("|>")
        kind = gguf.TokenType.CONTROL if entry.special or looks_special else gguf.TokenType.USER_DEFINED
        added.append({"id": index, "text": text, "type": kind})
    return added


def _pre_tokenizer(tokenizer: Any, folder: Path) -> str:
    ids = tokenizer.encode(_PROBE_TEXT)
    if (known := _KNOWN_HASHES.get(hashlib.sha256(str(ids).encode()).hexdigest())) is not None:
        return known
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer is not None else {}
    steps = state.get("pretokenizers", [state])
    expressions = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    is_byte_level = any(step.get("type") == "ByteLevel" and not step.get("use_regex") for step in steps)
    if type(backend.model).__name__ != "BPE" or len(expressions) != 1 or not is_byte_level:
        raise ModelError(
            f"the tokenizer in {folder} is not a byte-level BPE of Qwen's kind, which llama.cpp needs; use a model of the Qwen family"
        )
    if expressions[0] not in PRE_TOKENIZERS:
        raise ModelError(
            f"the tokenizer in {folder} splits texts by an expression that is neither Qwen2's nor Qwen3.5's, so llama.cpp "
            f"would tokenize texts differently; use the tokenizer of the model's family. The expression is {expressions[0]}"
        )
    return PRE_TOKENIZERS[expressions[0]]


def _add_special_tokens(writer: gguf.GGUFWriter, tokenizer: Any, folder: Path) -> None:
    head = _core.tokenizer_head(folder / "tokenizer.json")
    special = _special_vocabulary(folder, head)
    processor = head["post_processor"] or {}
    steps = processor.get("processors", [processor])
    if any(step.get("type") == "ByteLevel" for step in steps):
        # Such a step adds no tokens to a text, whatever the configuration says. Newer versions of gguf do the same.
        special.add_special_token["bos"] = special.add_special_token["eos"] = False

    known = tokenizer.backend_tokenizer.token_to_id
    ends = [index for token in END_TOKENS if (index := known(token)) is not None]
    if (end := end_of_turn(folder)) and (index := known(end)) is not None:
        ends.insert(0, index)
        special.special_token_ids["eot"] = index
    # llama.cpp's converter does not do this. Without these keys a reader guesses the end of a turn from the tokens' names,
    # and takes id 11, llama.cpp's default, as the end of the text.
    if ends:
        special.special_token_ids.setdefault("eos", ends[0])
        special.special_token_ids.setdefault("eot", ends[0])
    special.add_to_gguf(writer, quiet=True)


def _special_vocabulary(folder: Path, head: dict[str, Any]) -> gguf.SpecialVocab:
    """gguf's SpecialVocab of the folder. It reads only the head of tokenizer.json, not the 11 MB of tokens."""
    with TemporaryDirectory() as slim:
        for path in folder.absolute().iterdir():
            if path.name != "tokenizer.json":
                (Path(slim) / path.name).symlink_to(path)
        write_text(Path(slim) / "tokenizer.json", json.dumps(head), sync=False)
        return gguf.SpecialVocab(slim)
