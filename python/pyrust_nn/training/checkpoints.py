"""Complete checkpoints, from which a training resumes exactly, and which old ones are deleted.

Trainer saves weights, optimizer, scheduler, gradient scaler, its own state, and the random states of Python, NumPy, torch
and CUDA. Beside them are `resume.json` (see `resuming`), `begun.json` (parameters and hashes of data and model) and
`manifest.json` (every file with its hash). Rust writes the last two, and chooses and verifies the checkpoint of a resumed
step.

Trainer accepts an incomplete folder as a checkpoint. A checkpoint is therefore written under a temporary name and
renamed when it is complete.
"""

from __future__ import annotations

import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyrust_nn import InputError
from pyrust_nn._runtime.imports import lazy_datasets
from pyrust_nn.files import removed_on_failure, replace_symlink, write_json
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.saving import save_model

with lazy_datasets():
    from transformers import Trainer

if TYPE_CHECKING:
    from pyrust_nn.models.tokenizers import AnyTokenizer
    from pyrust_nn.training.callbacks import TrainingMeter
    from pyrust_nn.training.evaluation import EvaluationCallback
    from pyrust_nn.training.session import TrainingSession

logger = logging.getLogger(__name__)

RESUME_FILE = "resume.json"
NUMERIC_PACKAGES = ("torch", "transformers", "peft", "accelerate")


class CheckpointTrainer(Trainer):
    """transformers' Trainer with complete checkpoints, from which training resumes bit for bit."""

    tokenizer: AnyTokenizer
    meter: TrainingMeter
    session: TrainingSession
    evaluation: EvaluationCallback
    use_cache: bool

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.model.config.use_cache = self.use_cache
        save_model(self.model, self.tokenizer, Path(output_dir or self.args.output_dir))
        self.model.config.use_cache = self.args.use_cache

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # Trainer would accept a half-written folder as a checkpoint, so a folder gets its name when it is complete.
        folder, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        partial = folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.args.output_dir = str(partial)
        with removed_on_failure(partial, folder / name):
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(folder)
            self.state.best_model_checkpoint = None  # Trainer set it to a path in the temporary folder
            self.state.save_to_json(str(partial / name / "trainer_state.json"))
            write_json(partial / name / RESUME_FILE, self._extra_state())
            self.session.publish_checkpoint(partial / name, folder / name)
        partial.rmdir()
        prune_checkpoints(folder, best=self.state.best_global_step, every=self.args.save_steps, limit=self.args.save_total_limit)

    def load_best(self) -> None:
        """Load the weights of the lowest evaluation loss."""
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            self._load_from_checkpoint(str(best))
        else:
            logger.warning("the best checkpoint %s is missing; the last weights are saved instead", best)

    def last_checkpoint(self) -> Path | None:
        """The newest one; all its weights are finite."""
        numbers = saved_steps(Path(self.args.output_dir))
        return Path(self.args.output_dir) / f"checkpoint-{numbers[-1]}" if numbers else None

    def _extra_state(self) -> dict[str, Any]:
        return {
            "device": str(self.args.device),
            "mixed_precision": self.args.mixed_precision,
            "threads": torch.get_num_threads(),
            "packages": {name: version(name) for name in NUMERIC_PACKAGES},
            "loss_since_logged": self._tr_loss.item(),
            "loss_logged": self._total_loss_scalar,
            "logged_at": self._globalstep_last_logged,
            "first_loss": self.meter.first_loss,
            "last_loss": self.meter.last_loss,
            "evaluations_without_gain": self.evaluation.without_improvement,
        }

    def restore_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what Trainer does not. Call it when Trainer has set its own counters and has made no step."""
        self._tr_loss += state["loss_since_logged"]
        self._total_loss_scalar = state["loss_logged"]
        self._globalstep_last_logged = state["logged_at"]
        self._initial_global_step = 0  # train_loss is the mean of all steps, not only of those since the checkpoint
        self.meter.first_loss, self.meter.last_loss = state["first_loss"], state["last_loss"]
        self.evaluation.without_improvement = state["evaluations_without_gain"]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Trainer's version skips, with a warning, weights whose names in files differ from those in memory (experts).
        if hasattr(self.model, "peft_config"):
            load_adapter(self.model, Path(resume_from_checkpoint))
        else:
            loaded = load_model(resume_from_checkpoint, device=torch.device("cpu"), dtype=self.model.dtype)
            self.model.load_state_dict(loaded.state_dict())

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Trainer checks whether it is done only after a step, so resuming from the last step would add one more.
        if self.state.global_step >= self.state.max_steps or self.evaluation.patience_exhausted:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)


def saved_steps(folder: Path) -> list[int]:
    """The training steps whose checkpoints are in a folder, in ascending order."""
    numbers = (path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def prune_checkpoints(folder: Path, *, best: int | None, every: int, limit: int | None) -> None:
    """Link the best checkpoint as `best` and remove obsolete ones.

    The best and the newest are kept. Of the others, those whose step is not a multiple of `every` are removed (they were
    the best or the newest once), then the oldest until `limit` are left.
    """
    steps = saved_steps(folder)
    kept = {steps[-1]} | ({best} if best in steps else set())
    if best in kept:
        if (folder / "best").is_dir() and not (folder / "best").is_symlink():
            shutil.rmtree(folder / "best")  # the session was copied, and the copy followed the link
        replace_symlink(folder / "best", f"checkpoint-{best}")
    others = [step for step in steps if step not in kept]
    removed = [step for step in others if step % every]
    regular = [step for step in others if not step % every]
    if limit:
        removed += regular[: max(0, len(regular) - max(0, limit - len(kept)))]
    for step in removed:
        shutil.rmtree(folder / f"checkpoint-{step}")


def load_adapter(model: Any, folder: Path) -> None:
    """Load a saved adapter's weights into the active adapter of a PeftModel. Raises InputError unless all tensors match."""
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    name = model.active_adapter
    weights = load_peft_weights(str(folder), device="cpu")
    known = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if weights.keys() != known.keys():
        differing = ", ".join(sorted(weights.keys() ^ known.keys())[:3])
        raise InputError(f"{folder} does not match the model: {differing} are missing or unexpected; restart the step with overwrite")
    set_peft_model_state_dict(model, weights, adapter_name=name)
