"""The cross-entropy of hidden states through an output matrix, with its gradients made on the way.

A gradient is computed beside the loss, while the logits are there: d loss / d logits = softmax(logits) - onehot(target),
which times the matrix is the gradient of the hidden states. Nothing of size [rows, vocabulary] is kept for the backward
pass or computed twice. (Liger's fused linear cross-entropy, arXiv 2410.10989, does this on GPUs.) In fp32 on a CPU the
vocabulary is gone through in blocks (`word_blocks`), else the rows in chunks. What transformers computes in bf16 or fp16
is computed so here, and logits become fp32 before the softmax in both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from pyrust_nn import word_blocks
from pyrust_nn.derivatives import first_alone
from pyrust_nn.products import fast

# Bytes of fp32 logits at a time. On a CPU, 165 rows of Qwen's 151,936 words.
CHUNK_BYTES = {"cpu": 96 << 20, "cuda": 512 << 20}


class Workspace:
    """What the micro-batches of a training on a CPU use again: fresh pages cost more time than what is computed in them.

    The gradients of the vocabulary's matrices are added to what is in `grad` already. Autograd would make a matrix of its
    own for each of them in every micro-batch, and pass over it several times.
    """

    def __init__(self) -> None:
        """Empty; memory is taken when it is needed first."""
        self._gradients: dict[int, torch.Tensor] = {}
        self._logits = torch.empty(0)

    def gradient(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight.grad`; where that is None, it becomes zeros."""
        if weight.grad is None:
            kept = self._gradients.get(id(weight))
            weight.grad = torch.zeros_like(weight) if kept is None else kept.zero_()
        self._gradients[id(weight)] = weight.grad
        return weight.grad

    def logits(self, count: int) -> torch.Tensor:
        """Room for so many logits, with anything in it."""
        if self._logits.numel() < count:
            self._logits = torch.empty(count)
        return self._logits


class LinearCrossEntropy(torch.autograd.Function):
    """`scale` times the sum of the cross-entropies of `hidden @ weight.T + bias`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: torch.Tensor,
        chunk: int,
        workspace: Workspace | None,
    ) -> torch.Tensor:
        """`hidden` [rows, features], `weight` [words, features], `bias` [words] or None, `targets` [rows] of words, `scale` [].

        `chunk` is the number of rows whose logits are in memory at a time. With a `workspace` the gradient of `weight`
        is added to `weight.grad`, and autograd gets none.
        """
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        adds = workspace is not None and needs_weight
        # These are fp32: the factor that backward brings (the scale of fp16's loss) would come after the rounding.
        hidden_grad = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if needs_hidden else None
        bias_grad = torch.zeros(len(weight), dtype=torch.float32, device=hidden.device) if needs_bias else None
        weight_grad = None
        if needs_weight:
            weight_grad = workspace.gradient(weight) if workspace else torch.zeros(weight.shape, device=hidden.device)
        if bias is None and fast(hidden, weight):
            kept = (workspace or Workspace()).logits(min(chunk, len(hidden)) * len(weight)) if needs_weight else None
            loss = word_blocks.loss_and_gradients(
                hidden, weight, targets, scale, hidden_grad=hidden_grad, weight_grad=weight_grad, kept=kept
            )
        else:
            loss = _in_chunks(hidden, weight, bias, targets, scale, chunk, (hidden_grad, weight_grad, bias_grad))
        ctx.adds = adds
        ctx.grads = hidden_grad, None if adds else weight_grad, bias_grad
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss * scale

    @staticmethod
    @first_alone
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """What forward computed, times the incoming gradient. It can be asked for once."""
        (factor,) = grad_outputs
        # On a CPU it is 1, and the weight's gradient need not be read and written again.
        same = factor.device.type == "cpu" and factor.item() == 1
        if ctx.adds and not same:
            raise RuntimeError("the gradient of the output matrix was added already, and not scaled")
        grads = [
            None if grad is None else (grad if same else grad.mul_(factor)).to(dtype)
            for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        del ctx.grads  # the weight's is as large as the weight
        return *grads, None, None, None, None


def _in_chunks(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scale: torch.Tensor,
    chunk: int,
    grads: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
) -> torch.Tensor:
    """The sum of the losses; what `scale` times it has for gradients is added to `grads`, those that are not None."""
    hidden_grad, weight_grad, bias_grad = grads
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    # Most gradients of logits are near 1 / words, where fp16 has few bits left.
    lift = 1024.0 if dtype == torch.float16 else 1.0
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    with torch.autocast(device, enabled=False):
        matrix = weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            inputs, target = hidden[rows].to(dtype), targets[rows, None]
            logits = functional.linear(inputs, matrix, offset).float()
            # In place on a CPU, where a fresh matrix of this size costs more time than what is computed in it.
            chances = torch.softmax(logits, -1, out=logits if device == "cpu" else None)
            loss += _surprise(chances.gather(1, target), inputs, target, matrix, offset)
            if all(grad is None for grad in grads):
                continue
            grad = chances.scatter_add_(1, target, chances.new_full((1, 1), -1.0).expand_as(target))
            if bias_grad is not None:
                bias_grad.add_(grad.sum(0) * scale)
            grad = (grad * lift if lift != 1 else grad).to(dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = grad @ matrix
            if weight_grad is not None:
                # Scaling what is small: [rows, features], not [words, features]. fp16 has not the range for it.
                weight_grad += grad.t() @ (inputs if lift != 1 else inputs * scale.to(dtype))
            del logits, chances, grad
        if weight_grad is not None and lift != 1:
            weight_grad *= scale / lift
        if hidden_grad is not None:
            hidden_grad *= scale / lift
    return loss


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


def chunk_rows(words: int, device: str) -> int:
    """How many rows of logits are computed at once, for a vocabulary of `words`."""
    return max(16, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (4 * words))
