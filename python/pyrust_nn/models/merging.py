"""Merges an adapter, its parents and its base into one plain model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrust_nn import InputError
from pyrust_nn.models.adapter_folder import adapter_base, checked_adapter_folder
from pyrust_nn.models.loading import load_with_adapter, stored_dtype
from pyrust_nn.models.model_folder import checked_model_folder, quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def merged_model(adapter: str, device: torch.device, dtype: torch.dtype | None, base_model: str | None = None) -> PreTrainedModel:
    """The plain model that computes what an adapter, its parents and its base compute together.

    The adapters' products are added in float32 and the sum is rounded once to `dtype` (None: the dtype in which the base
    is stored). Adding in bfloat16 would lose part of the adapter's small change. `base_model` replaces the base that the
    adapter names.

    Raises InputError if the base is quantized, or if the adapter does not fit; ModelError if one cannot be loaded.
    """
    import torch

    folder = checked_adapter_folder(adapter)
    base = adapter_base(str(folder), base_model)
    if quantization(checked_model_folder(base)) is not None:
        raise InputError(
            f"adapter {folder} cannot be merged: its base {base} is quantized, and merging needs the plain weights; "
            "give the plain model as base_model"
        )
    adapted = load_with_adapter(folder, device, torch.float32, base_model=base_model)
    untie_adapted_embeddings(adapted)
    model = adapted.merge_and_unload(safe_merge=True)
    settle_tying(model)
    return model.to(stored_dtype(base) if dtype is None else dtype)


def untie_adapted_embeddings(model: Any) -> None:
    """Copy a PeftModel's output matrix if it shares the embedding's weights and one of them is adapted: a merge changes only that one."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    base: Any = model.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if head is None or not (isinstance(head, BaseTunerLayer) or isinstance(embedding, BaseTunerLayer)):
        return
    if head.weight is embedding.weight:
        plain: Any = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
        plain.weight = nn.Parameter(plain.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False


def settle_tying(model: Any) -> None:
    """Make a merged model's configuration say whether embedding and output matrix are one.

    An adapter may hold one of them as a whole (`modules_to_save`). Loading would tie them again, and the other would be lost.
    """
    import torch

    head, embedding, config = model.get_output_embeddings(), model.get_input_embeddings(), model.config.get_text_config()
    if head is None or not config.tie_word_embeddings or head.weight is embedding.weight:
        return
    if torch.equal(head.weight, embedding.weight):
        head.weight = embedding.weight
        return
    model.config.tie_word_embeddings = config.tie_word_embeddings = False
