"""Cross-entropy of hidden states through an output matrix, whose gradients are computed in the forward pass.

The gradients are computed while the logits are in memory: d loss / d logits = softmax(logits) - onehot(target), and its
product with the matrix is the gradient of the hidden states. Nothing of size [rows, vocabulary] is kept for the backward
pass or computed twice. (Liger's fused linear cross-entropy, arXiv 2410.10989, does this on GPUs.) In fp32 on a CPU the
vocabulary is processed in blocks (`cpu.chunked_cross_entropy`), otherwise the rows in chunks. The products have the dtype
that transformers would use, and logits are converted to fp32 before the softmax, as in transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from pyrust_nn.cpu import chunked_cross_entropy
from pyrust_nn.cpu.autograd_ops import first_order_only
from pyrust_nn.cpu.matmul import is_cpu_fp32
from pyrust_nn.cuda.varlen_attention import compute_dtype

# Bytes of fp32 logits at a time. On a CPU these are 165 rows of Qwen's 151,936 tokens, on a GPU 220.
CHUNK_BYTES = {"cpu": 96 << 20, "cuda": 128 << 20}


class Workspace:
    """Memory that the micro-batches of a training on a CPU reuse: fresh pages cost more time than the computation in them.

    The gradients of embedding and output matrix are added to the existing `grad`. Autograd would allocate a matrix for
    each of them in every micro-batch and pass over it several times.
    """

    def __init__(self) -> None:
        """Memory is allocated on first use."""
        self._gradients: dict[int, torch.Tensor] = {}
        self._logits = torch.empty(0)

    def gradient(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight.grad`, set to zeros if it is None."""
        if weight.grad is None:
            kept = self._gradients.get(id(weight))
            weight.grad = torch.zeros_like(weight) if kept is None else kept.zero_()
        self._gradients[id(weight)] = weight.grad
        return weight.grad

    def logits(self, count: int) -> torch.Tensor:
        """Uninitialized room for `count` logits or more."""
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
        """Arguments: `hidden` [rows, features], `weight` [vocabulary, features], `bias` [vocabulary] or None, `targets` [rows]
        of token ids, `scale` [].

        `chunk` is the number of rows whose logits are in memory at a time. With a `workspace` the gradient of `weight`
        is added to `weight.grad`, and autograd receives none.
        """
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        adds = workspace is not None and needs_weight
        # fp32, because backward multiplies by its incoming gradient (the loss scale of fp16), which must precede the rounding.
        hidden_grad = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if needs_hidden else None
        bias_grad = torch.zeros(len(weight), dtype=torch.float32, device=hidden.device) if needs_bias else None
        weight_grad = None
        if needs_weight:
            weight_grad = workspace.gradient(weight) if workspace else torch.zeros(weight.shape, device=hidden.device)
        if bias is None and is_cpu_fp32(hidden, weight):
            kept = (workspace or Workspace()).logits(min(chunk, len(hidden)) * len(weight)) if needs_weight else None
            loss = chunked_cross_entropy.loss_and_gradients(
                hidden, weight, targets, scale, hidden_grad=hidden_grad, weight_grad=weight_grad, kept=kept
            )
        else:
            loss = _by_row_chunks(hidden, weight, bias, targets, scale, chunk, (hidden_grad, weight_grad, bias_grad))
        ctx.adds = adds
        ctx.grads = hidden_grad, None if adds else weight_grad, bias_grad
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss * scale

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients that forward computed, times the incoming gradient. It can be called once."""
        (factor,) = grad_outputs
        # On a CPU it is 1, which saves a pass over the weight's gradient.
        same = factor.device.type == "cpu" and factor.item() == 1
        if ctx.adds and not same:
            raise RuntimeError(
                "the gradient of the output matrix was already added without this scale; do not scale the loss with in_place"
            )
        grads = [
            None if grad is None else (grad if same else grad.mul_(factor)).to(dtype)
            for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        del ctx.grads  # the weight's gradient is as large as the weight
        return *grads, None, None, None, None


def _by_row_chunks(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scale: torch.Tensor,
    chunk: int,
    grads: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
) -> torch.Tensor:
    """The sum of the losses. The gradients of `scale` times it are added to `grads` (hidden, weight, bias) where not None."""
    hidden_grad, weight_grad, bias_grad = grads
    device, dtype = hidden.device.type, compute_dtype(hidden)
    # Most gradients of logits are near 1 / vocabulary, where fp16 has few bits left: they are scaled after the products.
    lifted = dtype == torch.float16
    factor = 1024.0 if lifted else scale
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    with torch.autocast(device, enabled=False):
        matrix = weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            inputs, target = hidden[rows].to(dtype), targets[rows, None]
            logs = torch.log_softmax(functional.linear(inputs, matrix, offset), -1, dtype=torch.float32)
            loss -= logs.gather(1, target).sum()
            if all(grad is None for grad in grads):
                continue
            exact = logs.exp_().scatter_add_(1, target, logs.new_full((1, 1), -1.0).expand_as(target)).mul_(factor)
            if bias_grad is not None:
                bias_grad.add_(exact.sum(0))
            grad = exact.to(dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = _fp32_product(grad, matrix)
            if weight_grad is not None:
                weight_grad += _fp32_product(grad.t(), inputs)
            del logs, exact, grad
        if lifted:
            for whole in grads:
                if whole is not None:
                    whole *= scale / factor
    return loss


def _fp32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left` [rows, inner] times `right` [inner, columns]. On a GPU it is fp32, as the sum is: a lifted one could overflow in fp16."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


def rows_per_chunk(vocabulary: int, device: str) -> int:
    """The number of rows whose logits are computed at once, by the size of the vocabulary."""
    return max(16, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (4 * vocabulary))
