"""The loss of a causal language model, with the output matrix applied at the target tokens alone.

The matrix of logits, [tokens, vocabulary], is most of a small model's memory and time, and only the rows that predict a
target enter the loss. So the hidden states of those rows are gathered, and the matrix is applied to some of them at a
time. Each chunk's gradient is computed beside its loss, while its logits are there: d loss / d logits = softmax(logits)
- onehot(target), which times the matrix is the gradient of the hidden states. Nothing of size [tokens, vocabulary] is
kept for the backward pass or computed twice. (Liger's fused linear cross-entropy, arXiv 2410.10989, does this on GPUs.)

Loss and gradients equal those of transformers' `ForCausalLMLoss` but for rounding. What is computed in bf16 or fp16
there is so here, and logits become fp32 before the softmax in both.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pyrust_nn import ModelError
from pyrust_nn.last_layer import TargetRows
from pyrust_nn.products import linear, matmul
from pyrust_nn.rows import IGNORED

# Bytes of fp32 logits at a time. On a CPU, 165 rows of Qwen's 151,936 words.
CHUNK_BYTES = {"cpu": 96 << 20, "cuda": 512 << 20}
# What a configuration calls a function between the output matrix and the loss. No Qwen has one.
LOGIT_FUNCTIONS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "logits_soft_cap")


class LinearCrossEntropy(torch.autograd.Function):
    """`scale` times the sum of the cross-entropies of `hidden @ weight.T + bias`, with its gradients made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: torch.Tensor,
        chunk: int,
        in_place: bool,
    ) -> torch.Tensor:
        """`hidden` [rows, features], `weight` [words, features], `bias` [words] or None, `targets` [rows] of words, `scale` [].

        `chunk` is the number of rows whose logits are computed at a time. `in_place` adds the gradient of `weight` to
        `weight.grad` and hands autograd none.
        """
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        device, dtype = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # Most gradients of logits are near 1 / words, where fp16 has few bits left.
        lift = 1024.0 if dtype == torch.float16 else 1.0
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        # These are fp32: the factor that backward brings (the scale of fp16's loss) would come after the rounding.
        hidden_grad = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if needs_hidden else None
        bias_grad = torch.zeros(len(weight), dtype=torch.float32, device=hidden.device) if needs_bias else None
        weight_grad = weight.grad if in_place and needs_weight else None
        with torch.autocast(device, enabled=False):
            matrix = weight.to(dtype)
            offset = None if bias is None else bias.to(dtype)
            for start in range(0, len(hidden), chunk):
                rows = slice(start, start + chunk)
                inputs, target = hidden[rows].to(dtype), targets[rows, None]
                logits = linear(inputs, matrix, offset).float()
                # In place on a CPU, where a fresh matrix of this size costs more time than what is computed in it.
                chances = torch.softmax(logits, -1, out=logits if device == "cpu" else None)
                loss += _surprise(chances.gather(1, target), inputs, target, matrix, offset)
                if not any(ctx.needs_input_grad):
                    continue
                grad = chances.scatter_add_(1, target, chances.new_full((1, 1), -1.0).expand_as(target))
                if bias_grad is not None:
                    bias_grad += grad.sum(0)
                grad = (grad * lift if lift != 1 else grad).to(dtype)
                if hidden_grad is not None:
                    hidden_grad[rows] = matmul(grad, matrix)
                if needs_weight:
                    # Scaling what is small: [rows, features], not [words, features]. fp16 has not the range for it.
                    inputs = inputs if lift != 1 else inputs * scale.to(dtype)
                    if weight_grad is None:
                        weight_grad = (grad.t() @ inputs).float()
                    elif dtype == torch.float32:
                        weight_grad.addmm_(grad.t(), inputs)
                    else:
                        weight_grad += grad.t() @ inputs
                del logits, chances, grad
            if needs_weight:
                if weight_grad is None:
                    weight_grad = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
                elif lift != 1:
                    weight_grad *= scale / lift
            if hidden_grad is not None:
                hidden_grad *= scale / lift
            if bias_grad is not None:
                bias_grad *= scale
        if in_place and needs_weight:
            weight.grad, weight_grad = weight_grad, None
        ctx.in_place = in_place
        ctx.grads = hidden_grad, weight_grad, bias_grad
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """What forward computed, times the incoming gradient. It can be asked for once."""
        (factor,) = grad_outputs
        # On a CPU it is 1, and the weight's gradient need not be read and written again.
        same = factor.device.type == "cpu" and factor.item() == 1
        if ctx.in_place and not same:
            raise RuntimeError("the gradient of the output matrix was added already, and not scaled")
        grads = [
            None if grad is None else (grad if same else grad.mul_(factor)).to(dtype)
            for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        del ctx.grads  # the weight's is as large as the weight
        return *grads, None, None, None, None


def _surprise(
    chances: torch.Tensor, inputs: torch.Tensor, target: torch.Tensor, matrix: torch.Tensor, offset: torch.Tensor | None
) -> torch.Tensor:
    """The sum of -log(chances); `chances` and `target` are [rows, 1], and the rest is what they were computed from.

    A chance that fp32 cannot hold would have an infinite loss, so such rows are computed again, by logarithms.
    """
    losses = chances.log().neg_()
    lost = (chances[:, 0] < 1e-30).nonzero()[:, 0]
    if len(lost):
        logs = torch.log_softmax(functional.linear(inputs[lost], matrix, offset).float(), -1)
        losses[lost] = -logs.gather(1, target[lost])
    return losses.sum()


class Lookup(torch.autograd.Function):
    """An embedding whose gradient is added to `weight.grad` row by row, where autograd would make a whole matrix of it."""

    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: torch.Tensor, padding_idx: int | None) -> torch.Tensor:
        """`ids` [...], `weight` [words, features]; the row of `padding_idx` gets no gradient, as in torch."""
        ctx.ids, ctx.weight, ctx.padding_idx = ids, weight, padding_idx
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, None, None]:
        """`grad_outputs` is one tensor, [..., features]."""
        weight, ids = ctx.weight, ctx.ids.reshape(-1)
        grad = grad_outputs[0].reshape(len(ids), -1).to(weight.dtype)
        if ctx.padding_idx is not None:
            grad = grad * (ids != ctx.padding_idx)[:, None]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, grad)
        return None, None, None


