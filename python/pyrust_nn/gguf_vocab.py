"""A Qwen tokenizer as GGUF keys: tokens, their types, merges, special tokens, the chat template."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf

from pyrust_nn import ModelError
from pyrust_nn.models import shared_tokenizer
from pyrust_nn.saving import END_TOKENS

# llama.cpp's name for the way a text is cut before merging, by the expression in tokenizer.json.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {_QWEN2: "qwen2", _QWEN35: "qwen35"}

# llama.cpp's converter names a tokenizer by the SHA-256 of the ids that it makes of this text (get_vocab_base_pre in
# conversion/base.py). Its verdict goes first; the expression decides for vocabularies that it does not know.
_PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫\ufe0f (multiple emojis concatenated"
    ") ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作131415"
    "1天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he'"
    "s there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
_KNOWN = {
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
    "d30d75d9059f1aa2c19359de71047b3ae408c70875e8a3ccf8c5fba56c9d8af4": "qwen35",
    "1444df51289cfa8063b96f0e62b1125440111bc79a52003ea14b6eac7016fd5f": "qwen35",
}


def add_vocabulary(writer: gguf.GGUFWriter, folder: Path, size: int) -> Any:
    """Add the tokenizer in `folder`, filled up to `size` ids (the rows of the embedding). Returns the tokenizer.

    Raises ModelError where llama.cpp has no such tokenizer, or it has ids that the model does not.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json, which holds the vocabulary; copy or download it again, or load the "
            "tokenizer with transformers and save it there with save_pretrained"
        )
    tokenizer = shared_tokenizer(str(folder))
    tokens, types = _tokens(tokenizer, size, folder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer, folder))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, tokenizer, folder)
    return tokenizer


def _tokens(tokenizer: Any, size: int, folder: Path) -> tuple[list[str], list[int]]:
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(by_id) >= size:
        raise ModelError(
            f"the tokenizer in {folder} has ids up to {max(by_id)}, the model only {size}; take the tokenizer that belongs "
            "to the model, or resize the model's embedding"
        )
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for index in range(size):
        token = by_id.get(index)
        if token is None:
            tokens.append(f"[PAD{index}]")
            types.append(gguf.TokenType.UNUSED)
            continue
        kind = gguf.TokenType.NORMAL
        if (entry := added.get(index)) is not None:
            if not entry.normalized:
                # llama.cpp looks for added tokens in texts as they are.
                token = tokenizer.decode(tokenizer.encode(token, add_special_tokens=False))
            looks_special = token.startswith("<|") and token.endswith("|>")
            kind = gguf.TokenType.CONTROL if entry.special or looks_special else gguf.TokenType.USER_DEFINED
        tokens.append(token)
        types.append(kind)
    return tokens, types


def _pre_tokenizer(tokenizer: Any, folder: Path) -> str:
    ids = tokenizer.encode(_PROBE)
    if (known := _KNOWN.get(hashlib.sha256(str(ids).encode()).hexdigest())) is not None:
        return known
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer is not None else {}
    steps = state.get("pretokenizers", [state])
    expressions = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    is_byte_level = any(step.get("type") == "ByteLevel" and not step.get("use_regex") for step in steps)
    if type(backend.model).__name__ != "BPE" or len(expressions) != 1 or not is_byte_level:
        raise ModelError(f"the tokenizer in {folder} is no byte-level BPE of Qwen's kind; llama.cpp could not use it")
    if expressions[0] not in PRE_TOKENIZERS:
        raise ModelError(
            f"the tokenizer in {folder} cuts texts by an expression that is neither Qwen2's nor Qwen3.5's, so llama.cpp "
            f"would make other tokens of a text; take the tokenizer of the model's family. It is {expressions[0]}"
        )
    return PRE_TOKENIZERS[expressions[0]]


def _add_special(writer: gguf.GGUFWriter, tokenizer: Any, folder: Path) -> None:
    special = gguf.SpecialVocab(folder)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    writer.add_token_merges([_merge(merge) for merge in document["model"]["merges"]])
    processor = document.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    if any(step.get("type") == "ByteLevel" for step in steps):
        # Such a step adds nothing around a text, whatever the configuration says (as newer versions of gguf read it).
        special.add_special_token["bos"] = special.add_special_token["eos"] = False

    ends = [index for token in END_TOKENS if (index := tokenizer.backend_tokenizer.token_to_id(token)) is not None]
    # Not in llama.cpp's converter: where the end of a turn is known, no reader need guess it from the tokens' names, or
    # take id 11, llama.cpp's default, for the end of the text.
    if ends:
        special.special_token_ids.setdefault("eos", ends[0])
        special.special_token_ids.setdefault("eot", ends[0])
    special.add_to_gguf(writer, quiet=True)


def _merge(merge: str | list[str]) -> str:
    """Two tokens with a space between them; one within a token is written as byte-level BPE writes it elsewhere, 256 higher."""
    if isinstance(merge, str):
        return merge
    left, right = merge
    return f"{left} {right}" if " " not in left and " " not in right else " ".join(part.replace(" ", "Ġ") for part in merge)
