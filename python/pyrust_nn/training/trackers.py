"""Reports to TensorBoard, Weights & Biases and Trackio, if `report_to` names them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from pyrust_nn import InputError
from pyrust_nn._runtime.environment import environment_variables
from pyrust_nn.training.arguments import LoopArguments
from pyrust_nn.training.session import TrainingSession

logger = logging.getLogger(__name__)

FINAL = "train_"
"""Beginning of the names of what is logged once, at the end of a training."""


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
                    made.append(TensorBoardCallback(session.step_folder))
                else:
                    made.append(stack.enter_context((_wandb if name == "wandb" else _trackio)(session)))
            except (ImportError, RuntimeError) as cause:
                fix = f"install it into this Python environment (pip install {name})"
                raise InputError(f"report_to: {name} is not installed; {fix}") from cause
        yield made


class TensorBoardCallback(TrainerCallback):
    """Writes all numbers that are logged, and the settings, to the step's folder `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the step's."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def on_train_begin(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the settings."""
        self.writer.add_text("args", args.to_json_string())
        self.writer.add_text("model_config", kwargs["model"].config.to_json_string())

    def on_log(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the numbers."""
        for name, value in tagged(kwargs["logs"]).items():
            self.writer.add_scalar(name, value, state.global_step)
        self.writer.flush()

    def on_train_end(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the file."""
        self.writer.close()


class WandbCallback(TrainerCallback):
    """Logs to a run of Weights & Biases: the one that is open, else a new one.

    The environment variables of transformers' callback apply: WANDB_PROJECT (`huggingface` if unset), WANDB_WATCH (`gradients`,
    `parameters`, `all`), WANDB_LOG_MODEL (`checkpoint`: each checkpoint is uploaded; `end` is not supported).
    """

    def __init__(self) -> None:
        """The run begins with the training."""
        import wandb

        self.wandb = wandb
        self.uploads = os.environ.get("WANDB_LOG_MODEL", "false").lower()
        if self.uploads == "end":
            logger.warning("WANDB_LOG_MODEL=end uploads nothing here; set it to checkpoint, or upload the step's folder afterwards")

    def on_train_begin(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin the run and write the settings."""
        model = kwargs["model"]
        if self.wandb.run is None:
            self.wandb.init(project=os.environ.get("WANDB_PROJECT", "huggingface"))
        self.wandb.config.update(run_config(model, args), allow_val_change=True)
        self.wandb.define_metric("train/global_step")
        self.wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
        watched = os.environ.get("WANDB_WATCH", "false")
        if watched in ("all", "parameters", "gradients"):
            self.wandb.watch(model, log=watched, log_freq=max(100, args.logging_steps))

    def on_log(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the numbers."""
        logs: dict[str, float] = kwargs["logs"]
        for name, value in logs.items():
            if name.startswith(FINAL):
                self.wandb.run.summary[name] = value
        steps = {name: value for name, value in logs.items() if not name.startswith(FINAL)}
        self.wandb.log(tagged(steps) | {"train/global_step": state.global_step})

    def on_save(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Upload the checkpoint if that is asked for."""
        if self.uploads == "checkpoint":
            artifact = self.wandb.Artifact(name=f"model-{self.wandb.run.id}", type="model")
            artifact.add_dir(str(Path(args.output_dir) / f"checkpoint-{state.global_step}"))
            aliases = [f"epoch_{round(state.epoch, 2)}", f"checkpoint_global_step_{state.global_step}"]
            self.wandb.log_artifact(artifact, aliases=aliases)


class TrackioCallback(TrainerCallback):
    """Logs to a new run of Trackio: `session/step` of the project pyrust-nn, so that its dashboard shows all together."""

    def __init__(self, run: str) -> None:
        """`run`: its name."""
        import trackio

        self.trackio, self.run = trackio, run

    def on_train_begin(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin the run."""
        public = {
            name: value for name, value in run_config(kwargs["model"], args).items() if not name.startswith("_")
        }  # others are its own
        self.trackio.init(project="pyrust-nn", name=self.run, config=public, resume="allow")

    def on_log(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the numbers."""
        self.trackio.log(tagged(kwargs["logs"]) | {"train/global_step": state.global_step})


@contextmanager
def _wandb(session: TrainingSession) -> Iterator[TrainerCallback]:
    """The run ends with the training, even on an error: its file is complete then, and the next step has its own run."""
    import wandb

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
    """As with `_wandb`, the run ends with the training. Trackio keeps its runs in a folder of its own (TRACKIO_DIR)."""
    import trackio

    try:
        yield TrackioCallback(f"{session.step_folder.parent.name}/{session.step_folder.name.removesuffix('.new')}")
    finally:
        if trackio.context_vars.current_run.get() is not None:
            trackio.finish()


def run_config(model: Any, args: LoopArguments) -> dict[str, Any]:
    """What is noted of a run: the model's and the adapter's configuration, and the settings."""
    adapter = {"peft_config": {name: one.to_dict() for name, one in model.peft_config.items()}} if hasattr(model, "peft_config") else {}
    known = {"model/num_parameters": sum(parameter.numel() for parameter in model.parameters())}
    return adapter | model.config.to_dict() | args.to_dict() | known


def tagged(logs: dict[str, float]) -> dict[str, float]:
    """The names as both show them in groups: `train/loss`, `eval/loss`."""
    return {f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": value for name, value in logs.items()}
