"""What follows from evaluations: the best checkpoint, and the end of a training that no longer gains."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pyrust_nn import InputError


def check_evaluation(params: SimpleNamespace) -> None:
    """Raise InputError for parameters that need an evaluation where there is none, or name two."""
    if params.eval_dataset_path and params.eval_split:
        raise InputError("eval_dataset_path and eval_split both say what to evaluate on; give one of them")
    if params.eval_dataset_path or params.eval_split:
        return
    for name in ("eval_steps", "early_stopping_patience", "load_best_model_at_end"):
        if getattr(params, name):
            raise InputError(f"{name} needs something to evaluate on; set eval_dataset_path or eval_split")


def set_evaluating(model: torch.nn.Module) -> None:
    """`model.eval()`, but for what bitsandbytes would pack for inference on a CPU then, and has no dropout."""
    for module in model.modules():
        module.training = type(module).__name__ == "Linear4bit"


class EvaluationCallback(TrainerCallback):
    """Has the trainer save at every best evaluation, and stop after `patience` evaluations in a row without a lower loss (0: never).

    `without_gain` counts those in a row; it is kept in checkpoints. Trainer sets `state.best_metric` after this callback.
    """

    def __init__(self, *, patience: int, saves: bool) -> None:
        """`saves`: the training writes checkpoints."""
        self.patience, self.saves = patience, saves
        self.without_gain = 0

    @property
    def exhausted(self) -> bool:
        """Whether the training is to end."""
        return 0 < self.patience <= self.without_gain

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Log before an evaluation that may be the last."""
        control.should_log |= bool(self.patience) and control.should_evaluate
        return control

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Compare with the best so far."""
        best = math.inf if state.best_metric is None else state.best_metric
        better = kwargs["metrics"]["eval_loss"] < best
        self.without_gain = 0 if better else self.without_gain + 1
        control.should_training_stop |= self.exhausted
        control.should_save |= self.saves and (better or self.exhausted)
        return control
