"""The last decoder layer, computed at target tokens alone.

Of its output nothing but the rows that predict a target enters the loss. Its keys and values need every token; its
output projection, MLP and everything behind them need only those rows. So a third of a small model's last layer, or
more, is left out, and the loss stays what it is. (A dropout draws its numbers for fewer rows, and so others.)
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from pyrust_nn.rows import IGNORED

# Layers of this very form: a sum with the attention of a norm, and a sum with the MLP of a norm.
KNOWN = (Qwen2DecoderLayer, Qwen3DecoderLayer)


class TargetRows:
    """While entered, a model's last layer hands on the rows of `shift_labels` that are targets.

    It does so for packed rows (one sequence, which comes with `shift_labels`), and where there is a target at all; the
    hidden states are then [1, targets, features]. Whatever takes them must know (`loss.TargetLoss` does).
    """

    def __init__(self, base: Any) -> None:
        """`base` is transformers' model, without peft's around it."""
        layers = getattr(getattr(base, "model", None), "layers", None)
        self.layer: Any = layers[-1] if layers is not None and len(layers) and type(layers[-1]) in KNOWN else None
        self._at: torch.Tensor | None = None

    def __enter__(self) -> TargetRows:
        """Put it in place."""
        # A compiled layer stays whole: torch would compile it anew for each number of targets.
        if self.layer is not None and "forward" not in self.layer.__dict__ and not _is_compiled(self.layer):
            self._plain = self.layer.forward
            self.layer.forward = self._forward
            self._hook = self.layer.self_attn.o_proj.register_forward_pre_hook(self._select)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Take it out again."""
        if self.layer is not None and self.layer.__dict__.get("forward") == self._forward:
            del self.layer.forward
            self._hook.remove()

    def _forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`hidden_states` [1, tokens, features] to [1, targets, features]."""
        labels = kwargs.get("shift_labels")
        self._at = None if labels is None or len(labels) != 1 else (labels[0] != IGNORED).nonzero()[:, 0].to(hidden_states.device)
        if self._at is None or len(self._at) in (0, hidden_states.shape[1]):
            self._at = None
            result: torch.Tensor = self._plain(hidden_states, **kwargs)
            return result
        layer = self.layer
        residual = hidden_states.index_select(1, self._at)
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        hidden_states = residual + attended
        return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))

    def _select(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Of what the output projection is given, [1, tokens, features], the target rows."""
        return inputs if self._at is None else (inputs[0].index_select(1, self._at), *inputs[1:])


def _is_compiled(layer: torch.nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in (layer, *layer.children()))
