"""How the rows of a step are batched: packed, of equal length or padded. `packing = "auto"` decides it here."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from pyrust_nn import InputError
from pyrust_nn.cpu.packed_attention import can_pack
from pyrust_nn.models.verified_classes import is_verified
from pyrust_nn.training.batches import MAX_TOKENS, BatchLayout, MicroBatching

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)


def choose_batching(params: SimpleNamespace, config: PretrainedConfig, device: torch.device) -> MicroBatching:
    """How the rows of a step are batched. Raises InputError if packing is requested but would change the result."""
    obstacle = None
    if not is_verified(config):
        kind = config.get_text_config().model_type
        obstacle = f"packed rows were not compared with transformers for model type {kind}"
        logger.info("model type %s trains as transformers computes it: rows are not packed, and layers and loss are not replaced", kind)
    elif not can_pack(config):
        obstacle = "some layers of this model are recurrent and would carry one row's state into the next"
    elif params.neftune_alpha:
        obstacle = "neftune_alpha scales its noise by the length of a row"
    if params.packing == "on" and obstacle:
        raise InputError(f"packing cannot be on: {obstacle}; set it to auto")
    layout = BatchLayout.PACKED
    if obstacle or params.packing == "off":
        # A GPU needs many rows at once, and sorted rows have little padding; a CPU is busy with one row.
        layout = BatchLayout.EQUAL if device.type == "cpu" else BatchLayout.PADDED
    return MicroBatching(layout, params.max_tokens_per_batch or MAX_TOKENS.get(device.type, MAX_TOKENS["cuda"]))
