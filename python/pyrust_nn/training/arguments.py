"""The settings of a training loop, as callbacks receive them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pyrust_nn.models.devices import dtype_name
from pyrust_nn.training.session import TrainingSession


@dataclass(frozen=True)
class LoopArguments:
    """What callbacks receive as `args`: the fields of transformers' TrainingArguments that mean something here.

    A training step is `per_device_train_batch_size` x `gradient_accumulation_steps` rows. `eval_strategy` and
    `save_strategy` are `steps` or `no`; `eval_steps` is 0 with `no`. `lr_scheduler_type` is a name of
    transformers' `get_scheduler`, `mixed_precision` is `no`, `bf16` or `fp16`.
    """

    output_dir: str
    num_train_epochs: float
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    optim: str
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    max_grad_norm: float
    neftune_noise_alpha: float | None
    seed: int
    mixed_precision: str
    logging_steps: int
    eval_strategy: str
    eval_steps: int
    save_strategy: str
    save_steps: int
    save_total_limit: int | None
    metric_for_best_model: str | None
    logging_strategy: str = "steps"
    greater_is_better: bool = False
    load_best_model_at_end: bool = False

    @property
    def rows_per_step(self) -> int:
        """The number of rows of a training step; the last step of an epoch has the rest."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def warmup(self, steps: int) -> int:
        """The number of warm-up steps in a training of `steps`."""
        return warmup_steps(self.warmup_steps, steps)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as values of JSON."""
        return asdict(self)

    def to_json_string(self) -> str:
        """The same as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)


def loop_arguments(params: SimpleNamespace, session: TrainingSession, dtype: torch.dtype, *, eval_steps: int, saves: bool) -> LoopArguments:
    """Take a step's parameters. `eval_steps`: 0 does not evaluate. `saves`: whether the training writes checkpoints."""
    return LoopArguments(
        output_dir=str(Path(session.step_folder) / "checkpoints"),
        num_train_epochs=params.num_epochs,
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.gradient_accumulation_steps,
        optim=params.optimizer,
        learning_rate=params.learning_rate,
        lr_scheduler_type="constant_with_warmup" if params.scheduler == "constant" and params.warmup else params.scheduler,
        warmup_steps=params.warmup,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        neftune_noise_alpha=params.neftune_alpha,
        seed=params.seed,
        mixed_precision="no" if dtype == torch.float32 else dtype_name(dtype),
        logging_steps=params.logging_steps,
        # Steps even for one evaluation per epoch: it belongs to the epoch's last step, and precedes that step's checkpoint.
        eval_strategy="steps" if eval_steps else "no",
        eval_steps=eval_steps,
        save_strategy="steps" if saves else "no",
        # If 0, only the best, the last and those that a signal asks for are saved.
        save_steps=params.save_steps or 10**9,
        save_total_limit=params.save_total_limit or None,
        metric_for_best_model="eval_loss" if eval_steps else None,
    )


def warmup_steps(warmup: float, steps: int) -> int:
    """The number of warm-up steps in a training of `steps`: `warmup` itself, or below 1 that fraction of them."""
    return int(warmup) if warmup >= 1 else math.ceil(steps * warmup)
