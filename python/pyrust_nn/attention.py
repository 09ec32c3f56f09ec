"""Attention over packed rows: the rows of a micro-batch lie one behind the other, and none sees another.

`packed_attention` makes a model attend so while it is entered. Its forward then takes `row_lengths`, a list that says
how the tokens of its one sequence, [1, tokens], fall into rows; `position_ids` restart with each. Projections, MLPs
and norms work on all tokens at once, attention on each row by itself through the plain causal kernel, so neither padding
nor a mask is computed. On CUDA flash-attention's kernel for varying lengths does the same where it is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import is_flash_attn_2_available

# transformers makes no mask for an implementation that it has no mask function for.
NAME = "pyrust_nn_rows"
FLASH = "flash_attention_2"


def rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    row_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row; query, key and value are [1, heads, tokens, features].

    Without `row_lengths` each sequence of the batch is a row. `attention_mask` stays unused: rows are not padded.
    """
    if sliding_window is None:
        sliding_window = getattr(module, "sliding_window", None)  # Qwen2-MoE tells its mask alone
    outputs = []
    lengths = row_lengths or [query.shape[2]]
    # split, since the gradient of slices would be a tensor of all tokens for each of them
    for parts in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True):
        mask = None
        length = parts[0].shape[2]
        if sliding_window is not None and length > sliding_window:
            distance = torch.arange(length, device=query.device)
            distance = distance[:, None] - distance
            mask = ((distance >= 0) & (distance < sliding_window))[None, None]
        outputs.append(sdpa_attention_forward(module, *parts, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], None


AttentionInterface.register(NAME, rows_attention)


def can_pack(config: Any) -> bool:
    """Whether every layer is attention over tokens: a recurrent one (Qwen3.5) carries its state from row to row."""
    layers = getattr(config.get_text_config(), "layer_types", None) or ()
    return all(layer in ("full_attention", "sliding_attention") for layer in layers)


@contextmanager
def packed_attention(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Have `model` (transformers' or peft's) attend within rows; `dtype` is what it computes in."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    before = base.config._attn_implementation
    half = dtype in (torch.float16, torch.bfloat16)
    # It learns of a window from the model, and not every model tells.
    whole = not any(getattr(module, "sliding_window", None) for module in base.modules())
    flash = base.device.type == "cuda" and half and whole and is_flash_attn_2_available()
    base.set_attn_implementation(FLASH if flash else NAME)
    try:
        yield
    finally:
        base.set_attn_implementation(before)
