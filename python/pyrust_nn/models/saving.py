"""Saves trained models and adapters as folders that transformers and peft load.

peft asks the Hub for the vocabulary of an adapter's base, which is prevented here.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn.files import check_free_space
from pyrust_nn.models.multimodal import complete, is_multimodal
from pyrust_nn.models.stack import NEWEST_ADAPTER, copy_parents

if TYPE_CHECKING:
    from pyrust_nn.models.tokenizers import AnyTokenizer

logger = logging.getLogger(__name__)


def save_model(model: Any, tokenizer: AnyTokenizer, folder: Path, source: Path | None = None) -> None:
    """Write a model (PreTrainedModel), or an adapter (PeftModel) with its parents but without its base, into `folder`.

    source: the folder of the model that it was made from, whose vision part it gets.

    Besides the weights (safetensors, in the dtype they have in memory) it writes the tokenizer, its chat template and a
    generation config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        _sort_sets(model.peft_config[NEWEST_ADAPTER])
        # No embeddings: their size never changes here. Otherwise peft would ask the hub whether it did.
        model.save_pretrained(folder, selected_adapters=[NEWEST_ADAPTER], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
        copy_parents(model, folder)
        if model.get_base_model().generation_config is not None:
            model.get_base_model().generation_config.save_pretrained(folder)
    else:
        weights = {tensor.data_ptr(): tensor.nbytes for tensor in model.parameters()}
        check_free_space(folder, sum(weights.values()), "saving the model")
        model.save_pretrained(folder)
        if source is not None and is_multimodal(source):
            complete(folder, source)
    save_tokenizer(tokenizer, folder)


def _sort_sets(config: Any) -> None:
    """Make the sets of a peft config sorted lists. Otherwise peft writes them in the order of their hashes, which each process has anew."""
    for name, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, name, sorted(value))


def save_tokenizer(tokenizer: AnyTokenizer, folder: Path) -> None:
    """Write the tokenizer beside saved weights, and give the weights the same permissions as its files."""
    tokenizer.save_pretrained(folder)
    # safetensors makes its files readable by their owner alone.
    mode = (folder / "tokenizer_config.json").stat().st_mode
    for weights in folder.glob("*.safetensors"):
        weights.chmod(mode)
