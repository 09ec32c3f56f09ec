"""The model classes whose training here was compared with plain transformers.

For them `tests/python/test_families.py` shows that packed rows, the fused layers and the loss at target tokens give the
loss and the gradients of transformers, row by row. Other classes train as transformers computes them: rows are not packed,
and loss and layers are theirs. Some of them would be wrong otherwise, without an error: attention sinks (gpt-oss), ALiBi
(Bloom, MPT, Falcon) and capped logits (Gemma 2) are not what the packed attention computes.
"""

from __future__ import annotations

from typing import Any

VERIFIED_CLASSES = frozenset(
    {
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_5_text",
        "qwen3_5_moe_text",
        "llama",
        "mistral",
        "smollm3",
        "phi3",
        "gemma",
        "gemma3_text",
    }
)


def is_verified(config: Any) -> bool:
    """Whether the class of a configuration's text model was compared."""
    return config.get_text_config().model_type in VERIFIED_CLASSES
