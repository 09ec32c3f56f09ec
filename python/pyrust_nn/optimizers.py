"""The optimizers that `optimizer` and `loraplus_ratio` choose among."""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainingArguments

# transformers' names. The fused AdamW is torch's, one pass over the weights on CPU and CUDA alike.
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit"}


def loraplus_optimizer(model: Any, arguments: TrainingArguments, ratio: float) -> Any:
    """LoRA+ (arXiv 2402.12354): the B matrices of a PeftModel learn `ratio` times as fast as the A matrices.

    So does, after peft's and the authors' code, what has one dimension (DoRA's lengths, biases); an embedding's pair
    learns as the A matrices do.
    """
    from peft.optimizers import create_loraplus_optimizer

    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return create_loraplus_optimizer(
        model,
        kind,
        lr=options["lr"],
        loraplus_lr_ratio=ratio,
        loraplus_lr_embedding=options.pop("lr"),
        loraplus_weight_decay=arguments.weight_decay,
        **options,
    )
