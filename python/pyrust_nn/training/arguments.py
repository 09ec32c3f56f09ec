"""Converts a step's parameters to transformers' TrainingArguments."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import TrainingArguments
from transformers.utils import is_liger_kernel_available

from pyrust_nn.training.optimizers import OPTIMIZERS
from pyrust_nn.training.session import TrainingSession


def training_arguments(
    params: SimpleNamespace, session: TrainingSession, device: torch.device, dtype: torch.dtype, *, eval_steps: int, saves: bool
) -> TrainingArguments:
    """Trainer's arguments: our parameters under its names; everything else that it would do is turned off."""
    scheduler = "constant_with_warmup" if params.scheduler == "constant" and params.warmup else params.scheduler
    folder = Path(session.step_folder)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints" if saves else folder),
        num_train_epochs=params.num_epochs,
        per_device_train_batch_size=params.batch_size * params.gradient_accumulation_steps,
        per_device_eval_batch_size=params.batch_size * params.gradient_accumulation_steps,
        optim=OPTIMIZERS[params.optimizer],
        learning_rate=params.learning_rate,
        lr_scheduler_type=scheduler,
        warmup_steps=params.warmup,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        seed=params.seed,
        neftune_noise_alpha=params.neftune_alpha,
        activation_checkpointing=params.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        # torch.compile makes such kernels itself, and fails on Liger's.
        use_liger_kernel=device.type == "cuda" and not params.compile and is_liger_kernel_available(),
        # Liger's fused loss would replace the output layer, as `TargetLoss` does.
        liger_kernel_config={"fused_linear_cross_entropy": False, "cross_entropy": False},
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        # Steps even for one evaluation per epoch: at an epoch's end Trainer would evaluate after saving the checkpoint, so a training
        # resumed from it would skip that evaluation.
        eval_strategy="steps" if eval_steps else "no",
        eval_steps=eval_steps or None,
        metric_for_best_model="eval_loss" if eval_steps else None,
        greater_is_better=False if eval_steps else None,
        save_strategy="steps" if saves else "no",
        save_steps=params.save_steps or 10**9,
        save_total_limit=params.save_total_limit or None,
        logging_steps=params.logging_steps,
        logging_nan_inf_filter=False,
        label_names=["labels"],
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    if device.type == "cuda" and device.index is not None:
        # Trainer uses the first GPU or all of them. It reads this cached property.
        arguments.__dict__["_setup_devices"] = device
        arguments._n_gpu = 1
        torch.cuda.set_device(device)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # nn.DataParallel would split inputs that are not tensors
    return arguments
