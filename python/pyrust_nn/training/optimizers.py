"""The optimizers that the parameters `optimizer` and `loraplus_ratio` select."""

from __future__ import annotations

from typing import Any

import torch
from transformers.trainer_pt_utils import get_parameter_names

from pyrust_nn.training.arguments import LoopArguments

NOT_DECAYED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""Names of weights without weight decay, as in transformers' Trainer."""
BETAS, EPSILON = (0.9, 0.999), 1e-8


def make_optimizer(model: Any, args: LoopArguments, loraplus_ratio: float | None = None) -> torch.optim.Optimizer:
    """AdamW over the trained weights of `model`: torch's fused one, or bitsandbytes' with moments in 8 bits (`adamw_8bit`).

    Weight decay does not apply to norms, biases and other one-dimensional weights (DoRA's magnitudes, `A_log`).
    """
    options: dict[str, Any] = {"lr": args.learning_rate, "betas": BETAS, "eps": EPSILON}
    kind: type[torch.optim.Optimizer]
    if args.optim == "adamw_8bit":
        from bitsandbytes.optim import AdamW

        kind, options = AdamW, options | {"optim_bits": 8}
    else:
        kind, options = torch.optim.AdamW, options | {"fused": True}  # one pass over the weights, on CPU and CUDA
    if loraplus_ratio:
        return loraplus_optimizer(model, kind, options, ratio=loraplus_ratio, weight_decay=args.weight_decay)
    made = kind(parameter_groups(model, args.weight_decay), **options)
    if args.optim == "adamw_8bit":
        _keep_embeddings_in_32_bits(model)
    return made


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """The trained weights in two groups: those that decay, and the others."""
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], NOT_DECAYED))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if weight_decay:  # otherwise it makes no difference, and checkpoints of earlier builds have these groups
        decayed -= {name for name, parameter in trained.items() if parameter.ndim < 2}
    return [
        {"params": [parameter for name, parameter in trained.items() if name in decayed], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained.items() if name not in decayed], "weight_decay": 0.0},
    ]


def _keep_embeddings_in_32_bits(model: Any) -> None:
    """As bitsandbytes recommends: gradients of embeddings differ too much in size for moments of 8 bits."""
    from bitsandbytes.optim import GlobalOptimManager

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            GlobalOptimManager.get_instance().register_module_override(module, "weight", {"optim_bits": 32})


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
