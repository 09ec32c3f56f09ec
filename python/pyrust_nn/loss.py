"""The loss of a causal language model, with the output matrix applied at the target tokens alone.

The matrix of logits, [tokens, vocabulary], is most of a small model's memory and time, and only the rows that predict a
target enter the loss. So the hidden states of those rows are gathered before the matrix is applied (`cross_entropy`).
Loss and gradients equal those of transformers' `ForCausalLMLoss` but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pyrust_nn import ModelError
from pyrust_nn.cross_entropy import LinearCrossEntropy, Workspace, chunk_rows
from pyrust_nn.derivatives import first_alone
from pyrust_nn.last_layer import TargetRows
from pyrust_nn.rows import IGNORED

# What a configuration calls a function between the output matrix and the loss. No Qwen has one.
LOGIT_FUNCTIONS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "logits_soft_cap")


class Lookup(torch.autograd.Function):
    """An embedding whose gradient is added to `weight.grad` row by row, where autograd would make a whole matrix of it."""

    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: torch.Tensor, padding_idx: int | None, workspace: Workspace) -> torch.Tensor:
        """`ids` [...], `weight` [words, features]; the row of `padding_idx` gets no gradient, as in torch."""
        ctx.ids, ctx.weight, ctx.padding_idx, ctx.workspace = ids, weight, padding_idx, workspace
        return functional.embedding(ids, weight)

    @staticmethod
    @first_alone
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, None, None, None]:
        """`grad_outputs` is one tensor, of the shape of `ids` and [..., features]."""
        weight, ids = ctx.weight, ctx.ids.reshape(-1)
        grad = grad_outputs[0].reshape(len(ids), -1).to(weight.dtype)
        if ctx.padding_idx is not None:
            grad = grad * (ids != ctx.padding_idx)[:, None]
        ctx.workspace.gradient(weight).index_add_(0, ids, grad)
        return None, None, None, None


class TargetLoss:
    """Computes a model's loss this way inside the model's own forward, where FSDP has the weights and DDP its hooks.

    While it is entered (`with loss: model(..., labels=...)`), the head hands its input through and the model's
    `loss_function` applies the head to the rows that count; of packed rows the last layer computes no others either
    (`last_layer`). Outside, the model is what it was. `logits` of an output made inside are hidden states. A head that
    is no plain linear layer (adapted by LoRA, copied by `modules_to_save`, quantized) is called as it is, chunk by
    chunk, and computed again for its gradient.

    With `in_place`, gradients of the vocabulary's matrices that learn are added to what is in `grad` already (see
    `Workspace`). It needs fp32 weights, one process (no hooks on gradients) and no scaling of the loss.
    """

    def __init__(self, model: Any, *, in_place: bool = False) -> None:
        """`model` is transformers' model, or peft's around one."""
        self.workspace = Workspace() if in_place else None
        self.base = model.get_base_model() if hasattr(model, "peft_config") else model
        self.head: Any = self.base.get_output_embeddings()
        config = self.base.config.get_text_config()
        self.usable = self.head is not None and not any(getattr(config, name, None) for name in LOGIT_FUNCTIONS)
        self.rows = TargetRows(self.base)
        self._passed: Any = None
        self._restore: list[Callable[[], None]] = []

    def __enter__(self) -> TargetLoss:
        """Put it in place."""
        if self.usable:
            self.rows.__enter__()
            head, base = self.head, self.base
            before, loss_function = head.__dict__.get("forward"), base.__dict__.get("_loss_function")
            self._head_forward, self._plain = head.forward, type(head) is torch.nn.Linear and before is None
            head.forward = self._pass
            base.loss_function = self._loss
            self._restore = [lambda: _reset(head, "forward", before), lambda: _reset(base, "_loss_function", loss_function)]
            embedding = base.get_input_embeddings()
            if self.workspace and type(embedding) is torch.nn.Embedding and "forward" not in embedding.__dict__:
                embedding.forward = lambda ids: self._look_up(embedding, ids)
                self._restore.append(lambda: _reset(embedding, "forward", None))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Take it out again."""
        for restore in self._restore:
            restore()
        self.rows.__exit__(kind, error, traceback)
        self._restore, self._passed = [], None

    def _pass(self, hidden: torch.Tensor) -> torch.Tensor:
        self._passed = hidden
        return hidden

    def _look_up(self, embedding: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if (
            self.workspace is None
            or not (embedding.weight.requires_grad and torch.is_grad_enabled())
            or embedding.weight.dtype != torch.float32
        ):
            return type(embedding).forward(embedding, ids)
        return Lookup.apply(ids, embedding.weight, embedding.padding_idx, self.workspace)

    def _loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int,
        num_items_in_batch: torch.Tensor | int | None = None,
        shift_labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Instead of `ForCausalLMLoss`; `logits` are the hidden states, [rows, length, features] or [1, targets, features]."""
        passed, self._passed = self._passed, None
        if logits is not passed:
            raise ModelError(f"{type(self.base).__name__} changes its logits before the loss; such a model cannot be trained here")
        if shift_labels is None:
            shift_labels = functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        targets = shift_labels.reshape(-1).to(logits.device)
        at = (targets != IGNORED).nonzero().squeeze(1)
        hidden = logits.flatten(0, -2)
        if len(hidden) == len(targets):
            hidden = hidden.index_select(0, at)
        elif len(hidden) != len(at):  # else `TargetRows` chose them already
            raise ModelError(
                f"{type(self.base).__name__} gives {len(hidden)} hidden states for {len(targets)} tokens; it cannot be trained here"
            )
        targets = targets[at]
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        scale = 1 / torch.as_tensor(count, dtype=torch.float32, device=hidden.device)
        chunk = chunk_rows(vocab_size, hidden.device.type)
        if self._plain and self.head.weight.is_floating_point():
            weight = self.head.weight
            workspace = self.workspace if weight.dtype == torch.float32 and torch.is_grad_enabled() else None
            return LinearCrossEntropy.apply(hidden, weight, self.head.bias, targets, scale, chunk, workspace)
        return self._through_head(hidden, targets, chunk) * scale

    def _through_head(self, hidden: torch.Tensor, targets: torch.Tensor, chunk: int) -> torch.Tensor:
        def part(rows: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(self._head_forward(rows).float(), words, reduction="sum")

        loss = hidden.sum().float() * 0.0  # keeps the graph where no row counts
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            loss = loss + checkpoint(part, hidden[rows], targets[rows], use_reentrant=False)
        return loss


def _reset(owner: Any, name: str, value: Any) -> None:
    if value is None:
        owner.__dict__.pop(name, None)
    else:
        owner.__dict__[name] = value
