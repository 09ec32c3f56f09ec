"""Reports to TensorBoard, Weights & Biases and Trackio by transformers' callbacks, if `report_to` names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from pyrust_nn import InputError
from pyrust_nn._runtime.environment import environment_variables
from pyrust_nn.training.session import TrainingSession


@contextmanager
def report_callbacks(names: list[str], session: TrainingSession) -> Iterator[list[TrainerCallback]]:
    """A callback for each of `names` (tensorboard, wandb, trackio). The first two write to the step's folder.

    Raises InputError if its package is not installed.
    """
    with ExitStack() as stack:
        made: list[TrainerCallback] = []
        for name in names:
            try:
                if name == "tensorboard":
                    made.append(_tensorboard(session.step_folder))
                else:
                    made.append(stack.enter_context((_wandb if name == "wandb" else _trackio)(session)))
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


@contextmanager
def _trackio(session: TrainingSession) -> Iterator[TrainerCallback]:
    """A run `session/step` of the project pyrust-nn, where Trackio keeps its runs (TRACKIO_DIR), so that its dashboard shows all together.

    As with `_wandb`, the run ends with the training.
    """
    import trackio
    from transformers.integrations import TrackioCallback

    class SessionTrackioCallback(TrackioCallback):
        def setup(self, args: Any, *given: Any, **more: Any) -> None:
            args.project, args.run_name = "pyrust-nn", f"{session.step_folder.parent.name}/{session.step_folder.name.removesuffix('.new')}"
            super().setup(args, *given, **more)

    try:
        yield SessionTrackioCallback()
    finally:
        if trackio.context_vars.current_run.get() is not None:  # a training that failed has not ended it
            trackio.finish()
