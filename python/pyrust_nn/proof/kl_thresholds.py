"""The highest mean divergence of predictions that each type of file may have, in nats: the parameter `max_kl` if it is unset.

Measured on a real instruct model of 135 M parameters (docs/verify.md), with margin. Its weights
lie on a 4-bit grid, which costs types of 4 and 5 bits more than other weights do. Types that are not in that table are estimated.
"""

from __future__ import annotations

import torch

EXACT = 1e-5
MAX_KL = {
    "f32": EXACT,
    "f16": EXACT,
    "bf16": EXACT,
    "q8_0": 5e-3,
    "q6_k": 2.5e-2,
    "q5_k_m": 3e-1,
    "q5_k_s": 3e-1,
    "q5_0": 3e-1,
    "q5_1": 5e-1,
    "q4_k_m": 2e-1,
    "q4_k_s": 3e-1,
    "q4_0": 1.2,
    "q4_1": 1.2,
    "iq4_nl": 8e-1,
    "iq4_xs": 8e-1,
    "q3_k_l": 1.0,
    "q3_k_m": 1.0,
    "q3_k_s": 1.5,
    "q2_k": 1.5,
    "q2_k_s": 2.0,
    "int8": 1e-1,
    "nf4": 2.4,
    "fp4": 2.4,
}
ROUNDED_TO_BF16 = 2e-3
"""For weights in bf16 of a model that has them more precisely: they lose up to 16 bits of 24, far more than f16 loses."""
ROUNDED_TO_F16 = 1e-4
"""For weights in f16 of a model that has them in float32, as after full fine-tuning: 13 bits of 24 are lost."""


def max_kl(kind: str, *, exact: torch.dtype | None = None) -> float:
    """The gate for a file of this type. `exact` is the dtype in which the model has its weights; None for sums that no dtype holds."""
    if kind == "bf16" and exact != torch.bfloat16:
        return ROUNDED_TO_BF16
    if kind == "f16" and exact not in (torch.float16, torch.bfloat16):
        return ROUNDED_TO_F16
    return MAX_KL.get(kind, MAX_KL["q2_k_s"])