class TargetLoss:
    """Computes a model's loss this way inside the model's own forward, where FSDP has the weights and DDP its hooks.

    While it is entered (`with loss: model(..., labels=...)`), the head hands its input through and the model's
    `loss_function` applies the head to the rows that count; of packed rows the last layer computes no others either
    (`last_layer`). Outside, the model is what it was. `logits` of an output made inside are hidden states. A head that
    is no plain linear layer (adapted by LoRA, copied by `modules_to_save`, quantized) is called as it is, chunk by
    chunk, and computed again for its gradient.

    With `in_place`, gradients of the vocabulary's matrices that learn are added to what is in `grad` already. Autograd
    would make a matrix of its own for each of them in every micro-batch, and pass over it
    several times. It needs fp32 weights, one process (no hooks on gradients) and no scaling of the loss.
    """

    def __init__(self, model: Any, *, in_place: bool = False) -> None:
        """`model` is transformers' model, or peft's around one."""
        self.in_place = in_place
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
            if self.in_place and type(embedding) is torch.nn.Embedding and "forward" not in embedding.__dict__:
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
        if not (embedding.weight.requires_grad and torch.is_grad_enabled()) or embedding.weight.dtype != torch.float32:
            return type(embedding).forward(embedding, ids)
        return Lookup.apply(ids, embedding.weight, embedding.padding_idx)

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
            in_place = self.in_place and weight.dtype == torch.float32 and torch.is_grad_enabled()
            return LinearCrossEntropy.apply(hidden, weight, self.head.bias, targets, scale, chunk, in_place)
        return self._through_head(hidden, targets, chunk) * scale

    def _through_head(self, hidden: torch.Tensor, targets: torch.Tensor, chunk: int) -> torch.Tensor:
        def part(rows: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(self._head_forward(rows).float(), words, reduction="sum")

        loss = hidden.sum().float() * 0.0  # keeps the graph where no row counts
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            loss = loss + checkpoint(part, hidden[rows], targets[rows], use_reentrant=False)
        return loss


def chunk_rows(words: int, device: str) -> int:
    """How many rows of logits are computed at once, for a vocabulary of `words`."""
    return max(16, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (4 * words))


def _reset(owner: Any, name: str, value: Any) -> None:
    if value is None:
        owner.__dict__.pop(name, None)
    else:
        owner.__dict__[name] = value
