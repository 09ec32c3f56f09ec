"""The tokenizer of a training, and the parameter `add_tokens`: what a model needs for tokens that it does not have.

The rows of new tokens in the embedding and in the output matrix begin as the mean of the rows of their pieces: the tokens that
the text had before. A model has often more rows than tokens (Qwen's vocabulary is padded); it gets more if they do not suffice.

A LoRA adapter trains these rows alone, by peft's `trainable_token_indices`: the other rows stay those of the base, and the
adapter holds a row for each token instead of two whole matrices (`modules_to_save`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pyrust_nn import InputError, _core
from pyrust_nn.models.adapter_tokens import own_tokens
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.tokenizers import TokenizerFiles, tokenizer_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTokenizer:
    """The tokenizer with which rows are prepared, and which the trained model gets."""

    folder: Path
    files: TokenizerFiles
    pieces: dict[int, list[int]]
    """The new tokens by their ids, each with the tokens that its text had before."""

    @classmethod
    def of(cls, params: SimpleNamespace) -> TrainingTokenizer:
        """The tokenizer of the adapter that is trained further if it has its own, else the model's; with the tokens of `add_tokens`.

        Raises InputError for a new token while an adapter is trained further.
        """
        adapter = getattr(params, "checkpoint_lora", None)
        own = Path(adapter) if adapter and (Path(adapter) / "tokenizer.json").is_file() else None
        before = own or tokenizer_folder(params.model)
        if own is not None:
            _tell_difference(own, model_folder(params.model))
        folder = _core.with_added_tokens(before, params.add_tokens or [])
        new = {text: number for text, number in own_tokens(folder).items() if text not in own_tokens(before)} if folder != before else {}
        if new and adapter:
            raise InputError(
                f"add_tokens: adapter {adapter} was trained without {', '.join(sorted(new))}, and it gets no more tokens; "
                "merge it (task merge) and train a new one with add_tokens on the result"
            )
        encoded = _core.tokenize(before, list(new))[1] if new else []
        return cls(folder, TokenizerFiles.from_folder(folder), dict(zip(new.values(), encoded, strict=True)))

    @property
    def rows(self) -> int:
        """How many rows the new tokens need."""
        return max(self.pieces, default=-1) + 1


def add_embedding_rows(model: Any, tokenizer: TrainingTokenizer) -> None:
    """Set the rows of the new tokens in the embedding and the output matrix of a model without adapters.

    Raises InputError if they are quantized.
    """
    if not tokenizer.pieces:
        return
    matrices = _matrices(model)
    if not all(module.weight.is_floating_point() for module in matrices.values()):
        raise InputError("add_tokens: the embedding or the output matrix of this model is quantized; give the model before quantization")
    before = model.get_input_embeddings().weight.shape[0]
    if tokenizer.rows > before:
        model.resize_token_embeddings(tokenizer.rows, mean_resizing=False)
    with torch.no_grad():
        for module in _matrices(model).values():
            for tensor in (module.weight, getattr(module, "bias", None)):
                if tensor is not None:
                    means = [tensor[pieces].float().mean(0) for pieces in tokenizer.pieces.values()]
                    tensor[list(tokenizer.pieces)] = torch.stack(means).to(tensor.dtype)
    after = model.get_input_embeddings().weight.shape[0]
    logger.info(
        "%d new tokens; the embedding has %s",
        len(tokenizer.pieces),
        f"{after} rows, {before} before" if after > before else "rows for them",
    )


def trained_rows(model: Any, tokenizer: TrainingTokenizer, target_modules: list[str] | str) -> dict[str, list[int]] | None:
    """peft's `trainable_token_indices` for a new adapter on `model`; None without new tokens.

    Raises InputError if LoRA is to adapt one of the matrices too.
    """
    if not tokenizer.pieces:
        return None
    matrices = _matrices(model)
    if both := [name for name in matrices if name in target_modules]:
        raise InputError(
            f"add_tokens trains the new rows of {' and '.join(both)}, which target_modules names too; leave it out of target_modules"
        )
    if any(getattr(module, "bias", None) is not None for module in matrices.values()):
        raise InputError(
            "add_tokens: the output matrix of this model has a bias, which peft would leave out; train all weights (finetune_full)"
        )
    return {name: sorted(tokenizer.pieces) for name in matrices}


def train_rows_in_float32(model: Any) -> None:
    """Hold the trained rows of single tokens in float32, as peft does for low-rank matrices: in bf16 small steps would be lost."""
    for name, parameter in model.named_parameters():
        if "trainable_tokens_delta" in name and parameter.requires_grad:
            parameter.data = parameter.data.float()


def _matrices(model: Any) -> dict[str, Any]:
    """The embedding and, if it has weights of its own, the output matrix, by the last part of their names."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return {names[id(module)]: module for module in modules}


def _tell_difference(adapter: Path, base: Path) -> None:
    """Say in the log that an adapter's own tokenizer or template is used, if it is not that of its base."""
    if not (base / "tokenizer.json").is_file():
        return
    own, theirs = (TokenizerFiles.from_folder(folder).files for folder in (adapter, base))
    names = [name for name in (Path("tokenizer.json"), Path("chat_template.jinja")) if own.get(name) != theirs.get(name)]
    if names:
        logger.info("%s of adapter %s, not of its base, %s used", " and ".join(map(str, names)), adapter, "are" if len(names) > 1 else "is")
