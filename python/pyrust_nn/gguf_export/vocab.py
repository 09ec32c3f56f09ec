"""A Qwen tokenizer as GGUF keys: tokens, their types, merges, special tokens, the chat template.

Tokens, types and merges are references (`TokenizerField`): the native core copies them from tokenizer.json into the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf

from pyrust_nn import ModelError, _core
from pyrust_nn.files import write_text
from pyrust_nn.gguf_export.pre_tokenizers import pre_tokenizer_name
from pyrust_nn.models.generation import END_TOKENS, end_of_turn
from pyrust_nn.models.tokenizers import shared_tokenizer


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
    writer.add_tokenizer_pre(pre_tokenizer_name(tokenizer, folder))
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


def _add_special_tokens(writer: gguf.GGUFWriter, tokenizer: Any, folder: Path) -> None:
    head = _core.tokenizer_head(folder / "tokenizer.json")
    special = _special_vocabulary(folder, head)
    processor = head["post_processor"] or {}
    steps = processor.get("processors", [processor])
    if not processor or any(step.get("type") == "ByteLevel" for step in steps):
        # Such a step adds no tokens to a text, whatever the configuration says; newer versions of gguf do the same. Nor does none at all:
        # for some pre-tokenizers llama.cpp would put id 11 before every text.
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
