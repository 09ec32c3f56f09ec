"""The pairs of low-rank matrices that a LoRA adapter consists of: A [rank, in] and B [out, rank] for each adapted module.

An adapter adds `scale · B A` to a module's weight, where `scale` is alpha / rank, or alpha / √rank for rank-stabilized
LoRA (arXiv 2312.03732). Stacking and the GGUF adapter read these pairs; merging does not, because peft computes it there.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from pyrust_nn import InputError

LORA_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
"""A tensor's name in an adapter's file. Groups: the module, and `A` or `B`."""


# Initializations of PEFT that subtract the new pair from the base's weights, so that the pair is not what is added to the base.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Of these, PEFT computes the same pair again from the base's weights alone.
_REPEATABLE = ("pissa", "olora")


def changed_base(settings: dict[str, Any]) -> str | None:
    """The initialization with which an adapter changed its base's weights; None if it did not."""
    how = settings.get("init_lora_weights")
    return how if isinstance(how, str) and how.lower().startswith(_CHANGES_BASE) else None


def check_rebuildable(settings: dict[str, Any], folder: Path, *, quantized: bool) -> None:
    """Raise InputError for an adapter whose changed base cannot be computed again from the base's weights."""
    how = changed_base(settings)
    if how is None or (how.lower() in _REPEATABLE and not quantized):
        return
    why = "and that change cannot be computed again" if not quantized else "which 4-bit or 8-bit weights cannot express"
    raise InputError(
        f"adapter {folder} was initialized by {how}, which changes the weights of its base, {why}; save it with "
        "save_pretrained(…, path_initial_model_for_weight_conversion=…) of peft, which makes it a plain LoRA adapter"
        + (", or give the plain base" if quantized else "")
    )


def beyond_low_rank(settings: dict[str, Any]) -> str | None:
    """The first thing that an adapter has besides low-rank pairs, by its adapter_config.json; None if there is nothing else."""
    reasons = {
        f"it is of type {settings.get('peft_type')}": settings.get("peft_type") != "LORA",
        f"its initialization ({settings.get('init_lora_weights')}) changed the base's weights": changed_base(settings),
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
