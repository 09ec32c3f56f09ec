"""Reports to programs that show curves, by transformers' own callbacks; none unless `report_to` names one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from pyrust_nn import InputError
from pyrust_nn.callbacks import Session


def reporters(names: list[str], session: Session) -> list[TrainerCallback]:
    """A callback for each of `names` (tensorboard, wandb); what they write goes to the step's folder.

    Raises InputError for one whose package is not installed.
    """
    made: list[TrainerCallback] = []
    for name in names:
        try:
            made.append(_tensorboard(session.step_folder) if name == "tensorboard" else _wandb(session.step_folder, session.offline))
        except (ImportError, RuntimeError) as cause:
            raise InputError(f"report_to: {name} is not installed; install it into this Python environment (pip install {name})") from cause
    return made


def _tensorboard(folder: Path) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder / "tensorboard")))


def _wandb(folder: Path, offline: bool) -> TrainerCallback:
    from transformers.integrations import WandbCallback

    class FinishedWandbCallback(WandbCallback):
        """Ends its run with the training: what was logged is in its file then, and the next step of the process has a run of its own."""

        def on_train_end(self, *given: Any, **more: Any) -> None:
            """Called by Trainer."""
            super().on_train_end(*given, **more)
            self._wandb.finish()
            if not users_own:
                del os.environ["WANDB_DIR"]

    users_own = "WANDB_DIR" in os.environ
    os.environ.setdefault("WANDB_DIR", str(folder))
    if offline:
        os.environ["WANDB_MODE"] = "offline"
    return FinishedWandbCallback()
