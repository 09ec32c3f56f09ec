"""Replaces the `forward` of a model's modules by `fused_ops` while it trains: all of them on a CPU in fp32, adapters also on CUDA.

`patched_layers` replaces the `forward` of modules whose class it knows, and restores them. A replacement decides at every
call whether it applies, so settings may change; otherwise (another dtype, an adapter with more than low-rank pairs, a
quantized layer) it calls the module's own `forward`. On CUDA peft's forward starts twice as many kernels, and a small model
spends its time starting them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners import lora
from torch import nn
from transformers.activations import SiLUActivation
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from pyrust_nn.cpu.fused_ops import LoraLinear, PackedAttention, RMSNorm, RotaryEmbedding, SwiGLU
from pyrust_nn.cpu.matmul import is_cpu_fp32
from pyrust_nn.cpu.packed_attention import PACKED_ATTENTION, rows_attention
from pyrust_nn.cuda.varlen_attention import compute_dtype

Forward = Callable[..., Any]
NORMS = (qwen2.Qwen2RMSNorm, qwen3.Qwen3RMSNorm)
MLPS = (qwen2.Qwen2MLP, qwen3.Qwen3MLP)
ATTENTIONS = (qwen2.Qwen2Attention, qwen3.Qwen3Attention)


@contextmanager
def patched_layers(model: nn.Module) -> Iterator[None]:
    """Patch `model` (transformers' or peft's wrapper of one) while entered. It must be complete in this process, not sharded."""
    base: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    head = base.get_output_embeddings()  # `TargetLoss` replaces it
    replacement = _lora_alone if base.device.type == "cuda" else _replacement
    patches = [(module, forward) for module in model.modules() if module is not head and (forward := replacement(module))]
    for module, forward in patches:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in patches:
            module.__dict__.pop("forward", None)


def _replacement(module: nn.Module) -> Forward | None:
    """A function equivalent to `module.forward`; None for an unknown class, or if `forward` is already replaced."""
    if "forward" in module.__dict__:
        return None
    kind = type(module)
    if kind is nn.Linear:
        return _linear(module)
    if kind is lora.Linear:
        return _lora(module)
    if kind in NORMS:
        return _norm(module)
    if kind in MLPS:
        return _mlp(module)
    return _attention(module) if kind in ATTENTIONS else None


def _lora_alone(module: nn.Module) -> Forward | None:
    """The same, on CUDA."""
    return _lora(module) if type(module) is lora.Linear and "forward" not in module.__dict__ else None


def _linear(module: Any) -> Forward:
    original = module.forward

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        if not is_cpu_fp32(inputs, module.weight, module.bias):
            return original(inputs)
        return LoraLinear.apply(inputs, module.weight, module.bias, ())

    return forward


def _lora(module: Any) -> Forward:
    original = module.forward
    base = module.base_layer
    is_plain = type(base) is nn.Linear and "forward" not in base.__dict__ and not module.fan_in_fan_out

    def forward(inputs: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        names = [name for name in module.active_adapters if name in module.lora_A]
        if args or kwargs or not is_plain or module.disable_adapters or module.merged or not all(_is_pair(module, name) for name in names):
            return original(inputs, *args, **kwargs)
        matrices = [part[name].weight for name in names for part in (module.lora_A, module.lora_B)]
        if base.weight.is_cuda:
            dtype = compute_dtype(inputs)
            if base.weight.requires_grad or base.weight.dtype != dtype:
                return original(inputs)
            inputs, *matrices = (tensor.to(dtype) for tensor in (inputs, *matrices))
        elif not is_cpu_fp32(inputs, base.weight, base.bias, *matrices):
            return original(inputs)
        pairs: list[torch.Tensor | None] = []
        for number, name in enumerate(names):
            dropout = module.lora_dropout[name]
            active = type(dropout) is nn.Dropout and dropout.training and dropout.p > 0
            pairs += [dropout(inputs) if active else None, matrices[2 * number], matrices[2 * number + 1]]
        return LoraLinear.apply(inputs, base.weight, base.bias, [module.scaling[name] for name in names], *pairs)

    return forward


def _is_pair(module: Any, name: str) -> bool:
    """Whether this adapter is two plain matrices without bias, with no other change of their input than dropout."""
    parts = (module.lora_A[name], module.lora_B[name])
    return (
        name not in module.lora_variant
        and type(module.lora_dropout[name]) in (nn.Identity, nn.Dropout)
        and all(type(part) is nn.Linear and part.bias is None for part in parts)
    )


def _norm(module: Any) -> Forward:
    original = module.forward

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        if not is_cpu_fp32(hidden_states, module.weight):
            return original(hidden_states)
        return RMSNorm.apply(hidden_states, module.weight, module.variance_epsilon)

    return forward


def _mlp(module: Any) -> Forward | None:
    if type(module.act_fn) not in (nn.SiLU, SiLUActivation):
        return None
    original = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        return module.down_proj(SwiGLU.apply(module.gate_proj(x), module.up_proj(x))) if is_cpu_fp32(x) else original(x)

    return forward


def _attention(module: Any) -> Forward:
    original = module.forward

    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if (
            past_key_values is not None
            or module.config._attn_implementation != PACKED_ATTENTION
            or not is_cpu_fp32(hidden_states, *position_embeddings)
        ):
            return original(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        query, key, value = (part(hidden_states).view(shape) for part in (module.q_proj, module.k_proj, module.v_proj))
        if type(module) is qwen3.Qwen3Attention:
            query, key = module.q_norm(query), module.k_norm(key)
        cos, sin = (part.unsqueeze(-2) for part in position_embeddings)
        query, key = RotaryEmbedding.apply(query, cos, sin), RotaryEmbedding.apply(key, cos, sin)
        if not (module.training and module.attention_dropout) and PackedAttention.usable(query, key, value):
            batch, tokens = hidden_states.shape[:2]
            lengths = kwargs.get("row_lengths") or [tokens] * batch
            attended = PackedAttention.apply(query, key, value, lengths, module.scaling, module.sliding_window)
            return module.o_proj(attended.flatten(-2)), None
        attended, weights = rows_attention(
            module,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attention_mask,
            dropout=module.attention_dropout if module.training else 0.0,
            scaling=module.scaling,
            sliding_window=module.sliding_window,
            **kwargs,
        )
        return module.o_proj(attended.reshape(*hidden_states.shape[:-1], -1)), weights

    return forward
