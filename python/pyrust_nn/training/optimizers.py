"""The optimizers that the parameters `optimizer` and `loraplus_ratio` select."""

from __future__ import annotations

from typing import Any

import torch

# transformers' names. The fused AdamW is torch's: one pass over the weights, on CPU and CUDA.
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit"}


def loraplus_optimizer(
    model: Any, kind: type[torch.optim.Optimizer], options: dict[str, Any], *, ratio: float, weight_decay: float
) -> torch.optim.Optimizer:
    """LoRA+ (arXiv 2402.12354): the learning rate of a PeftModel's B matrices is `ratio` times that of the A matrices.

    As in peft's and the authors' code, the same holds for one-dimensional weights (DoRA's magnitudes, biases); an
    embedding's pair has the rate of the A matrices. `options` are those of `kind`, with the A matrices' rate as `lr`.

    Weight decay does not apply to one-dimensional weights.
    """
    from peft.optimizers import create_loraplus_optimizer

    made: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        kind,
        loraplus_lr_ratio=ratio,
        loraplus_lr_embedding=options["lr"],
        loraplus_weight_decay=weight_decay,
        **options,
    )
    if weight_decay:
        *_, decayed, plain = made.param_groups
        plain["params"] += [parameter for parameter in decayed["params"] if parameter.ndim < 2]
        decayed["params"] = [parameter for parameter in decayed["params"] if parameter.ndim >= 2]
    return made
