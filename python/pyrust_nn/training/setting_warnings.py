"""Warnings about settings of a training that are allowed but rarely meant."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from pyrust_nn.training.arguments import warmup_steps
from pyrust_nn.wording import counted

logger = logging.getLogger(__name__)

# Learning rates that published recipes use, with a factor of ten on both sides: full fine-tuning 1e-6 to 1e-4, LoRA 1e-5 to 1e-3.
_USUAL_RATES = {"full fine-tuning": (1e-7, 1e-3), "LoRA": (1e-6, 1e-2)}
_MAX_SCALE = 8
_FEW_STEPS = 20
"""In so few steps one that changes nothing is at least a twentieth of the training."""


def warn_about_settings(model: Any, params: SimpleNamespace, steps: int) -> None:
    """Log a warning for each setting that seems wrong. `steps`: the number of training steps."""
    warmup = warmup_steps(params.warmup, steps)
    if warmup >= steps:
        logger.warning(
            "the warm-up of %s is not shorter than the training of %d: the learning rate never reaches %g; lower warmup",
            counted(warmup, "step"),
            steps,
            params.learning_rate,
        )
    elif warmup and steps <= _FEW_STEPS:
        logger.warning("the learning rate of the first step is 0, since the warm-up starts there: that step changes no weight")
    kind = "LoRA" if hasattr(model, "peft_config") else "full fine-tuning"
    low, high = _USUAL_RATES[kind]
    if not low <= params.learning_rate <= high:
        logger.warning("learning_rate %g is far from what %s usually takes (%g to %g)", params.learning_rate, kind, low * 10, high / 10)
    scales: dict[float, str] = {}
    for name, module in model.named_modules() if kind == "LoRA" else ():
        scaling = getattr(module, "scaling", None)  # attention has a number of this name
        if isinstance(scaling, dict) and scaling.get("default", 0) > _MAX_SCALE:
            scales[scaling["default"]] = name
    if scales:
        scale = max(scales)
        logger.warning(
            "lora_alpha and lora_rank multiply the adapter by %g (%s), more than %d; training may diverge", scale, scales[scale], _MAX_SCALE
        )
