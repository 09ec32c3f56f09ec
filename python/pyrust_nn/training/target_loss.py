"""The loss of a causal language model, with the output matrix applied at target tokens only.

The logits, [tokens, vocabulary], take most of a small model's memory and time, but only the positions that predict a
target enter the loss. So the hidden states of those positions are gathered before the matrix is applied (see
`linear_cross_entropy`). Loss and gradients equal those of transformers' `ForCausalLMLoss` except for rounding.

This happens inside the model's forward pass, where FSDP has gathered the weights. The replacement is active during one
forward pass only.

On a CPU the gradient of a trained vocabulary is added in place, in the forward pass of the loss and the backward pass
of the embedding. Autograd would allocate a matrix of 311 MB for each of the two in every micro-batch. A scaled loss is
refused there.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pyrust_nn import ModelError
from pyrust_nn.cpu.autograd_ops import first_order_only
from pyrust_nn.models.verified_classes import is_verified
from pyrust_nn.training.linear_cross_entropy import LinearCrossEntropy, Workspace, rows_per_chunk
from pyrust_nn.training.rows import IGNORED
from pyrust_nn.training.target_rows import TargetRows

# Configuration keys for a function between output matrix and loss. No Qwen model has one.
LOGIT_FUNCTIONS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "logits_soft_cap")


class EmbeddingLookup(torch.autograd.Function):
    """An embedding lookup whose gradient is added to the rows of `weight.grad`; autograd would allocate a whole matrix for it."""

    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: torch.Tensor, padding_idx: int | None, workspace: Workspace) -> torch.Tensor:
        """`ids` [...], `weight` [vocabulary, features]; the row of `padding_idx` gets no gradient, as in torch."""
        ctx.ids, ctx.weight, ctx.padding_idx, ctx.workspace = ids, weight, padding_idx, workspace
        return functional.embedding(ids, weight)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, None, None, None]:
        """`grad_outputs` is one tensor [..., features], where ... is the shape of `ids`."""
        weight, ids = ctx.weight, ctx.ids.reshape(-1)
        grad = grad_outputs[0].reshape(len(ids), -1).to(weight.dtype)
        if ctx.padding_idx is not None:
            grad = grad * (ids != ctx.padding_idx)[:, None]
        ctx.workspace.gradient(weight).index_add_(0, ids, grad)
        return None, None, None, None


class TargetLoss:
    """Computes the loss inside the model's own forward, where FSDP has gathered the weights and DDP has its hooks.

    While entered (`with loss: model(..., labels=...)`), the output layer returns its input, and the model's
    `loss_function` applies it to the target positions; for packed rows the last decoder layer computes only those too
    (`target_rows`). The `logits` of the output are then hidden states. On exit the model is restored. An output layer that
    is not a plain linear layer (adapted by LoRA, copied by `modules_to_save`, quantized) is called in chunks and
    recomputed in the backward pass. One with rows that are trained (`trainable_token_indices`) is the matrix with these rows.

    in_place: add the gradients of trained embedding and output matrices to the existing `grad` (see `Workspace`). This
    needs fp32 weights, a single process (no gradient hooks) and an unscaled loss.
    """

    def __init__(self, model: Any, *, in_place: bool = False) -> None:
        """`model` is transformers' model or peft's wrapper of one."""
        self.workspace = Workspace() if in_place else None
        self.base = model.get_base_model() if hasattr(model, "peft_config") else model
        self.head: Any = self.base.get_output_embeddings()
        config = self.base.config.get_text_config()
        self.usable = self.head is not None and is_verified(config) and not any(getattr(config, name, None) for name in LOGIT_FUNCTIONS)
        self.target_rows = TargetRows(self.base)
        self._hidden_passed: Any = None
        self._restore: list[Callable[[], None]] = []

    def __enter__(self) -> TargetLoss:
        """Replace the model's output layer and loss function."""
        if self.usable:
            self.target_rows.__enter__()
            head, base = self.head, self.base
            before, loss_function = head.__dict__.get("forward"), base.__dict__.get("_loss_function")
            self._head_forward, self._is_linear = head.forward, type(head) is torch.nn.Linear and before is None
            self._trains_rows = type(head).__name__ == "TrainableTokensWrapper" and before is None and bool(head.active_adapters)
            head.forward = self._pass_through
            base.loss_function = self._loss
            self._restore = [lambda: _reset(head, "forward", before), lambda: _reset(base, "_loss_function", loss_function)]
            embedding = base.get_input_embeddings()
            if self.workspace and type(embedding) is torch.nn.Embedding and "forward" not in embedding.__dict__:
                embedding.forward = lambda ids: self._look_up(embedding, ids)
                self._restore.append(lambda: _reset(embedding, "forward", None))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Restore them."""
        for restore in self._restore:
            restore()
        self.target_rows.__exit__(kind, error, traceback)
        self._restore, self._hidden_passed = [], None

    def _pass_through(self, hidden: torch.Tensor) -> torch.Tensor:
        self._hidden_passed = hidden
        return hidden

    def _look_up(self, embedding: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if (
            self.workspace is None
            or not (embedding.weight.requires_grad and torch.is_grad_enabled())
            or embedding.weight.dtype != torch.float32
        ):
            return type(embedding).forward(embedding, ids)
        return EmbeddingLookup.apply(ids, embedding.weight, embedding.padding_idx, self.workspace)

    def _loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int,
        num_items_in_batch: torch.Tensor | int | None = None,
        shift_labels: torch.Tensor | None = None,
        target_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Replaces `ForCausalLMLoss`. `logits` are hidden states, [rows, length, features] or [1, targets, features]."""
        passed, self._hidden_passed = self._hidden_passed, None
        if logits is not passed:
            raise ModelError(
                f"{type(self.base).__name__} changes its logits before the loss, so it cannot be trained here; "
                "use a model of the Qwen family"
            )
        if shift_labels is None:
            shift_labels = functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        targets = shift_labels.reshape(-1).to(logits.device)
        positions = (targets != IGNORED).nonzero().squeeze(1) if target_positions is None else target_positions.to(logits.device)
        hidden = logits.flatten(0, -2)
        if len(hidden) == len(targets):
            hidden = hidden.index_select(0, positions)
        elif len(hidden) != len(positions):  # otherwise `TargetRows` has selected them
            raise ModelError(
                f"{type(self.base).__name__} returns {len(hidden)} hidden states for {len(targets)} tokens, so it cannot "
                "be trained here; use a model of the Qwen family"
            )
        targets = targets[positions]
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        scale = 1 / torch.as_tensor(count, dtype=torch.float32, device=hidden.device)
        chunk = rows_per_chunk(vocab_size, hidden.device.type)
        if self._is_linear and self.head.weight.is_floating_point():
            weight = self.head.weight
            workspace = self.workspace if weight.dtype == torch.float32 and torch.is_grad_enabled() else None
            return LinearCrossEntropy.apply(hidden, weight, self.head.bias, targets, scale, chunk, workspace)
        if self._trains_rows and self.head.original_module.weight.is_floating_point():
            # The matrix with the trained rows is computed once, not for every chunk.
            return LinearCrossEntropy.apply(hidden, self.head.weight, None, targets, scale, chunk, None)
        return self._through_head(hidden, targets, chunk) * scale

    def _through_head(self, hidden: torch.Tensor, targets: torch.Tensor, chunk: int) -> torch.Tensor:
        def part(rows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(self._head_forward(rows).float(), target, reduction="sum")

        loss = hidden.sum().float() * 0.0  # keeps the autograd graph if there is no target
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            loss = loss + checkpoint(part, hidden[rows], targets[rows], use_reentrant=False)
        return loss


def _reset(owner: Any, name: str, value: Any) -> None:
    if value is None:
        owner.__dict__.pop(name, None)
    else:
        owner.__dict__[name] = value
