"""Attention over packed rows: the rows of a micro-batch are concatenated, and no row attends to another.

While `packed_attention` is entered, a model's forward takes `row_lengths`, a list of the number of tokens of each row of
its one sequence, [1, tokens]; `position_ids` restart with each row. Projections, MLPs and norms process all tokens at once.
Attention processes each row separately by the plain causal kernel, so there is neither padding nor a mask. On CUDA in half
precision one kernel does this for all rows: flash-attention's if it is installed, otherwise torch's (`cuda.varlen_attention`).

On a CPU the kernel is `src/kernels/attention` if the processor has AVX-512, otherwise torch's. Models with recurrent
layers are not packed, nor is training with NEFTune, whose noise depends on the length of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import is_flash_attn_2_available

from pyrust_nn.cuda.varlen_attention import HALF, varlen_attention, varlen_usable

# The name of this implementation in transformers, which builds no mask for implementations without a mask function.
PACKED_ATTENTION = "pyrust_nn_rows"
FLASH_ATTENTION = "flash_attention_2"


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
    """Causal attention within each row. `query`, `key` and `value` are [1, heads, tokens, features].

    Without `row_lengths` each sequence of the batch is a row. `attention_mask` is ignored: rows are not padded.
    """
    if sliding_window is None:
        sliding_window = getattr(module, "sliding_window", None)  # Qwen2-MoE passes it only to its mask
    ends = kwargs.get("cu_seq_lens_q")
    if ends is not None and varlen_usable(query, kwargs.get("dropout") or 0.0):
        longest = kwargs["max_length_q"]
        return varlen_attention(query, key, value, ends=ends, longest=longest, scale=kwargs.get("scaling"), window=sliding_window), None
    outputs = []
    lengths = row_lengths or [query.shape[2]]
    # split, because the gradient of each slice would be a tensor of all tokens
    for parts in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True):
        mask = None
        length = parts[0].shape[2]
        if sliding_window is not None and length > sliding_window:
            distance = torch.arange(length, device=query.device)
            distance = distance[:, None] - distance
            mask = ((distance >= 0) & (distance < sliding_window))[None, None]
        outputs.append(sdpa_attention_forward(module, *parts, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], None


AttentionInterface.register(PACKED_ATTENTION, rows_attention)


def can_pack(config: Any) -> bool:
    """Whether every layer is attention: a recurrent layer (Qwen3.5) would carry its state from row to row."""
    layers = getattr(config.get_text_config(), "layer_types", None) or ()
    return all(layer in ("full_attention", "sliding_attention") for layer in layers)


@contextmanager
def packed_attention(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """While entered, `model` (transformers' or peft's) attends within rows. `dtype` is the dtype it computes in."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    before = base.config._attn_implementation
    # flash-attention gets a sliding window from the model, and not every model passes it.
    no_window = not any(getattr(module, "sliding_window", None) for module in base.modules())
    flash = base.device.type == "cuda" and dtype in HALF and no_window and is_flash_attn_2_available()
    base.set_attn_implementation(FLASH_ATTENTION if flash else PACKED_ATTENTION)
    try:
        yield
    finally:
        base.set_attn_implementation(before)
