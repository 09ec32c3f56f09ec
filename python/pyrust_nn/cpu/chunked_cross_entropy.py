"""Cross-entropy through an output matrix in fp32 on a CPU, one block of the vocabulary at a time.

A block of the matrix stays in the processor's cache while its logits are computed and used; the whole matrix and its
logits would not. Softmax needs the sum over the vocabulary, so each row keeps the largest logit so far and the sum of
exp(logit - largest), which is rescaled when a larger logit comes (online softmax, arXiv 1805.02867). The gradient of the
hidden states, Σ softmax(logit) W, is summed in the same way: with a frozen matrix a single pass suffices and no logits are
kept.
"""

from __future__ import annotations

import torch

from pyrust_nn import _core
from pyrust_nn.cpu.matmul import linear, matmul

# Measured with 128 to 2,048 features: no value from 1,024 to 4,096 is faster.
BLOCK_TOKENS = 2048
# Rows at a time if no logits are kept, so that the logits of a block stay in the cache too.
MAX_ROWS = 512


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
    """The sum of the cross-entropies, a scalar. The gradients of `scale` times it are added to `hidden_grad` and `weight_grad`.

    `hidden` [rows, features], `weight` [vocabulary, features], `targets` [rows] of token ids, `scale` []. A gradient that
    is None is not computed. `weight_grad` needs the buffer `kept`, of any shape: as many rows are processed at a time as
    have their logits in it.
    """
    loss = torch.zeros(())
    most = MAX_ROWS if weight_grad is None or kept is None else max(1, kept.numel() // len(weight))
    for rows in _parts(len(hidden), most):
        inputs, target = hidden[rows], targets[rows]
        target_weights = weight[target]
        sums = None if hidden_grad is None else torch.zeros_like(inputs)
        views = None if weight_grad is None or kept is None else _views(kept, len(inputs), weight)
        tops: list[torch.Tensor] = []
        if views is None and _core.softmax_pass_usable(weight.shape[1]) and weight.is_contiguous():
            largest, total, target_logits = _native_pass(inputs, weight, target, sums)
        else:
            largest, total, target_logits, tops = _one_pass(inputs, weight, target, sums, views)
        # Not negative except for the rounding of exp and log, since the target's logit is one of those in `total`.
        loss += ((largest - target_logits) + total.log()).clamp_min_(0).sum()
        if sums is not None and hidden_grad is not None:
            hidden_grad[rows] += sums.div_(total).sub_(target_weights).mul_(scale)
        if views is not None and weight_grad is not None:
            # Scales the smaller matrix, [rows, features] instead of [rows, vocabulary].
            scaled = inputs * scale
            for block, exponentials, top in zip(_blocks(weight_grad), views, tops, strict=True):
                block += linear(exponentials.t(), (scaled * ((top - largest).exp_() / total)).t(), few_rows=True)
            weight_grad.index_add_(0, target, scaled, alpha=-1)
    return loss


def _native_pass(
    inputs: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, sums: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_one_pass` by the native kernel, which needs AVX-512: the reference logits, the sums and the targets' logits, [rows, 1]."""
    reference, total, target_logits = (inputs.new_empty(len(inputs)) for _ in range(3))
    matrices = inputs.detach().contiguous().numpy(), weight.detach().numpy()
    results = reference.numpy(), total.numpy(), target_logits.numpy(), None if sums is None else sums.numpy()
    _core.softmax_pass(*matrices, targets.tolist(), torch.get_num_threads(), *results)
    return reference[:, None], total[:, None], target_logits[:, None]


def _one_pass(
    inputs: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, sums: torch.Tensor | None, kept: list[torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The largest logits, Σ exp(logits - largest) and the targets' logits, [rows, 1], and for each block the largest logits so far.

    Σ exp(logits - largest) W is added to `sums`, [rows, features]. `kept` receives each block's exp(logits - largest so far).
    """
    largest, total = inputs.new_full((len(inputs), 1), -torch.inf), inputs.new_zeros(len(inputs), 1)
    target_logits = torch.zeros_like(total)
    tops = []
    for number, block in enumerate(_blocks(weight)):
        logits = linear(inputs, block, few_rows=True)
        within = targets - number * BLOCK_TOKENS
        mine = ((within >= 0) & (within < len(block))).nonzero()[:, 0]
        target_logits[mine] = logits[mine, within[mine]][:, None]
        top = torch.maximum(largest, logits.amax(1, keepdim=True))
        if not torch.equal(top, largest):
            shrink = (largest - top).exp_()
            total *= shrink
            if sums is not None:
                sums *= shrink
            largest = top
        exponentials = logits.sub_(largest).exp_()
        total += exponentials.sum(1, keepdim=True)
        if sums is not None:
            sums += matmul(exponentials, block, few_rows=True)
        if kept is not None:
            kept[number].copy_(exponentials)
            tops.append(largest)
    return largest, total, target_logits, tops


def _blocks(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return matrix.split(BLOCK_TOKENS)


def _views(kept: torch.Tensor, rows: int, weight: torch.Tensor) -> list[torch.Tensor]:
    """The buffer as one matrix [rows, tokens of the block] for each block."""
    sizes = [rows * len(block) for block in _blocks(weight)]
    return [part.view(rows, -1) for part in kept.view(-1)[: rows * len(weight)].split(sizes)]


def _parts(rows: int, most: int) -> list[slice]:
    """Slices of similar size with at most `most` rows: a matrix product of few rows is slow."""
    count = -(-rows // most)
    return [slice(rows * part // count, rows * (part + 1) // count) for part in range(count)]
