"""Reports to programs that show curves, by transformers' own callbacks; none unless `report_to` names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from transformers import TrainerCallback

from pyrust_nn import InputError
from pyrust_nn._host import variables
from pyrust_nn.callbacks import Session


@contextmanager
def reporters(names: list[str], session: Session) -> Iterator[list[TrainerCallback]]:
    """A callback for each of `names` (tensorboard, wandb); what they write goes to the step's folder.

    Raises InputError for one whose package is not installed.
    """
    with ExitStack() as open_ones:
        made: list[TrainerCallback] = []
        for name in names:
            try:
                made.append(_tensorboard(session.step_folder) if name == "tensorboard" else open_ones.enter_context(_wandb(session)))
            except (ImportError, RuntimeError) as cause:
                cure = f"install it into this Python environment (pip install {name})"
                raise InputError(f"report_to: {name} is not installed; {cure}") from cause
        yield made


def _tensorboard(folder: Path) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder / "tensorboard")))


@contextmanager
def _wandb(session: Session) -> Iterator[TrainerCallback]:
    """Its run ends with the training, however that ends: what was logged is in its file then, and the next step has a run of its own."""
    import wandb
    from transformers.integrations import WandbCallback

    values = {"WANDB_DIR": os.environ.get("WANDB_DIR", str(session.step_folder))}
    if session.offline:
        values["WANDB_MODE"] = "offline"
    with variables(values):
        try:
            yield WandbCallback()
        finally:
            wandb.finish()
