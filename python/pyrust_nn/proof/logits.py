"""The layer `logits`: both models predict every next token of the same rows, and their distributions are compared over the vocabulary.

For each position the divergence is KL(P || Q) = sum_v P(v) ln(P(v) / Q(v)), in nats, with P the reference's distribution and Q the
candidate's. Distributions are computed in float64 from float32 logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from pyrust_nn.proof.layers import Layer, judged

CHUNK = 128
"""Positions whose distributions are in memory at a time."""


class Divergence:
    """Sums over all positions."""

    def __init__(self) -> None:
        """Nothing is compared yet."""
        self.kl: list[torch.Tensor] = []
        self.dp: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []
        self.reference_losses: list[torch.Tensor] = []
        self.same = 0

    def add(self, p: torch.Tensor, q: torch.Tensor, targets: torch.Tensor) -> None:
        """Log-probabilities of the reference and of the candidate, [positions, vocabulary], and the token that follows each position."""
        right = targets[:, None]
        self.kl.append(divergences(p, q))
        self.losses.append(-q.gather(1, right)[:, 0].cpu())
        self.reference_losses.append(-p.gather(1, right)[:, 0].cpu())
        self.dp.append((q.gather(1, right).exp() - p.gather(1, right).exp())[:, 0].cpu())
        self.same += int((p.argmax(-1) == q.argmax(-1)).sum())

    def measured(self) -> dict[str, Any]:
        """The layer's figures."""
        kl = torch.cat(self.kl)
        return {
            "mean_kl": _finite(kl.mean()),
            "p999_kl": _finite(kl.quantile(0.999)),
            "max_kl": _finite(kl.max()),
            "rms_dp": _finite(torch.cat(self.dp).square().mean().sqrt()),
            "top1": self.same / len(kl),
            "perplexity": _finite(torch.cat(self.losses).mean().exp()),
            "reference_perplexity": _finite(torch.cat(self.reference_losses).mean().exp()),
            "tokens": len(kl),
        }


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Of float32 logits [positions, vocabulary], in float64."""
    return logits.double().log_softmax(-1)


def divergences(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(P || Q) of each position, [positions], from log-probabilities [positions, vocabulary]; on the CPU."""
    return (p.exp() * (p - q)).sum(-1).clamp_min(0).cpu()


def _finite(number: torch.Tensor) -> float:
    """A number that JSON can hold."""
    return min(float(number.nan_to_num(1e300, 1e300)), 1e300)


def logits_layer(reference: Any, candidate: Any, rows: list[list[int]], gate: float) -> Layer:
    """The layer. Both models are on the same device. For an adapter's reference the distance of both from the base is reported too."""
    divergence = Divergence()
    from_base: list[torch.Tensor] = []
    reference_from_base: list[torch.Tensor] = []
    has_base = hasattr(reference, "disable_adapter")
    device = next(candidate.parameters()).device
    with torch.inference_mode():
        for ids in (torch.tensor([row], device=device) for row in rows):
            wanted, found, targets = reference(ids).logits[0, :-1], candidate(ids).logits[0, :-1], ids[0, 1:]
            if wanted.shape != found.shape:
                fault = f"the file has a vocabulary of {found.shape[-1]} tokens, the model {wanted.shape[-1]}"
                return judged({"max_allowed_kl": gate}, [fault])
            base = None
            if has_base:
                with reference.disable_adapter():
                    base = reference(ids).logits[0, :-1]
            for part in (slice(begin, begin + CHUNK) for begin in range(0, len(targets), CHUNK)):
                p, q = log_probabilities(wanted[part]), log_probabilities(found[part])
                divergence.add(p, q, targets[part])
                if base is not None:
                    b = log_probabilities(base[part])
                    reference_from_base.append(divergences(p, b))
                    from_base.append(divergences(q, b))
    measured = divergence.measured() | {"max_allowed_kl": gate}
    if has_base:
        measured["reference_from_base_kl"] = _finite(torch.cat(reference_from_base).mean())
        measured["from_base_kl"] = _finite(torch.cat(from_base).mean())
    faults = []
    if not math.isfinite(measured["mean_kl"]) or measured["mean_kl"] > gate:
        faults.append(f"its predictions diverge from the model's by {measured['mean_kl']:.3g} nats on average, {gate:.3g} is allowed")
    return judged(measured, faults)


def cut(rows: Iterator[list[int]], tokens: int) -> list[list[int]]:
    """Rows of `tokens` tokens together, the last of them shortened. Rows that predict nothing are left out."""
    kept: list[list[int]] = []
    for row in rows:
        row = row[:tokens]
        if len(row) > 1:
            kept.append(row)
            tokens -= len(row)
        if tokens < 2:
            break
    return kept
