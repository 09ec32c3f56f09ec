"""Computes the last decoder layer at target tokens only.

Only the positions that predict a target enter the loss. Keys and values need every token; the output projection, the MLP
and everything after them need only those positions. This saves a third of a small model's last layer or more, and does
not change the loss. (Dropout draws its numbers for fewer positions, so they differ from those of transformers; their
distribution is the same.)
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

# Layers of exactly this form: residual plus attention of a norm, then residual plus MLP of a norm.
SUPPORTED_LAYERS = (Qwen2DecoderLayer, Qwen3DecoderLayer)


class TargetRows:
    """While entered, a model's last layer returns only the `target_positions` that its forward is given.

    This applies to packed rows (one sequence) that have a target. The hidden states are then
    [1, targets, features], which the consumer must expect (`TargetLoss` does).
    """

    def __init__(self, base: Any) -> None:
        """`base` is transformers' model, without peft's wrapper."""
        layers = getattr(getattr(base, "model", None), "layers", None)
        self.layer: Any = layers[-1] if layers is not None and len(layers) and type(layers[-1]) in SUPPORTED_LAYERS else None

    def __enter__(self) -> TargetRows:
        """Replace the layer's forward."""
        # Not for a compiled layer: torch would recompile it for each number of targets.
        if self.layer is not None and "forward" not in self.layer.__dict__ and not _is_compiled(self.layer):
            self._original_forward = self.layer.forward
            self.layer.forward = self._forward
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Restore it."""
        if self.layer is not None and self.layer.__dict__.get("forward") == self._forward:
            del self.layer.forward

    def _forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`hidden_states` [1, tokens, features] to [1, targets, features]."""
        targets = kwargs.get("target_positions") if "row_lengths" in kwargs else None
        if targets is None or len(targets) in (0, hidden_states.shape[1]):
            result: torch.Tensor = self._original_forward(hidden_states, **kwargs)
            return result

        def compute(hidden_states: torch.Tensor) -> torch.Tensor:
            return _at_targets(self.layer, targets, hidden_states, **kwargs)

        if self.layer.gradient_checkpointing and self.layer.training:
            # As the layer's own forward does, which this replaces.
            result = self.layer._gradient_checkpointing_func(compute, hidden_states)
            return result
        return compute(hidden_states)


def _at_targets(layer: Any, targets: torch.Tensor, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """The layer's output at `targets`, [1, targets, features]. It may be called again later, in the backward pass."""

    def select(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].index_select(1, targets), *inputs[1:])

    residual = hidden_states.index_select(1, targets)
    hook = layer.self_attn.o_proj.register_forward_pre_hook(select)
    try:
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    finally:
        hook.remove()
    hidden_states = residual + attended
    computed: torch.Tensor = hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))
    return computed


def _is_compiled(layer: torch.nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in (layer, *layer.children()))
