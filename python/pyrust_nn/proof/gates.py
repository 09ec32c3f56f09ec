"""The highest mean divergence of predictions that each type of file may have, in nats: the parameter `max_kl` if it is unset.

Measured on a real instruct model of 135 M parameters (docs/verify.md), with margin: every figure there is below half of its gate.
"""

from __future__ import annotations

import torch

EXACT = 1e-5
MAX_KL = {
    "f32": EXACT,
    "f16": EXACT,
    "bf16": EXACT,
    "q8_0": 2e-3,
    "q6_k": 8e-3,
    "q5_k_m": 1.5e-2,
    "q5_k_s": 2e-2,
    "q5_0": 2e-2,
    "q5_1": 2e-2,
    "q4_k_m": 4e-2,
    "q4_k_s": 6e-2,
    "q4_0": 1e-1,
    "q4_1": 8e-2,
    "iq4_nl": 6e-2,
    "iq4_xs": 6e-2,
    "q3_k_l": 2e-1,
    "q3_k_m": 2.5e-1,
    "q3_k_s": 5e-1,
    "q2_k": 1.0,
    "q2_k_s": 2.0,
    "int8": 2e-2,
    "nf4": 1e-1,
}
ROUNDED_TO_BF16 = 2e-3
"""For weights in bf16 of a model that has them more precisely: they lose up to 16 bits of 24, far more than f16 loses."""


def max_kl(kind: str, *, exact: torch.dtype | None = None) -> float:
    """The gate for a file of this type. `exact` is the dtype in which the model has its weights; None for sums that no dtype holds."""
    if kind == "bf16" and exact != torch.bfloat16:
        return ROUNDED_TO_BF16
    return MAX_KL.get(kind, MAX_KL["q2_k_s"])
