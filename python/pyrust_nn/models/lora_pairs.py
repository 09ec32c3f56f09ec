"""The pairs of low-rank matrices that a LoRA adapter consists of: A [rank, in] and B [out, rank] for each adapted module.

An adapter adds `scale · B A` to a module's weight, where `scale` is alpha / rank, or alpha / √rank for rank-stabilized
LoRA (arXiv 2312.03732). Stacking and the GGUF adapter read these pairs; merging leaves the names to peft.
"""

from __future__ import annotations

import math
import re
from typing import Any

LORA_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
"""A tensor's name in an adapter's file. Groups: the module, and `A` or `B`."""


def beyond_low_rank(settings: dict[str, Any]) -> str | None:
    """The first thing that an adapter has besides low-rank pairs, by its adapter_config.json; None if there is nothing else."""
    reasons = {
        f"it is of type {settings.get('peft_type')}": settings.get("peft_type") != "LORA",
        "it has magnitudes of its own (DoRA)": settings.get("use_dora"),
        "it trains biases": settings.get("bias", "none") != "none" or settings.get("lora_bias"),
        f"it holds whole modules ({', '.join(settings.get('modules_to_save') or [])})": settings.get("modules_to_save"),
        "it holds single tokens' embeddings": settings.get("trainable_token_indices"),
        "it pools its inputs or has blocks (QA-LoRA, BD-LoRA)": settings.get("use_qalora") or settings.get("use_bdlora"),
        "it repeats layers of its base": settings.get("layer_replication"),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def module_alpha(settings: dict[str, Any], module: str, rank: int) -> float:
    """The alpha for which `alpha / rank` is the scale of a module, given by its name in the model."""
    patterns: dict[str, float] = settings.get("alpha_pattern") or {}
    # peft's rule: the pattern matches the end of the module's name.
    own = (value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module))
    alpha = float(next(own, settings["lora_alpha"]))
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha
