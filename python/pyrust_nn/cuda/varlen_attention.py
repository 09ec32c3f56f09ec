"""Attention over packed rows on CUDA, by the kernel for sequences of different lengths that torch contains.

One kernel per layer processes all rows. A loop over the rows would start several small kernels for each of them, and the time
to start them exceeds the time that a small model computes.
"""

from __future__ import annotations

from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)
# What flash-attention's kernels support: the number of features of a head, and the generation of the GPU.
MAX_FEATURES, MIN_CAPABILITY = 256, (8, 0)


def compute_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype in which a matrix product with this tensor is computed here: autocast's, or the tensor's own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def varlen_usable(query: torch.Tensor, dropout: float) -> bool:
    """Whether the kernel supports this `query`, [1, heads, tokens, features], and this probability of dropout."""
    features = query.shape[-1]
    return (
        query.is_cuda
        and not dropout
        and compute_dtype(query) in HALF
        and features <= MAX_FEATURES
        and features % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= MIN_CAPABILITY
    )


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    ends: torch.Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Causal attention within each row; the result is [1, tokens, heads, features].

    `query` is [1, heads, tokens, features]; `key` and `value` may have fewer heads. `ends` [rows + 1] (int32, on the device) has
    the sums of the rows' lengths, from 0; `longest` is the largest length. A token attends to the last `window` tokens including
    itself, or to all before it.
    """
    from torch.nn.attention.varlen import varlen_attn

    dtype = compute_dtype(query)
    parts = [tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value)]
    sides = (-1 if window is None else window - 1, 0)
    attended: Any = varlen_attn(*parts, ends, ends, longest, longest, scale=scale, window_size=sides, enable_gqa=True)
    return attended[None]
