"""Checkpoints from which a training goes on exactly: what they hold, how they are written and taken up again.

Trainer keeps weights, optimizer, scheduler, gradient scaler, its own state and the random states of Python, NumPy, torch
and CUDA. Beside them stand `resume.json` (what Trainer forgets: the number of threads, which decides how sums are
rounded, the losses since the last line of metrics.jsonl), `begun.json` (parameters and hashes of data and model) and
`manifest.json` (every file with its hash), both written by Rust, which also picks and verifies the checkpoint of a
resumed step.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pyrust_nn import InputError, _core
from pyrust_nn._imports import datasets_later
from pyrust_nn.models import load_model
from pyrust_nn.saving import save_model

with datasets_later():
    from transformers import Trainer

if TYPE_CHECKING:
    from pyrust_nn.callbacks import Session, TrainingMeter
    from pyrust_nn.evaluation import EvaluationCallback
    from pyrust_nn.saving import AnyTokenizer

logger = logging.getLogger(__name__)

STATE = "resume.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate")


class CheckpointTrainer(Trainer):
    """transformers' Trainer with whole checkpoints, taken up again to the last bit."""

    tokenizer: AnyTokenizer
    meter: TrainingMeter
    session: Session
    evaluation: EvaluationCallback
    use_cache: bool

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.model.config.use_cache = self.use_cache
        save_model(self.model, self.tokenizer, Path(output_dir or self.args.output_dir))
        self.model.config.use_cache = self.args.use_cache

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # Trainer takes a half-written folder for a checkpoint, so one gets its name only when it is whole.
        folder, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        partial = folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.args.output_dir = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(folder)
        self.state.best_model_checkpoint = None  # Trainer took the passing place for the best one's
        self.state.save_to_json(str(partial / name / "trainer_state.json"))
        (partial / name / STATE).write_text(json.dumps(self._what_trainer_forgets(), indent=2) + "\n", encoding="utf-8")
        self.session.publish_checkpoint(partial / name, folder / name)
        partial.rmdir()
        retain(folder, best=self.state.best_global_step, every=self.args.save_steps, limit=self.args.save_total_limit)

    def load_best(self) -> None:
        """Take the weights of the lowest evaluation loss back."""
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            self._load_from_checkpoint(str(best))
        else:
            logger.warning("%s, the best, is gone; the last weights are saved", best)

    def last_checkpoint(self) -> Path | None:
        """The newest one, whose weights are numbers."""
        numbers = saved_steps(Path(self.args.output_dir))
        return Path(self.args.output_dir) / f"checkpoint-{numbers[-1]}" if numbers else None

    def _what_trainer_forgets(self) -> dict[str, Any]:
        return {
            "device": str(self.args.device),
            "mixed_precision": self.args.mixed_precision,
            "threads": torch.get_num_threads(),
            "packages": {name: version(name) for name in PACKAGES},
            "loss_since_logged": self._tr_loss.item(),
            "loss_logged": self._total_loss_scalar,
            "logged_at": self._globalstep_last_logged,
            "first_loss": self.meter.first_loss,
            "last_loss": self.meter.last_loss,
            "evaluations_without_gain": self.evaluation.without_gain,
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """Set what Trainer forgets. Called when its own counters are set and no step was made."""
        self._tr_loss += state["loss_since_logged"]
        self._total_loss_scalar = state["loss_logged"]
        self._globalstep_last_logged = state["logged_at"]
        self._initial_global_step = 0  # train_loss is the mean of all steps, not of those since
        self.meter.first_loss, self.meter.last_loss = state["first_loss"], state["last_loss"]
        self.evaluation.without_gain = state["evaluations_without_gain"]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Trainer's own leaves out, with a warning, weights that have other names in files than in memory (experts).
        if hasattr(self.model, "peft_config"):
            load_adapter(self.model, Path(resume_from_checkpoint))
        else:
            loaded = load_model(resume_from_checkpoint, device=torch.device("cpu"), dtype=self.model.dtype)
            self.model.load_state_dict(loaded.state_dict())

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Trainer asks whether it is done only after a step: the checkpoint of a last step would get one more.
        if self.state.global_step >= self.state.max_steps or self.evaluation.exhausted:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)


