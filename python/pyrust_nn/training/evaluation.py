"""Evaluations during training: the best checkpoint, and early stopping."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from pyrust_nn.training.arguments import LoopArguments
from pyrust_nn.wording import counted

logger = logging.getLogger(__name__)


def set_eval_mode(model: torch.nn.Module) -> None:
    """`model.eval()`, except for bitsandbytes' Linear4bit, which has no dropout and would repack its weights for CPU inference."""
    for module in model.modules():
        module.training = type(module).__name__ == "Linear4bit"


class EvaluationCallback(TrainerCallback):
    """Saves at every best evaluation, and stops after `patience` evaluations in a row without a lower loss (0: never).

    `without_improvement` counts those evaluations; checkpoints save it. The loop sets `state.best_metric` after this callback.
    """

    def __init__(self, *, patience: int, saves: bool) -> None:
        """saves: whether the training writes checkpoints."""
        self.patience, self.saves = patience, saves
        self.without_improvement = 0

    @property
    def patience_exhausted(self) -> bool:
        """Whether the training must stop."""
        return 0 < self.patience <= self.without_improvement

    def on_step_end(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Log before an evaluation that may end the training."""
        control.should_log |= bool(self.patience) and control.should_evaluate
        return control

    def on_evaluate(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Compare the loss with the best so far."""
        best = math.inf if state.best_metric is None else state.best_metric
        better = kwargs["metrics"]["eval_loss"] < best
        self.without_improvement = 0 if better else self.without_improvement + 1
        control.should_training_stop |= self.patience_exhausted
        control.should_save |= self.saves and (better or self.patience_exhausted)
        if self.patience_exhausted and state.global_step < state.max_steps:
            logger.info(
                "stopped early at step %d of %d: no lower evaluation loss than %.4f in %s (early_stopping_patience)",
                state.global_step,
                state.max_steps,
                best,
                counted(self.without_improvement, "evaluation"),
            )
        return control
