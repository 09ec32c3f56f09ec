"""Reports to TensorBoard and Weights & Biases by transformers' callbacks, if `report_to` names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from transformers import TrainerCallback

from pyrust_nn import InputError
from pyrust_nn._runtime.environment import environment_variables
from pyrust_nn.training.session import TrainingSession


@contextmanager
def report_callbacks(names: list[str], session: TrainingSession) -> Iterator[list[TrainerCallback]]:
    """A callback for each of `names` (tensorboard, wandb), which write to the step's folder.

    Raises InputError if its package is not installed.
    """
    with ExitStack() as stack:
        made: list[TrainerCallback] = []
        for name in names:
            try:
                made.append(_tensorboard(session.step_folder) if name == "tensorboard" else stack.enter_context(_wandb(session)))
            except (ImportError, RuntimeError) as cause:
                fix = f"install it into this Python environment (pip install {name})"
                raise InputError(f"report_to: {name} is not installed; {fix}") from cause
        yield made


def _tensorboard(folder: Path) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder / "tensorboard")))


@contextmanager
def _wandb(session: TrainingSession) -> Iterator[TrainerCallback]:
    """The run ends with the training, even on an error: its file is complete then, and the next step has its own run."""
    import wandb
    from transformers.integrations import WandbCallback

    values = {"WANDB_DIR": os.environ.get("WANDB_DIR", str(session.step_folder))}
    if session.offline:
        values["WANDB_MODE"] = "offline"
    with environment_variables(values):
        try:
            yield WandbCallback()
        finally:
            wandb.finish()
