"""The output matrix's cross-entropy in fp32 on a CPU, a block of words at a time.

A block of the matrix stays in the processor's cache while its logits are made and used, which the whole vocabulary, and
a matrix of logits over it, do not. A softmax needs the sum over all words, so each row keeps the largest logit so far and
the sum of exp(logit - largest); when a larger one comes, what was summed is scaled (online softmax, arXiv 1805.02867).
The same holds for the gradient of the hidden states, Σ softmax(logit) W: with a matrix that is frozen one pass over it is
all, and no logits are kept.
"""

from __future__ import annotations

import torch

from pyrust_nn import _core
from pyrust_nn.products import linear, matmul

# Of 1,024 to 4,096 none is faster, whatever the number of features (128 to 2,048 measured).
BLOCK_WORDS = 2048
# Rows at a time, where no logits are kept: the block's logits shall stay in the cache, too.
ROWS = 512


def loss_and_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: torch.Tensor,
    *,
    hidden_grad: torch.Tensor | None,
    weight_grad: torch.Tensor | None,
    kept: torch.Tensor | None,
) -> torch.Tensor:
    """The sum of the cross-entropies, a scalar; `scale` times its gradients are added to what is in `hidden_grad` and `weight_grad`.

    `hidden` [rows, features], `weight` [words, features], `targets` [rows] of words, `scale` []; a gradient that is None
    is not computed. The weight's needs memory: as many rows go at a time as have their logits in `kept`, of any shape.
    """
    loss = torch.zeros(())
    most = ROWS if weight_grad is None or kept is None else max(1, kept.numel() // len(weight))
    for rows in _parts(len(hidden), most):
        inputs, target = hidden[rows], targets[rows]
        towards = weight[target]
        sums = None if hidden_grad is None else torch.zeros_like(inputs)
        views = None if weight_grad is None or kept is None else _views(kept, len(inputs), weight)
        tops: list[torch.Tensor] = []
        if views is None and _core.softmax_pass_usable(weight.shape[1]) and weight.is_contiguous():
            largest, total = _native_pass(inputs, weight, sums)
        else:
            largest, total, tops = _one_pass(inputs, weight, sums, views)
        loss += (largest + total.log()).sum() - (inputs * towards).sum()
        if sums is not None and hidden_grad is not None:
            hidden_grad[rows] += sums.div_(total).sub_(towards).mul_(scale)
        if views is not None and weight_grad is not None:
            # Scaled is what is small: [rows, features], not [rows, words].
            scaled = inputs * scale
            for block, chances, top in zip(_blocks(weight_grad), views, tops, strict=True):
                block += linear(chances.t(), (scaled * ((top - largest).exp_() / total)).t(), few_rows=True)
            weight_grad.index_add_(0, target, scaled, alpha=-1)
    return loss


def _native_pass(inputs: torch.Tensor, weight: torch.Tensor, sums: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """`_one_pass` by our own kernel, where the processor has AVX-512."""
    reference, total = inputs.new_empty(len(inputs)), inputs.new_empty(len(inputs))
    matrices = inputs.detach().contiguous().numpy(), weight.detach().numpy()
    results = reference.numpy(), total.numpy(), None if sums is None else sums.numpy()
    _core.softmax_pass(*matrices, torch.get_num_threads(), *results)
    return reference[:, None], total[:, None]


def _one_pass(
    inputs: torch.Tensor, weight: torch.Tensor, sums: torch.Tensor | None, kept: list[torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The largest logits, [rows, 1], Σ exp(logits - largest), [rows, 1], and what was the largest at each block.

    Added to `sums` is Σ exp(logits - largest) W; `kept` gets each block's exp(logits - the largest then).
    """
    largest, total = inputs.new_full((len(inputs), 1), -torch.inf), inputs.new_zeros(len(inputs), 1)
    tops = []
    for number, block in enumerate(_blocks(weight)):
        logits = linear(inputs, block, few_rows=True)
        top = torch.maximum(largest, logits.amax(1, keepdim=True))
        if not torch.equal(top, largest):
            shrink = (largest - top).exp_()
            total *= shrink
            if sums is not None:
                sums *= shrink
            largest = top
        chances = logits.sub_(largest).exp_()
        total += chances.sum(1, keepdim=True)
        if sums is not None:
            sums += matmul(chances, block, few_rows=True)
        if kept is not None:
            kept[number].copy_(chances)
            tops.append(largest)
    return largest, total, tops


def _blocks(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return matrix.split(BLOCK_WORDS)


def _views(kept: torch.Tensor, rows: int, weight: torch.Tensor) -> list[torch.Tensor]:
    """A matrix [rows, words of the block] for each block, one behind the other."""
    sizes = [rows * len(block) for block in _blocks(weight)]
    return [part.view(rows, -1) for part in kept.view(-1)[: rows * len(weight)].split(sizes)]


def _parts(rows: int, most: int) -> list[slice]:
    """Slices of `rows` that have at most so many, and nearly the same number: a product of few rows is slow."""
    count = -(-rows // most)
    return [slice(rows * part // count, rows * (part + 1) // count) for part in range(count)]