def saved_steps(folder: Path) -> list[int]:
    """The training steps of which a folder has checkpoints, in order."""
    numbers = (path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def retain(folder: Path, *, best: int | None, every: int, limit: int | None) -> None:
    """Link the best checkpoint as `best` and remove what is kept no longer.

    The best and the newest stay. Of the others go those that were saved for another reason than `every` (they were the
    best or the newest once), and the oldest until `limit` are left.
    """
    steps = saved_steps(folder)
    kept = {steps[-1]} | ({best} if best in steps else set())
    if best in kept:
        if (folder / "best").is_dir() and not (folder / "best").is_symlink():
            shutil.rmtree(folder / "best")  # a copy of the session that followed the link
        link = folder / ".best.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(f"checkpoint-{best}")
        os.replace(link, folder / "best")
    others = [step for step in steps if step not in kept]
    going = [step for step in others if step % every]
    regular = [step for step in others if not step % every]
    if limit:
        going += regular[: max(0, len(regular) - max(0, limit - len(kept)))]
    for step in going:
        shutil.rmtree(folder / f"checkpoint-{step}")


def load_adapter(model: Any, folder: Path) -> None:
    """Put a saved adapter's weights into the active adapter of a PeftModel; all of them must be there."""
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    name = model.active_adapter
    weights = load_peft_weights(str(folder), device="cpu")
    known = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if weights.keys() != known.keys():
        differing = ", ".join(sorted(weights.keys() ^ known.keys())[:3])
        raise InputError(f"{folder} does not fit the model: it lacks, or has besides, {differing}; run the step anew with overwrite")
    set_peft_model_state_dict(model, weights, adapter_name=name)


class StopCallback(TrainerCallback):
    """Ends the training after the running step with a checkpoint, once a signal asked for it."""

    def __init__(self) -> None:
        """Nothing was asked."""
        self.asked: str | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Have the trainer save and stop."""
        if self.asked:
            control.should_save = control.should_training_stop = True
        return control

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """The same after an evaluation, which is part of its step."""
        return self.on_step_end(args, state, control)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C (and SIGTERM, where the process is ours) for a wish to stop; the second one ends the training at once.

        Raises KeyboardInterrupt at the end if there was a wish. Elsewhere than in the main thread signals stay as they are.
        """
        numbers = [signal.SIGINT, signal.SIGTERM] if _core.EMBEDDED else [signal.SIGINT]
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.asked:
            raise KeyboardInterrupt(self.asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.asked:
            raise KeyboardInterrupt(name)
        self.asked = name
        logger.warning("%s: the running training step is finished and saved first; once more ends it at once", name)


class _TakeUp(TrainerCallback):
    """Gives the trainer back what it forgets, at the one moment when it may be set."""

    def __init__(self, trainer: CheckpointTrainer, state: dict[str, Any]) -> None:
        self.trainer, self.state = trainer, state

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.take_up(self.state)


@contextmanager
def taken_up(trainer: CheckpointTrainer, checkpoint: Path | None, step_folder: Path) -> Iterator[None]:
    """For the time of `trainer.train(resume_from_checkpoint=checkpoint)`: all that makes it go on exactly. Nothing without one."""
    if checkpoint is None:
        yield
        return
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if state["mixed_precision"] != trainer.args.mixed_precision:
        theirs, ours = (name.replace("no", "fp32") for name in (state["mixed_precision"], trainer.args.mixed_precision))
        raise InputError(f"{checkpoint.name} was trained in {theirs}, and this device computes in {ours}; resume it on one like the first")
    now = {name: version(name) for name in PACKAGES}
    if differing := [f"{name} {state['packages'][name]} is now {now[name]}" for name in PACKAGES if state["packages"][name] != now[name]]:
        logger.warning("%s: the training goes on, but perhaps not to the last bit", ", ".join(differing))
    cut_metrics(step_folder / "metrics.jsonl", int(checkpoint.name.rpartition("-")[2]))
    trainer.add_callback(_TakeUp(trainer, state))
    threads = torch.get_num_threads()
    torch.set_num_threads(state["threads"])
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cut_metrics(path: Path, step: int) -> None:
    """Leave in metrics.jsonl what was written up to a training step: later lines will come again, a torn one was never whole."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("step", math.inf) <= step:
            kept.append(line + "\n")
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text("".join(kept), encoding="utf-8")
    os.replace(beside, path)
