"""flash-attention 2.8's functions on a fake GPU: its signatures, its checks of arguments, and results of its shapes.

What flash_attn_interface.py and csrc/flash_attn/flash_api.cpp of the package check for a training is checked here.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache", "pad_input", "unpad_input"]


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: torch.Tensor | None = None,
) -> torch.Tensor:
    """`q` [tokens, heads, features]; `k` and `v` may have fewer heads. The sums of lengths are int32 on the GPU."""
    check(q, k, v)
    for ends in (cu_seqlens_q, cu_seqlens_k):
        assert ends.dtype == torch.int32 and ends.is_cuda and ends.is_contiguous() and ends.dim() == 1
    assert type(max_seqlen_q) is int and type(max_seqlen_k) is int  # a tensor would wait for the GPU
    assert q.dim() == k.dim() == v.dim() == 3 and causal
    return result(q, k, v)


def flash_attn_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`q` [rows, tokens, heads, features]."""
    check(q, k, v)
    return result(q, k, v)


def flash_attn_with_kvcache(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Not for training."""
    raise AssertionError("training has no cache of keys and values")


pad_input = unpad_input = flash_attn_with_kvcache  # packed rows have no padding


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Raise AssertionError for what the package refuses."""
    assert q.dtype in (torch.float16, torch.bfloat16), "FlashAttention only support fp16 and bf16 data type"
    assert q.dtype == k.dtype == v.dtype, "query and key must have the same dtype"
    assert q.is_cuda and k.is_cuda and v.is_cuda, "Input tensor must be on CUDA device"
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1, "Input tensor must have contiguous last dimension"
    assert q.shape[-1] <= 256 and q.shape[-1] % 8 == 0 and q.shape[-2] % k.shape[-2] == 0 and k.shape == v.shape


def result(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A tensor like `q` that depends on all three."""
    return q + k.mean() + v.mean()
