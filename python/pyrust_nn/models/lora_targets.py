"""The layers that LoRA adapts by default."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from pyrust_nn import ModelError, _core

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Linear layers that choose experts: a small change there sends tokens to other experts.
ROUTERS = {"gate", "shared_expert_gate"}


def lora_target_modules(model: PreTrainedModel) -> list[str]:
    """The names of the layers that LoRA adapts by default.

    These are the seven projections if the blocks consist of them. If a family has others (Qwen3.5's gated delta
    attention), they are all linear layers of the blocks. The embedding, the output matrix and routers are never among them.
    """
    from torch import nn

    names = {
        path.rsplit(".", 1)[-1]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\blayers\.\d+\.", path)
    } - ROUTERS
    if any(parameter.dim() == 3 and "experts" in path for path, parameter in model.named_parameters()):
        # peft can adapt them (target_parameters), but then neither dropout nor bitsandbytes works.
        logger.info("the experts of each layer are fused into one tensor: LoRA adapts attention and dense layers by default")
    if not names:
        raise ModelError(f"{type(model).__name__} has no linear layers in its blocks; set target_modules")
    standard = _core.lora_defaults()["target_modules"]
    if names <= set(standard):
        return [name for name in standard if name in names]
    return sorted(names)


def adapts_experts(model: PreTrainedModel, target_modules: list[str]) -> bool:
    """Whether peft takes these names for the fused experts of a model too. It does so where single experts once had them."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=list(target_modules))
    convert_peft_config_for_transformers(config, model, None)
    return bool(config.target_parameters)
