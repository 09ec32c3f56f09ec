"""The tokens of an adapter's own tokenizer that its base does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrust_nn import InputError, _core


def check_adapter_tokens(adapter: Path, base: Path, model: Any) -> None:
    """Raise InputError if an adapter's own tokenizer has tokens that its base has not, and `model` with the adapter no rows for them."""
    embedding, known = model.get_input_embeddings(), own_tokens(base)
    rows = getattr(embedding, "original_module", embedding).weight.shape[0]
    if beyond := sorted(text for text, number in own_tokens(adapter).items() if text not in known and number >= rows):
        some = ", ".join(beyond[:3]) + (", …" if len(beyond) > 3 else "")
        raise InputError(
            f"adapter {adapter} was trained with the new tokens {some}, for which neither it nor its base {base} has rows "
            f"({rows} rows); give the base with its resized embedding as base_model, or train again with add_tokens"
        )


def own_tokens(folder: Path) -> dict[str, int]:
    """The tokens that a folder's tokenizer adds to its vocabulary, with their ids."""
    path = folder / "tokenizer.json"
    return {token["content"]: token["id"] for token in _core.tokenizer_head(path)["added_tokens"]} if path.is_file() else {}
